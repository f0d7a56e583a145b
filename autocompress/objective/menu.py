"""Thins a unit's menu: options that are beaten in every cost and in loss go, then the least useful ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def useful(loss: NDArray[np.float64], costs: NDArray[np.float64], keep: int) -> list[int]:
    """Numbers of the options worth offering, in order.

    An option goes when another one is no worse in loss and every cost, and better in one (or equal in
    all and listed before).  If too many are left, those go whose loss lies closest to that of a
    neighbour: what they would buy, the neighbour buys too.

    Args:
        loss: `(options,)` predicted loss; option 0 is the identity and always stays.
        costs: `(options, costs)`; lower is better.
        keep: The most options that stay, at least 2.

    Returns:
        Ascending option numbers.
    """
    values = np.column_stack([costs, loss])
    left = [0, *(i for i in range(1, len(loss)) if not _is_dominated(values, i))]
    while len(left) > keep:
        by_loss = sorted(left[1:], key=lambda i: loss[i])
        logs = np.log(loss[by_loss] + 1e-12)
        # Ends stay: the mildest and the strongest option bound what can be reached.
        gaps = [logs[j + 1] - logs[j - 1] for j in range(1, len(by_loss) - 1)]
        cheapest = {left[int(np.argmin(column))] for column in costs[left].T}
        order = np.argsort(gaps, kind="stable") + 1
        victim = next((by_loss[j] for j in order if by_loss[j] not in cheapest), by_loss[-2])
        left.remove(victim)
    return left


def _is_dominated(values: NDArray[np.float64], index: int) -> bool:
    no_worse = (values <= values[index]).all(1)
    better = (values < values[index]).any(1)
    earlier = np.arange(len(values)) < index
    return bool((no_worse & (better | earlier)).any())
