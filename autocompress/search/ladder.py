"""Points spread over the front of the priced problem: where a search for all of it looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autocompress.search.lagrange import sweep
from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, additive, descend
from autocompress.search.pareto import non_dominated
from autocompress.search.problem import LOSS, Candidate, Floats, Integers, Problem


def ladder(
    problem: Problem, landscape: Landscape, names: Sequence[str], count: int
) -> list[Candidate]:
    """Up to `count` optima of a landscape, evenly spread in the logarithm of their costs.

    They start from those of its table, which has the front's hull at once.

    Args:
        problem: Costs and limits, which all of them keep where any does.
        landscape: Predicts losses.
        names: Costs that span the front.
        count: Most points.
    """
    table = landscape.table
    rows = np.unique(sweep(problem, table, list(names)), axis=0)
    fine = problem.feasible(rows)
    rows = rows[fine] if fine.any() else rows
    values = np.column_stack([*(problem.costs(name, rows) for name in names)])
    losses = additive(table, rows)
    kept = non_dominated(np.column_stack([losses, values]))
    places = _spread(np.log(np.maximum(values[kept], 1e-300)), count)
    return [
        _polished(problem, landscape, rows[kept][place], values[kept][place], names)
        for place in places
    ]


def _polished(
    problem: Problem, landscape: Landscape, row: Integers, costs: Floats, names: Sequence[str]
) -> Candidate:
    """What switches make of a point on the hull without raising its costs."""
    limits = {key: value for key, value in problem.limits.items() if key != LOSS}
    for name, cost in zip(names, costs, strict=True):
        limits[name] = min(float(cost), limits.get(name, np.inf))
    around = Neighbourhood(problem, landscape.table)
    return descend(around, landscape, tuple(int(k) for k in row), limits)


def _spread(points: Floats, count: int) -> list[int]:
    """Indices of points `(n, axes)`, the ends first, then always the one farthest from all."""
    chosen = list(dict.fromkeys([int(np.argmax(points[:, 0])), int(np.argmin(points[:, 0]))]))
    nearest = np.min([np.linalg.norm(points - points[place], axis=1) for place in chosen], axis=0)
    while len(chosen) < min(count, len(points)) and nearest.max() > 1e-9:
        place = int(np.argmax(nearest))
        chosen.append(place)
        nearest = np.minimum(nearest, np.linalg.norm(points - points[place], axis=1))
    return chosen
