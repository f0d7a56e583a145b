"""The exact solvers behind one function: dynamic programme or integer programme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.search.dynamic import BUCKETS, BudgetCurve, budget_curve
from autocompress.search.integer import GAP, solve_integer
from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, descend
from autocompress.search.problem import LOSS, Candidate, Problem, Tables


def solve(
    problem: Problem,
    loss: Tables,
    limits: Mapping[str, float] | None = None,
    exclude: Sequence[Candidate] = (),
    gap: float = GAP,
    nodes: int | None = None,
) -> Candidate:
    """The candidate that minimises `problem.minimise` under the limits, losses being additive.

    Args:
        problem: Costs, labels and menus.
        loss: For each unit the loss `(options,)`; infinite forbids the option.
        limits: Largest allowed values; the problem's own when None.
        exclude: Candidates that must not come back.
        gap: Relative distance from the optimum that is good enough.
        nodes: Most nodes of the integer programme's tree.

    Raises:
        InfeasibleError: If nothing meets the limits; `infeasible.prove` explains why.
    """
    limits = problem.limits if limits is None else limits
    finite = {name: limit for name, limit in limits.items() if np.isfinite(limit)}
    if problem.minimise == LOSS and not exclude and not problem.ties:
        name = next(iter(finite), "")
        if not finite:
            return tuple(int(np.argmin(values)) for values in loss)
        if len(finite) == 1 and name != LOSS and problem.is_additive(name):
            found = curve(problem, loss, name, finite[name]).candidate(finite[name])
            if found is not None:
                # Rounding up to buckets leaves a little of the budget: spend it.
                return descend(Neighbourhood(problem, loss), Landscape(loss), found, finite)
    return solve_integer(problem, loss, finite, problem.minimise, exclude, gap, nodes)


def curve(
    problem: Problem, loss: Tables, name: str, largest: float, buckets: int = BUCKETS
) -> BudgetCurve:
    """Best candidates for every budget of one additive resource, up to `largest`."""
    assert problem.is_additive(name), f"{name} is not additive: an integer programme is needed"
    costs = problem.unit_costs(name)
    return budget_curve(loss, costs, largest, problem.resources[name].constant, buckets)
