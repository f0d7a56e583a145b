"""All candidates of a small space, listed once; large spaces are not listed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autocompress.search.problem import Candidate, Integers, Problem

LARGEST = 1_000_000


def enumerate_space(
    problem: Problem, limits: Mapping[str, float], largest: int = LARGEST
) -> Integers | None:
    """Every allowed candidate `(n, units)` within the limits, or None for a larger space.

    Args:
        problem: Menus and costs.
        limits: Largest allowed costs; a limit on the loss is not looked at.
        largest: Most candidates, before the limits, that are listed.
    """
    if problem.space_size > largest:
        return None
    menus = [np.flatnonzero(allowed) for allowed in problem.allowed]
    grid = np.stack(np.meshgrid(*menus, indexing="ij"), axis=-1).reshape(-1, len(menus))
    return grid[problem.feasible(grid, limits)]


def as_tuples(rows: Integers) -> list[Candidate]:
    """Rows of an array as hashable candidates."""
    return [tuple(row) for row in rows.tolist()]
