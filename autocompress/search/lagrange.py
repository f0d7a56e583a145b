"""Lagrangian sweep: candidates for every budget at once, several resources, in a few milliseconds.

For fixed prices of the resources each unit chooses alone.  A grid of prices gives the convex hull
of the front; switches of one or two units close most of what is left to the exact solution.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, additive, descend
from autocompress.search.problem import LOSS, Candidate, Integers, Problem, Tables

_GRID = {1: 400, 2: 32, 3: 10}


def sweep(problem: Problem, loss: Tables, names: Sequence[str]) -> Integers:
    """Candidates `(n, units)`, with repeats, that are best for some prices of the named resources.

    Conversions and joint costs are left out of the choice (not out of costs computed later); for
    that the sweep runs once with all options and once per label alone.
    """
    if not names:
        free = [np.where(a, v, np.inf) for v, a in zip(loss, problem.allowed, strict=True)]
        return np.array([[int(np.argmin(values)) for values in free]])
    points = _GRID.get(len(names), 6)
    scales = [_scale(problem, loss, name) for name in names]
    axis = np.concatenate([[0.0], np.geomspace(1e-6, 1e3, points - 1)])
    prices = np.array(list(itertools.product(axis, repeat=len(names)))) * np.array(scales)
    additive = all(problem.is_additive(name) for name in names)
    chosen = [_choose(problem, loss, names, prices, None)]
    chosen += [_choose(problem, loss, names, prices, label) for label in (0, 1) if not additive]
    return np.concatenate(chosen)


def _scale(problem: Problem, loss: Tables, name: str) -> float:
    ranges = [
        (np.ptp(values[allowed]), np.ptp(costs[allowed]))
        for values, costs, allowed in zip(
            loss, problem.unit_costs(name), problem.allowed, strict=True
        )
    ]
    rise, saved = (float(sum(column)) for column in zip(*ranges, strict=True))
    return rise / saved if saved > 0 else 0.0


def _choose(
    problem: Problem, loss: Tables, names: Sequence[str], prices: np.ndarray, label: int | None
) -> Integers:
    columns = []
    for unit, (values, allowed) in enumerate(zip(loss, problem.allowed, strict=True)):
        costs = np.stack([problem.unit_costs(name)[unit] for name in names])
        total = values + prices @ costs
        fits = allowed & (problem.label(unit) == label) if label is not None else allowed
        total[:, ~(fits if fits.any() else allowed)] = np.inf
        columns.append(np.argmin(total, axis=1))
    return np.stack(columns, axis=1)


def solve_nearly(
    problem: Problem,
    loss: Tables,
    limits: Mapping[str, float],
    swept: Integers | None = None,
    polish: bool = True,
) -> Candidate | None:
    """A candidate near the additive optimum within the limits, or None when the sweep finds none.

    Args:
        problem: Costs and menus.
        loss: Additive table `(options,)` per unit.
        limits: Largest allowed costs; a limit on the loss is not looked at.
        swept: Result of `sweep` to use again for other limits.
        polish: Whether switches close the gap that is left on the hull.
    """
    names = [name for name, limit in limits.items() if name != LOSS and np.isfinite(limit)]
    rows = sweep(problem, loss, names) if swept is None else swept
    rows = rows[problem.feasible(rows, limits)]
    if not len(rows):
        return None
    start = rows[int(np.argmin(additive(loss, rows)))]
    begin = tuple(int(k) for k in start)
    if not polish:
        return begin
    return descend(Neighbourhood(problem, loss), Landscape(loss), begin, limits)
