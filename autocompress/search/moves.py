"""Neighbours of a candidate: switches of one or two units, ranked by a landscape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autocompress.search.landscape import Landscape
from autocompress.search.problem import (
    LOSS,
    Candidate,
    Integers,
    Problem,
    Tables,
    gather,
    slack,
)

# Single switches that a descent looks at: wide enough to trade one unit against another, cheap
# enough to repeat.
SINGLES = 132
LEAST_REACH = 2


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


class Neighbourhood:
    """Menus in the order of their losses, to find the options a few places away.

    Args:
        problem: Menus and costs.
        table: `(options,)` per unit, by which they are ordered.
    """

    def __init__(self, problem: Problem, table: Tables) -> None:
        self.problem = problem
        self._orders: list[Integers] = []
        self._places: list[Integers] = []
        for values, allowed in zip(table, problem.allowed, strict=True):
            order = np.argsort(np.where(allowed, values, np.inf), kind="stable")
            places = np.empty(len(order), dtype=np.int64)
            places[order] = np.arange(len(order))
            self._orders.append(order[: int(allowed.sum())])
            self._places.append(places)

    def reach(self, singles: int) -> int:
        """Places in a menu that a switch may span for about so many switches in all."""
        return max(LEAST_REACH, singles // (2 * len(self._orders)))

    def menus(self, candidate: Candidate, reach: int) -> list[Integers]:
        """For each unit the options up to `reach` places above and below its present one."""
        menus = []
        for order, places, option in zip(self._orders, self._places, candidate, strict=True):
            here = int(places[option])
            menus.append(order[max(0, here - reach) : here + reach + 1])
        return menus


def switches(
    neighbourhood: Neighbourhood,
    landscape: Landscape,
    candidate: Candidate,
    limits: Mapping[str, float],
    count: int,
    reach: int | None = None,
) -> Integers:
    """The `count` best neighbours `(n, units)` by one or two switches that keep the limits.

    Args:
        neighbourhood: Menus and costs.
        landscape: Ranks the neighbours.
        candidate: Where to start; it may break the limits itself.
        limits: Largest allowed costs; a limit on the loss is not looked at.
        count: Most neighbours.
        reach: Only options at most so many places away in the order of the losses of their unit.
    """
    problem = neighbourhood.problem
    menus = None if reach is None else neighbourhood.menus(candidate, reach)
    singles, units = single_switches(problem, candidate, menus)
    if not len(singles):
        return singles
    options = landscape.starts[units] + singles[np.arange(len(singles)), units]
    near = landscape.near(candidate, options, units)
    ranked = np.where(units[:, None] < units[None, :], near.pairs(), np.inf)
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
    values = np.concatenate([near.singles(), flat[top]])
    fine = problem.feasible(found, limits)
    order = np.argsort(values[fine], kind="stable")[:count]
    return found[fine][order]


def _edge_slack(problem: Problem, name: str) -> float:
    costs = [abs(cost) for edge in problem.edges(name) for cost in (edge.up, edge.down)]
    costs += [abs(joint.cost) for joint in problem.joints(name)]
    return 2 * max(costs, default=0.0)


def crossed(
    parent: Candidate, mates: Sequence[Candidate], count: int, rng: np.random.Generator
) -> Integers:
    """Children `(count, units)`: the parent with a run of units, or single ones, from a mate."""
    units = len(parent)
    chosen = np.array(mates, dtype=np.int64)[rng.integers(len(mates), size=count)]
    first, last = np.sort(rng.integers(units + 1, size=(2, count)), axis=0)
    places = np.arange(units)
    block = (places >= first[:, None]) & (places < last[:, None])
    single = rng.random((count, units)) < rng.uniform(0.05, 0.5, size=(count, 1))
    taken = np.where(rng.random((count, 1)) < 0.5, block, single)
    return np.where(taken, chosen, np.array(parent, dtype=np.int64))


def descend(
    neighbourhood: Neighbourhood,
    landscape: Landscape,
    candidate: Candidate,
    limits: Mapping[str, float],
    steps: int = 20,
    reach: int | None = None,
) -> Candidate:
    """Where following the best switch of one or two units ends, when the loss stops falling.

    A start that breaks the limits is left for the best neighbour that keeps them, if there is one.
    """
    return descent(neighbourhood, landscape, candidate, limits, steps, reach)[-1]


def descent(
    neighbourhood: Neighbourhood,
    landscape: Landscape,
    candidate: Candidate,
    limits: Mapping[str, float],
    steps: int = 20,
    reach: int | None = None,
) -> list[Candidate]:
    """The way that `descend` goes, its start first."""
    reach = neighbourhood.reach(SINGLES) if reach is None else reach
    rows = np.array([candidate], dtype=np.int64)
    fits = bool(neighbourhood.problem.feasible(rows, limits)[0])
    here = float(landscape.values(rows)[0]) if fits else np.inf
    way = [candidate]
    for _ in range(steps):
        best = switches(neighbourhood, landscape, way[-1], limits, 1, reach)
        value = float(landscape.values(best)[0]) if len(best) else np.inf
        if not value < here - 1e-12 * abs(here):
            break
        way.append(tuple(int(k) for k in best[0]))
        here = value
    return way
