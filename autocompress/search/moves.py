"""Neighbours of a candidate: switches of one or two units, ranked by an additive table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autocompress.search.problem import (
    LOSS,
    Candidate,
    Integers,
    Problem,
    Tables,
    gather,
    slack,
)

REACH = 3  # of the descent: wide enough to trade one unit against another, cheap enough to repeat


def additive(loss: Tables, candidates: Integers) -> NDArray[np.float64]:
    """Sums `(n,)` of a table over the units of candidates `(n, units)`."""
    return gather(loss, candidates)


def single_switches(
    problem: Problem, candidate: Candidate, menus: Sequence[Integers] | None = None
) -> tuple[Integers, Integers]:
    """Allowed candidates `(n, units)` that differ in one unit, and which unit `(n,)` it is.

    `menus` holds the options `(options,)` to try per unit; all when None.
    """
    if menus is None:
        menus = [np.flatnonzero(allowed) for allowed in problem.allowed]
    units = np.repeat(np.arange(len(menus)), [len(menu) for menu in menus])
    pairs = np.stack([units, np.concatenate(list(menus))], axis=1)
    pairs = pairs[pairs[:, 1] != np.array(candidate)[units]]
    rows = np.tile(np.array(candidate, dtype=np.int64), (len(pairs), 1))
    rows[np.arange(len(pairs)), pairs[:, 0]] = pairs[:, 1]
    return rows, pairs[:, 0]


def _near(
    problem: Problem, loss: Tables, candidate: Candidate, reach: int
) -> list[NDArray[np.int64]]:
    """For each unit the options closest in loss to its present one, `reach` above and below."""
    near = []
    for unit, (values, allowed) in enumerate(zip(loss, problem.allowed, strict=True)):
        order = np.argsort(np.where(allowed, values, np.inf), kind="stable")[: int(allowed.sum())]
        here = int(np.searchsorted(values[order], values[candidate[unit]]))
        near.append(order[max(0, here - reach) : here + reach + 1])
    return near


def switches(
    problem: Problem,
    loss: Tables,
    candidate: Candidate,
    limits: Mapping[str, float],
    count: int,
    reach: int | None = None,
) -> Integers:
    """The `count` best neighbours `(n, units)` by one or two switches that keep the limits.

    Args:
        problem: Costs and menus.
        loss: Additive table `(options,)` per unit by which the neighbours are ranked.
        candidate: Where to start; it may break the limits itself.
        limits: Largest allowed costs; a limit on the loss is not looked at.
        count: Most neighbours.
        reach: Only options at most so many places away in the order of the losses of their unit.
    """
    menus = None if reach is None else _near(problem, loss, candidate, reach)
    singles, units = single_switches(problem, candidate, menus)
    if not len(singles):
        return singles
    gain = additive(loss, singles) - additive(loss, np.array([candidate]))
    ranked = np.triu(gain[:, None] + gain[None, :])
    ranked[units[:, None] >= units[None, :]] = np.inf
    for name, limit in limits.items():
        if name != LOSS:
            here = problem.cost(name, candidate)
            rise = problem.costs(name, singles) - here
            # Two switches at both ends of one edge do not add up: checked exactly below.
            room = slack(limit) - here + _edge_slack(problem, name)
            ranked[rise[:, None] + rise[None, :] > room] = np.inf
    flat = ranked.ravel()
    most = min(2 * count, flat.size)
    top = np.argpartition(flat, most - 1)[:most]
    top = top[np.isfinite(flat[top])]
    first, second = np.divmod(top, len(singles))
    pairs = singles[first]
    pairs[np.arange(len(pairs)), units[second]] = singles[second, units[second]]
    found = np.concatenate([singles, pairs])
    found = found[problem.feasible(found, limits)]
    return found[np.argsort(additive(loss, found), kind="stable")[:count]]


def _edge_slack(problem: Problem, name: str) -> float:
    costs = [abs(cost) for edge in problem.edges(name) for cost in (edge.up, edge.down)]
    return 2 * max(costs, default=0.0)


def descend(
    problem: Problem,
    loss: Tables,
    candidate: Candidate,
    limits: Mapping[str, float],
    steps: int = 20,
) -> Candidate:
    """Follows the best switch of one or two units until the table's sum stops falling."""
    here = float(additive(loss, np.array([candidate]))[0])
    for _ in range(steps):
        best = switches(problem, loss, candidate, limits, 1, REACH)
        value = float(additive(loss, best)[0]) if len(best) else np.inf
        if not value < here - 1e-12 * abs(here):
            break
        candidate, here = tuple(int(k) for k in best[0]), value
    return candidate
