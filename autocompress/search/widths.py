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
from autocompress.search.integer import closest, solve_integer
from autocompress.search.lagrange import solve_nearly
from autocompress.search.landscape import Landscape
from autocompress.search.moves import additive
from autocompress.search.problem import (
    LOSS,
    Candidate,
    Floats,
    Integers,
    Problem,
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
            name: replace(resource, units=cut(resource.units))
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
    one tie follow in the order of what the solver makes of them, then those that differ there.
    The full widths always come along where they can meet the limits.  Where nothing can, the
    widths that come closest lead.

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
    if not found:
        _add(found, problem, widths_of(problem, closest(problem, table, budgets[0])))
    if _guess(narrowed(problem, full), table, budgets) < np.inf:
        _add(found, problem, full)
    looked: set[Widths] = set()
    while len(found) < most:
        others = {w for base in found for w in _next(problem, base)} - set(found) - looked
        if not others:
            break
        looked |= others
        guesses = {w: _guess(narrowed(problem, w), table, budgets) for w in sorted(others)}
        for widths in sorted(guesses, key=guesses.__getitem__):
            if len(found) < most and guesses[widths] < np.inf:
                _add(found, problem, widths)
    return list(found.values())[:most]


def _budgets(problem: Problem, table: Tables) -> list[dict[str, float]]:
    """The budgets that matter: those given, or points along the front, or the limits alone."""
    # A limit on the loss, which the table only guesses at, decides where a cost is made small.
    kept = [name for name in problem.limits if name != LOSS or problem.minimise != LOSS]
    hard = {name: problem.limits[name] for name in kept}
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
    """Sum over the budgets of the log loss (or cost) that the solver promises; infinite if none is
    met."""
    if fixed is None:
        return np.inf
    own = tuple(values[of] for values, of in zip(table, fixed.options, strict=True))
    total, met = 0.0, False
    for limits in budgets:
        value = _promised(fixed.problem, own, limits)
        # Some loss stands for a budget that these widths cannot meet.
        total += 10.0 if value is None else float(np.log(max(value, 1e-12)))
        met |= value is not None
    return total if met else np.inf


def _promised(problem: Problem, table: Tables, limits: Mapping[str, float]) -> float | None:
    """The least loss, or cost, within limits by the tables; None if nothing is within."""
    if problem.minimise != LOSS:
        try:
            least = solve_integer(problem, table, limits, problem.minimise, gap=EXACT)
        except InfeasibleError:
            return None
        return problem.cost(problem.minimise, least)
    best = solve_nearly(problem, table, limits)
    if best is None:
        return None
    rows = np.array([best], dtype=np.int64)
    if not problem.products:
        return float(additive(table, rows)[0])
    landscape = Landscape(
        [np.where(np.isfinite(v), v, 0.0) for v in table], next(iter(problem.products.values()))
    )
    return float(landscape.quadratic(rows)[0])
