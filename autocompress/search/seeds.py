"""First candidates, from the tables alone: exact ones at the limits, then a spread of budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from autocompress.errors import InfeasibleError
from autocompress.search.lagrange import solve_nearly, sweep
from autocompress.search.problem import LOSS, Candidate, Floats, Problem, Tables
from autocompress.search.solver import solve

FACTORS = (0.5, 0.63, 0.8, 1.25, 1.6, 2.0)
PERTURBED = 4
SIGMA = 0.5  # of the log-normal factors on a table (SPDY, 2201.13096)
_NODES = 50


def scaled_limits(
    problem: Problem, limits: Mapping[str, float], factor: float, names: Sequence[str] = ()
) -> dict[str, float]:
    """The limits with those named (all when none is) multiplied by `factor`.

    A problem without limits gets shares of the range of each resource in their place.
    """
    if not limits:
        return {
            name: _smallest(problem, name) + 0.35 * factor * _range(problem, name)
            for name in problem.resources
        }
    return {
        name: limit * factor if not names or name in names else limit
        for name, limit in limits.items()
    }


def _smallest(problem: Problem, name: str) -> float:
    costs = zip(problem.unit_costs(name), problem.allowed, strict=True)
    return problem.resources[name].constant + sum(float(c[a].min()) for c, a in costs)


def _range(problem: Problem, name: str) -> float:
    costs = zip(problem.unit_costs(name), problem.allowed, strict=True)
    return sum(float(np.ptp(c[a])) for c, a in costs)


def perturbed(table: Tables, rng: np.random.Generator, sigma: float = SIGMA) -> tuple[Floats, ...]:
    """The table times a log-normal factor per unit, and a smaller one per entry."""
    return tuple(
        values * np.exp(rng.normal(0, sigma) + rng.normal(0, 0.4 * sigma, len(values)))
        for values in table
    )


def seeds(
    problem: Problem,
    limits: Mapping[str, float],
    tables: Sequence[Tables],
    rng: np.random.Generator,
) -> Iterator[Candidate]:
    """Yields seeds, best guess first, with repeats.

    Exact solutions of every table at the limits come first, then near-exact solutions of the last
    table over a spread of budgets (all limits together, and each alone), then those of perturbed
    tables at the limits.
    """
    for table in tables:
        try:
            yield solve(problem, table, limits, nodes=_NODES, gap=1e-3)
        except InfeasibleError:
            continue  # a limit on the loss that this table thinks out of reach
    base = tables[-1]
    names = [name for name in (limits or problem.resources) if name != LOSS]
    ladder = [scaled_limits(problem, limits, factor) for factor in FACTORS]
    if len(names) > 1 and limits:
        ladder += [
            scaled_limits(problem, limits, factor, (name,))
            for name in names
            for factor in (FACTORS[1], FACTORS[-2])
        ]
    if problem.minimise == LOSS:
        swept = sweep(problem, base, names)
        for step in ladder:
            found = solve_nearly(problem, base, step, swept)
            if found is not None:
                yield found
        for _ in range(PERTURBED):
            found = solve_nearly(problem, perturbed(base, rng), limits)
            if found is not None:
                yield found
        return
    for step in (scaled_limits(problem, limits, factor, (LOSS,)) for factor in FACTORS):
        try:
            yield solve(problem, base, step, nodes=_NODES, gap=1e-3)
        except InfeasibleError:
            continue
