"""What two options of different units add to the loss together, from how each alone pushes the
outputs.

A loss that is a squared length of the outputs' change (KL and squared error are, to second order)
of a candidate whose layers push the outputs by `w_u` is `|sum_u w_u|^2`, if each layer's push does
not depend on the others'.  The pushes are by-products of pricing every option alone, so all pairs
cost no evaluation (CLADO, 2307.05657, measures each pair).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIDTH = 8192  # of a push; longer ones are sketched


class Sketch:
    """Shortens vectors so that inner products stay the same on average (count sketch, Charikar et
    al., ICALP 2002); short ones are left as they are.

    Args:
        width: Longest vector that is kept.
    """

    def __init__(self, width: int = WIDTH) -> None:
        self._width = width
        self._length = -1
        self._places = torch.zeros(0, dtype=torch.int64)
        self._signs = torch.zeros(0)

    def __call__(self, vector: Tensor) -> NDArray[np.float32]:
        """A float32 vector `(n,)` as one of at most `width` entries."""
        if len(vector) <= self._width:
            return vector.numpy()
        if len(vector) != self._length:
            generator = torch.Generator().manual_seed(len(vector))
            self._length = len(vector)
            self._places = torch.randint(self._width, (self._length,), generator=generator)
            self._signs = 2.0 * torch.randint(2, (self._length,), generator=generator) - 1
        short = torch.zeros(self._width).index_add_(0, self._places, vector * self._signs)
        return short.numpy()


def products(
    pushes: Sequence[NDArray[np.float32]], losses: Sequence[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Inner products `(all options, all options)` of the pushes of any two options.

    Args:
        pushes: For each unit `(options, width)`.
        losses: For each unit the measured loss `(options,)` of each option alone; the pushes are
            scaled to it, so that what the second order misses in one option is not lost.
    """
    scaled = []
    for rows, values in zip(pushes, losses, strict=True):
        lengths = np.square(rows, dtype=np.float64).sum(axis=1)
        factors = np.sqrt(np.maximum(values, 0.0) / np.maximum(lengths, 1e-300))
        scaled.append(rows * np.where(lengths > 0, factors, 0.0)[:, None].astype(np.float32))
    every = np.concatenate(scaled)
    return np.asarray(every @ every.T, dtype=np.float32)
