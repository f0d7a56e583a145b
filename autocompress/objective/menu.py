"""Thins a unit's menu to the options near the trade-off curve of loss against bytes, for every
speed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_LOSS = 1e-7  # losses below this are equal
NEAR = 0.05  # excess of log loss over the curve that still counts as on it


def useful(
    loss: Floats, size: Floats, latency: Floats, kinds: NDArray[np.int64], keep: int
) -> list[int]:
    """Numbers of the options worth offering, in order.

    A solver under limits picks options on the lower convex curve of loss against bytes among those
    that are fast enough.  So options that another one beats in everything go first; of the others,
    those on a curve come first, the most spread out leading, then those closest above one.  The
    kinds take turns, so that each keeps its share.

    Args:
        loss: `(options,)` predicted loss, at least 0; option 0 is the identity and always stays.
        size: `(options,)` bytes.
        latency: `(options,)` milliseconds.
        kinds: `(options,)` options of different kinds are not compared, such as those on float and
            on int8 kernels: which of them is cheaper depends on their neighbours.
        keep: The most options that stay, at least 2.

    Returns:
        Ascending option numbers.
    """
    values = np.column_stack([size, latency, loss])
    queues = [_ranked(values, np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)]
    chosen = {0}
    while any(queues) and len(chosen) < keep:
        for queue in queues:
            if queue and len(chosen) < keep:
                chosen.add(queue.pop(0))
    return sorted(chosen)


def _ranked(values: Floats, members: NDArray[np.int64]) -> list[int]:
    """Members that no other one beats, in the order in which they are worth keeping."""
    values = values[members]
    left = [i for i in range(len(members)) if not _is_dominated(values, i)]
    members, values = members[left], values[left]
    points = np.column_stack([values[:, 0], values[:, 2] + LEAST_LOSS])
    gaps = np.array([_gap(points, values[:, 1], i) for i in range(len(members))])
    order = np.lexsort((members, gaps.round(9)))
    near = [int(i) for i in order if gaps[i] <= NEAR]
    far = [int(i) for i in order if gaps[i] > NEAR]
    return [int(members[i]) for i in [*_spread(near, np.log(points)), *far]]


def _gap(points: Floats, latency: Floats, index: int) -> float:
    """Log of an option's loss over the lower convex hull of those at least as fast.

    The hull is of loss against bytes themselves, as the solver adds them up: in logarithms the
    middle of a trade-off curve lies above the line between its ends.
    """
    rivals = points[latency <= latency[index] * (1 + 1e-9)]
    hull: list[NDArray[np.float64]] = []
    for point in rivals[np.lexsort((rivals[:, 1], rivals[:, 0]))]:
        while len(hull) > 1 and _turns_right(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    size, loss = points[index]
    corners = np.array(hull)
    return float(np.log(loss / np.interp(size, corners[:, 0], corners[:, 1])))


def _turns_right(a: Floats, b: Floats, c: Floats) -> bool:
    return bool((b[0] - a[0]) * (c[1] - a[1]) <= (b[1] - a[1]) * (c[0] - a[0]))


def _spread(members: list[int], logs: Floats) -> list[int]:
    """The members in an order whose every beginning is spread out along both logarithms."""
    if not members:
        return []
    points = logs[members]
    order = [int(np.argmin(points[:, 0]))]
    distance = np.full(len(members), np.inf)
    while len(order) < len(members):
        distance = np.minimum(distance, np.abs(points - points[order[-1]]).sum(1))
        distance[order] = -1
        order.append(int(np.argmax(distance)))
    return [members[i] for i in order]


def _is_dominated(values: Floats, index: int) -> bool:
    no_worse = (values <= values[index]).all(1)
    better = (values < values[index]).any(1)
    earlier = np.arange(len(values)) < index
    return bool((no_worse & (better | earlier)).any())
