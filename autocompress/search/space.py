"""All candidates of a small space, listed once with their costs; large spaces are not listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from autocompress.search.problem import LOSS, Candidate, Integers, Problem, slack

LARGEST = 1_000_000


class Listing:
    """Every allowed candidate within some limits, and which of them were seen.

    Args:
        problem: Menus and costs; `problem.space_size` must be moderate.
        limits: Largest allowed costs; a limit on the loss is not looked at.

    Attributes:
        rows: Candidates `(n, units)` in lexicographic order.
    """

    def __init__(self, problem: Problem, limits: Mapping[str, float]) -> None:
        menus = [np.flatnonzero(allowed) for allowed in problem.allowed]
        grid = np.stack(np.meshgrid(*menus, indexing="ij"), axis=-1).reshape(-1, len(menus))
        self.rows: Integers = grid[problem.feasible(grid, limits)]
        self._costs = {name: problem.costs(name, self.rows) for name in problem.resources}
        # Mixed radix, first unit highest: keys ascend in the order of the rows.
        self._radix = np.cumprod([1, *problem.sizes[:0:-1]])[::-1]
        self._keys = self.rows @ self._radix
        self._new: NDArray[np.bool_] = np.ones(len(self.rows), dtype=np.bool_)

    def see(self, candidates: Iterable[Candidate]) -> None:
        """Marks candidates as seen; those that are not listed are ignored."""
        keys = np.array(list(candidates), dtype=np.int64).reshape(-1, len(self._radix))
        wanted = keys @ self._radix
        places = np.searchsorted(self._keys, wanted)
        inside = places < len(self._keys)
        places, wanted = places[inside], wanted[inside]
        self._new[places[self._keys[places] == wanted]] = False

    def new(self, limits: Mapping[str, float]) -> Integers:
        """Rows `(n, units)` within the limits that were not seen."""
        fine = self._new.copy()
        for name, limit in limits.items():
            if name != LOSS:
                fine &= self._costs[name] <= slack(limit)
        return self.rows[fine]


def as_tuples(rows: Integers) -> list[Candidate]:
    """Rows of an array as hashable candidates."""
    return [tuple(row) for row in rows.tolist()]
