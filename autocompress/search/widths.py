"""Problems whose units share widths: one problem without ties for each choice of the widths.

Under fixed widths every unit chooses alone, as if there were no ties; so all that solves and
searches problems without ties serves here, too.  Which widths are worth it, the tables say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from autocompress.errors import InfeasibleError
from autocompress.search.integer import solve_integer
from autocompress.search.lagrange import solve_nearly
from autocompress.search.landscape import Landscape
from autocompress.search.moves import additive
from autocompress.search.problem import (
    LOSS,
    Candidate,
    Floats,
    Integers,
    Problem,
    Resource,
    Tables,
)

Widths: TypeAlias = tuple[int, ...]
EXACT = 1e-3  # gap of the integer programme that finds widths
POINTS = 4  # budgets along each cost of a front


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A problem under fixed widths.

    Args:
        widths: The level of each tie.
        problem: Without ties; its menus hold the options of these levels only.
        options: For each unit the numbers `(options,)` of its options in the whole problem.
    """

    widths: Widths
    problem: Problem
    options: tuple[Integers, ...]

    def widen(self, candidate: Candidate) -> Candidate:
        """The candidate in the whole problem."""
        return tuple(int(of[k]) for of, k in zip(self.options, candidate, strict=True))

    def narrow(self, candidate: Candidate) -> Candidate | None:
        """A candidate of the whole problem here; None if it has other widths."""
        places = [np.flatnonzero(of == k) for of, k in zip(self.options, candidate, strict=True)]
        return tuple(int(p[0]) for p in places) if all(map(len, places)) else None

    def columns(self, sizes: Sequence[int]) -> Integers:
        """Places `(options here,)` among all options of the whole problem."""
        starts = np.cumsum([0, *sizes[:-1]])
        return np.concatenate([s + of for s, of in zip(starts, self.options, strict=True)])


def widths_of(problem: Problem, candidate: Candidate) -> Widths:
    """The level of each tie in a candidate; that of the first unit where they differ."""
    return tuple(
        int(next(of[candidate[unit]] for unit, of in tie.levels.items())) for tie in problem.ties
    )


def narrowed(problem: Problem, widths: Widths) -> Narrowed | None:
    """The problem under fixed widths; None where a unit has no option left."""
    fits = [np.ones(size, dtype=np.bool_) for size in problem.sizes]
    for tie, level in zip(problem.ties, widths, strict=True):
        for unit, levels in tie.levels.items():
            fits[unit] &= levels == level
    if not all((fit & allowed).any() for fit, allowed in zip(fits, problem.allowed, strict=True)):
        return None
    options = tuple(np.flatnonzero(fit) for fit in fits)
    result = Narrowed(widths, problem, options)
    columns = result.columns(problem.sizes)
    rows = problem.alike[columns] if len(problem.alike) else columns

    def cut(table: Tables) -> tuple[Floats, ...]:
        return tuple(values[of] for values, of in zip(table, options, strict=True))

    own = replace(
        problem,
        losses={name: cut(table) for name, table in problem.losses.items()},
        resources={
            name: Resource(resource.constant, cut(resource.units), resource.edges)
            for name, resource in problem.resources.items()
        },
        labels=tuple(
            values[of] for values, of in zip(problem.labels, options, strict=bool(problem.labels))
        ),
        products={name: found[np.ix_(rows, rows)] for name, found in problem.products.items()},
        alike=np.zeros(0, dtype=np.int64),
        ties=(),
    )
    return replace(result, problem=own)


def promising(problem: Problem, table: Tables, most: int) -> list[Narrowed]:
    """The widths that the tables prefer, at most `most`: best first at each budget, then others.

    For each budget (or the limits) the exact solution gives widths; those that differ from them in
    one tie follow in the order of what the solver makes of them.  The full widths always come
    along where they can meet the limits.

    Args:
        problem: With ties.
        table: Additive loss `(options,)` per unit.
        most: Most widths.
    """
    budgets = _budgets(problem, table)
    found: dict[Widths, Narrowed] = {}
    for limits in budgets:
        try:
            best = solve_integer(problem, table, limits, problem.minimise, gap=EXACT)
        except InfeasibleError:
            continue
        _add(found, problem, widths_of(problem, best))
    full = tuple(0 for _ in problem.ties)
    if not found or _guess(narrowed(problem, full), table, budgets) < np.inf:
        _add(found, problem, full)
    if len(found) < most:
        others = {w for base in list(found) for w in _next(problem, base)} - set(found)
        guesses = {w: _guess(narrowed(problem, w), table, budgets) for w in sorted(others)}
        for widths in sorted(guesses, key=guesses.__getitem__):
            if len(found) < most and guesses[widths] < np.inf:
                _add(found, problem, widths)
    return list(found.values())[:most]


def _budgets(problem: Problem, table: Tables) -> list[dict[str, float]]:
    """The budgets that matter: those given, or points along the front, or the limits alone."""
    hard = {name: limit for name, limit in problem.limits.items() if name != LOSS}
    if problem.budgets:
        return [{**hard, **budget} for budget in problem.budgets]
    budgets = []
    for name in problem.front:
        try:
            low = solve_integer(problem, table, hard, name, gap=EXACT)
            high = solve_integer(problem, table, hard, gap=EXACT)
        except InfeasibleError:
            continue
        least, most = problem.cost(name, low), problem.cost(name, high)
        points = np.geomspace(max(least, 1e-12), most, POINTS + 1)[:-1]
        # A little more than the least: the integer programme keeps a row with some tolerance.
        budgets += [{**hard, name: float(point) * (1 + 1e-6)} for point in points]
    return budgets or [hard]


def _add(found: dict[Widths, Narrowed], problem: Problem, widths: Widths) -> None:
    if widths not in found and (made := narrowed(problem, widths)) is not None:
        found[widths] = made


def _next(problem: Problem, widths: Widths) -> Iterator[Widths]:
    """Widths that differ in one tie, by one level."""
    for place, tie in enumerate(problem.ties):
        levels = np.unique(np.concatenate(list(tie.levels.values())))
        here = int(np.searchsorted(levels, widths[place]))
        for other in (here - 1, here + 1):
            if 0 <= other < len(levels):
                yield (*widths[:place], int(levels[other]), *widths[place + 1 :])


def _guess(fixed: Narrowed | None, table: Tables, budgets: Sequence[Mapping[str, float]]) -> float:
    """Sum over the budgets of the log loss that the solver promises; infinite if none is met."""
    if fixed is None:
        return np.inf
    own = tuple(values[of] for values, of in zip(table, fixed.options, strict=True))
    total, met = 0.0, False
    for limits in budgets:
        best = solve_nearly(fixed.problem, own, limits)
        if best is None:
            total += 10.0  # a budget that these widths cannot meet
            continue
        met = True
        rows = np.array([best], dtype=np.int64)
        products = fixed.problem.products
        if products:
            landscape = Landscape(
                [np.where(np.isfinite(v), v, 0.0) for v in own], next(iter(products.values()))
            )
            loss = float(landscape.quadratic(rows)[0])
        else:
            loss = float(additive(own, rows)[0])
        total += float(np.log(max(loss, 1e-12)))
    return total if met else np.inf
