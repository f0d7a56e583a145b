"""Where a matrix is not zero, by the shares of its rows and columns.

Inputs that are rarely active lose nearly all their weights: a row and a column say far more of a
weight than the layer as a whole.  The archive codes zeros by classes of both (`entropy.py`).
"""

from __future__ import annotations

from torch import Tensor


def density(kept: Tensor, prior: float) -> Tensor:
    """How likely a weight is not zero, by the shares of its row and of its column, `(rows, d)`
    float64: row times column over all; may exceed 1 where both are full.

    Args:
        kept: `(rows, d)` bool.
        prior: Weights of each kind that are thought seen before the first.
    """
    counts = kept.double()
    rows, columns = (
        (counts.sum(axis) + prior) / (counts.shape[axis] + 2 * prior) for axis in (1, 0)
    )
    whole = (counts.sum() + prior) / (counts.numel() + 2 * prior)
    return rows[:, None] * columns / whole
