"""Where a search begins: the limits that it can keep, the budgets that matter, the first seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.errors import InfeasibleError
from autocompress.search.integer import closest, solve_integer
from autocompress.search.ladder import ladder
from autocompress.search.lagrange import solve_nearly
from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, descend
from autocompress.search.problem import LOSS, Candidate, Problem, Tables
from autocompress.search.seeds import seeds

RUNGS = {1: 16, 2: 24}  # anchors of a front, by the number of its costs
BETWEEN = 6  # further seeds where the budgets are given


def reachable_limits(problem: Problem, table: Tables) -> dict[str, float]:
    """The problem's limits or, when they cannot be met, the costs of the closest candidate."""
    limits = dict(problem.limits)
    resources = {name: limit for name, limit in limits.items() if name != LOSS}
    if solve_nearly(problem, table, resources) is not None:
        return limits
    try:
        solve_integer(problem, table, resources, gap=1.0, nodes=1000)
    except InfeasibleError:
        near = closest(problem, table, resources)
        for name, limit in resources.items():
            limits[name] = max(limit, problem.cost(name, near))
    return limits


def opening(
    problem: Problem,
    limits: Mapping[str, float],
    names: Sequence[str],
    tables: Sequence[Tables],
    landscape: Landscape,
    rng: np.random.Generator,
) -> tuple[list[dict[str, float]], list[Candidate]]:
    """The anchors, and the solver's answers for them and for a spread of others.

    Args:
        problem: What is asked.
        limits: Those that can be kept.
        names: Costs that span the front.
        tables: Loss tables, the one that is trusted most last.
        landscape: The best guess at the loss.
        rng: For perturbed seeds.

    Returns:
        Limits by name for each anchor, and the seeds.
    """
    resources = {name: limit for name, limit in limits.items() if name != LOSS}
    if not problem.front:
        first = _solved(problem, landscape, resources)
        others = seeds(problem, limits, tables, rng)
        return [resources], list(dict.fromkeys([*([first] if first else []), *others]))
    anchors = [{**resources, **budget} for budget in problem.budgets]
    rungs = ladder(problem, landscape, names, BETWEEN if anchors else RUNGS.get(len(names), 32))
    if not anchors:
        at = [{name: problem.cost(name, rung) for name in names} for rung in rungs]
        return [{**resources, **costs} for costs in at], list(dict.fromkeys(rungs))
    # With the products of pushes and without: which is better depends on the budget.
    guesses = [landscape, Landscape([np.where(np.isfinite(v), v, 0.0) for v in tables[-1]])]
    solved = [_solved(problem, guess, limits) for guess in guesses for limits in anchors]
    return anchors, list(dict.fromkeys([*(row for row in solved if row is not None), *rungs]))


def _solved(
    problem: Problem, landscape: Landscape, limits: Mapping[str, float]
) -> Candidate | None:
    """Near the optimum of a landscape within limits, None when nothing is found."""
    found = solve_nearly(problem, landscape.table, limits)
    if found is None or landscape.products is None:
        return found
    return descend(Neighbourhood(problem, landscape.table), landscape, found, limits)
