"""Proof that no candidate meets the limits, which of them binds, and what would do.

All that is said here holds under the prices: costs as tables and edges say, losses added up.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from autocompress.errors import InfeasibleError, UndecidedError
from autocompress.search.integer import closest, reachable, value_of
from autocompress.search.problem import LOSS, Problem, Tables, excess


@dataclass(frozen=True)
class Infeasibility:
    """Why no candidate meets the limits.

    Args:
        limits: The finite limits that were asked for, by name of a resource, or `loss`.
        least: The limits that bind, with the least values that would do: the one whose relaxation
            alone is enough (by the smallest share, where several are), or else a smallest set
            that is enough together.  All other limits are kept.
        instead: Other limits whose relaxation alone is enough as well, with the least value of
            each.
    """

    limits: Mapping[str, float]
    least: Mapping[str, float]
    instead: Mapping[str, float] = field(default_factory=dict)

    @property
    def binding(self) -> tuple[str, ...]:
        """Names of the limits that bind."""
        return tuple(self.least)

    def __str__(self) -> str:
        named = [name for name in self.limits if name in self.least or name in self.instead]
        asked = " and ".join(f"{name} <= {self.limits[name]:.6g}" for name in named)
        kept = " with the other limits kept" if len(named) < len(self.limits) else ""
        head = f"{asked} cannot be met{kept} (proven under the prices)"
        if len(named) == 1:
            return f"{head}: the least that would do is {self.least[named[0]]:.6g}"
        would_do = " together with ".join(f"{n} <= {value:.6g}" for n, value in self.least.items())
        instead = "".join(f", or {name} <= {value:.6g}" for name, value in self.instead.items())
        binds = f"{' and '.join(self.least)} {'binds' if len(self.least) == 1 else 'bind'}"
        return f"{head}: {binds}; the least that would do is {would_do}{instead}"


def prove(
    problem: Problem, loss: Tables, limits: Mapping[str, float] | None = None
) -> Infeasibility | None:
    """Explains why no candidate meets the limits; None if one does.

    Args:
        problem: Costs, labels and menus.
        loss: For each unit the loss `(options,)`, added up; infinite forbids the option.
        limits: Largest allowed values; the problem's own when None.

    Raises:
        UndecidedError: If the solver gives up on the proof.
    """
    limits = problem.limits if limits is None else limits
    finite = {name: limit for name, limit in limits.items() if np.isfinite(limit)}
    if _least(problem, loss, LOSS, finite) is not None:
        return None
    alone = {}
    for name in finite:
        value = _least(problem, loss, name, _without(finite, (name,)))
        if value is not None:
            alone[name] = value
    if alone:
        binding = min(alone, key=lambda name: excess(alone[name], finite[name]))
        return Infeasibility(finite, {binding: alone.pop(binding)}, alone)
    for size in range(2, len(finite) + 1):
        found = [
            values
            for names in itertools.combinations(finite, size)
            if (values := _together(problem, loss, finite, names)) is not None
        ]
        if found:
            return Infeasibility(finite, min(found, key=lambda values: _missed(values, finite)))
    raise AssertionError("every candidate keeps some finite limits")


def aim(problem: Problem, loss: Tables, soft: Mapping[str, float]) -> dict[str, float]:
    """The problem's limits and the soft ones, each of these as tight as it can be kept.

    A soft limit that cannot be kept, given the hard ones and the soft ones before it, becomes the
    least value that can.  Where the hard ones cannot be met, soft ones are left out.

    Args:
        problem: Costs, labels, menus and the hard limits.
        loss: For each unit the loss `(options,)`, added up.
        soft: Values aimed at by name, most important first.
    """
    limits = dict(problem.limits)
    for name, limit in soft.items():
        least = _least(problem, loss, name, limits)
        if least is None:
            return dict(problem.limits)
        limits[name] = max(limit, least)
    return limits


def _least(problem: Problem, loss: Tables, name: str, limits: Mapping[str, float]) -> float | None:
    """Smallest value of a resource (or the loss) within other limits; None if nothing is."""
    try:
        return reachable(problem, loss, name, limits)
    except UndecidedError:
        raise
    except InfeasibleError:
        return None


def _together(
    problem: Problem, loss: Tables, limits: Mapping[str, float], names: tuple[str, ...]
) -> dict[str, float] | None:
    """Values of some limits that would do with the others kept, missed by the smallest sum of
    shares; None if the others cannot be kept."""
    try:
        asked = {name: limits[name] for name in names}
        near = closest(problem, loss, asked, _without(limits, names))
    except UndecidedError:
        raise
    except InfeasibleError:
        return None
    return {name: value_of(problem, loss, name, near) for name in names}


def _missed(values: Mapping[str, float], limits: Mapping[str, float]) -> float:
    return sum(max(0.0, excess(value, limits[name])) for name, value in values.items())


def _without(limits: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    return {name: limit for name, limit in limits.items() if name not in names}
