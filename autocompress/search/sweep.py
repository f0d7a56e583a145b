"""Solutions of the priced problem over the whole range of one cost: a first front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from autocompress.errors import InfeasibleError
from autocompress.search.given_sampler import GivenSampler
from autocompress.search.integer import solve_integer
from autocompress.search.lagrange import solve_nearly, sweep
from autocompress.search.problem import LOSS, Candidate, Problem, Tables

NEAR = 1e-3  # gap of the integer programme


class SweepSampler(GivenSampler):
    """Proposes the additive optimum under budgets spaced evenly in the logarithm, dearest first.

    Args:
        problem: Costs and limits; all of its limits hold, too.
        name: The cost that is swept, such as `size_bytes`.
        loss: Additive table `(options,)` per unit.
        count: Number of budgets; fewer candidates come where neighbours coincide.
    """

    def __init__(self, problem: Problem, name: str, loss: Tables, count: int) -> None:
        limits = {key: value for key, value in problem.limits.items() if key != LOSS}
        found: dict[Candidate, None] = {}
        if problem.ties:
            found = dict.fromkeys(_exact(problem, name, loss, limits, count))
            count = 0
        rows = sweep(problem, loss, sorted({*limits, name}))
        costs = problem.costs(name, rows)
        for budget in np.geomspace(costs.max(), costs.min(), count):
            most = min(float(budget) * (1 + 1e-9), limits.get(name, np.inf))
            candidate = solve_nearly(problem, loss, {**limits, name: most}, rows)
            if candidate is not None:
                found[candidate] = None
        super().__init__(list(found), "sweep")


def _exact(
    problem: Problem, name: str, loss: Tables, limits: Mapping[str, float], count: int
) -> Iterator[Candidate]:
    """The same where units share widths, which the quick sweep does not know of."""
    try:
        dearest = solve_integer(problem, loss, limits, gap=NEAR)
        cheapest = solve_integer(problem, loss, limits, name, gap=NEAR)
    except InfeasibleError:
        return
    first, last = problem.cost(name, dearest), problem.cost(name, cheapest)
    for budget in np.geomspace(first, max(last, 1e-12), count):
        most = min(float(budget) * (1 + 1e-6), limits.get(name, np.inf))
        try:
            yield solve_integer(problem, loss, {**limits, name: most}, gap=NEAR)
        except InfeasibleError:
            # The solver keeps a row with some tolerance: nothing but the cheapest may be within.
            yield cheapest
