"""Fewer rows for a reader: spread evenly, ends and marked rows kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def thinned(
    items: Sequence[Item], limit: int | None, is_kept: Callable[[Item], bool]
) -> list[Item]:
    """At most `limit` of `items` in their order (more only where `is_kept` says so).

    Args:
        items: Rows in the order in which they are shown.
        limit: Most rows to show, at least 1; None shows all.
        is_kept: True for rows that must stay.

    Raises:
        ValueError: If `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"thinned(limit={limit}): must be at least 1 or None")
    if limit is None or len(items) <= limit:
        return list(items)
    forced = {index for index, item in enumerate(items) if is_kept(item)}
    free = [index for index in range(len(items)) if index not in forced]
    room = max(0, limit - len(forced))
    step = (len(free) - 1) / max(1, room - 1)
    spread = {free[round(index * step)] for index in range(room)} if free else set()
    return [items[index] for index in sorted(forced | spread)]
