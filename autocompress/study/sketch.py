"""Sketches of weights: how far a layer has moved since a run whose weights are gone.

A count sketch (Charikar, Chen, Farach-Colton, ICALP 2002) adds every value, with a random sign,
into one of a few hundred sums.  It is linear, so the sketch of a difference is the difference of
the sketches, and the squared norm of a sketch is an unbiased estimate of that of the values
(Thorup and Zhang, SODA 2004), with a relative standard deviation of at most `sqrt(2 / WIDTH)`: the
norm is right to about 4 %.  Few values are kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autocompress.study.packing import unpacked

WIDTH = 256
BLOCK = 1 << 20  # values at a time, so that a large layer needs no copy of itself
SEED = 20  # the same signs in every run, or sketches could not be compared

Floats = NDArray[np.float64]


def sketch(tensors: Sequence[Tensor]) -> Floats:
    """The sketch of some tensors one after another.

    Returns:
        `(WIDTH,)` sums; the values themselves, where there are not more than that.
    """
    count = sum(tensor.numel() for tensor in tensors)
    if count <= WIDTH:
        return np.concatenate([_values(tensor) for tensor in tensors] or [np.zeros(0)])
    generator = np.random.default_rng([SEED, count])
    sums = np.zeros(WIDTH)
    for tensor in tensors:
        flat = tensor.detach().flatten()
        for start in range(0, len(flat), BLOCK):
            part = _values(flat[start : start + BLOCK])
            places = generator.integers(WIDTH, size=len(part), dtype=np.int64)
            signs = generator.integers(2, size=len(part), dtype=np.int8)
            sums += np.bincount(places, np.where(signs, part, -part), WIDTH)
    return sums


def change(before: str, after: str) -> float | None:
    """Norm of the change between two sketches as a share of the norm before.

    Args:
        before: A sketch as `packed` gives it.
        after: A later one.

    Returns:
        None where nothing can be said: the two are not of the same shape, or all was zero before.
    """
    old, new = unpacked(before), unpacked(after)
    if old.shape != new.shape:
        return None
    moved, norm = float(np.linalg.norm(new - old)), float(np.linalg.norm(old))
    if not moved:
        return 0.0
    return moved / norm if norm else None


def _values(tensor: Tensor) -> Floats:
    values: Floats = tensor.detach().cpu().flatten().double().numpy()
    return values
