"""How long codes get when they are coded, and which way to push weights so that it gets shorter.

The archive codes zeros by the density of a weight's row and column and values by their histogram
(`entropy.py`).  The same model gives the bits of every weight here; its slope with respect to the
latent weight, the codes' statistics held fixed, is the penalty that training adds to the loss
(entropy-penalised reparameterisation, Oktay et al., 1906.06624, with the archive's own model in
place of a learned one).  Weights in thin rows and columns are the dearest, so whole neurons and
inputs go first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from autocompress.compression.density import density
from autocompress.compression.trainable_tensor import TrainableTensor

HALF_WAY = 0.5  # latent weight in steps at which half of the cost of not being zero counts
FEWEST_BITS = 0.3  # of not being zero, in a row and column where few are
PRIOR = 0.3  # weights of each kind that are thought seen before the first
LIKELY = (1e-5, 0.7)  # least and largest probability of not being zero


class CodeLength:
    """Estimated bits of some tensors that hold codes.

    Args:
        tensors: Looked at again by `refresh`.
    """

    def __init__(self, tensors: Sequence[TrainableTensor]) -> None:
        self._tensors = list(tensors)
        self._costs: list[Tensor] = []
        self.bytes = 0.0
        self.refresh()

    def refresh(self) -> float:
        """Takes the statistics of the codes as they stand; returns their bytes."""
        costs, total = [], 0.0
        for tensor in self._tensors:
            codes = tensor.codes()
            present = codes != 0
            share = density(present, PRIOR).clamp(*LIKELY).to(codes.dtype)
            costs.append(torch.log2((1 - share) / share).clamp_min(FEWEST_BITS))
            total += float(-torch.where(present, share, 1 - share).log2().sum())
            total += _value_bits(codes[present])
        self._costs, self.bytes = costs, total / 8
        return self.bytes

    def penalty(self) -> Tensor:
        """Bits as a smooth function of the latent weights, a scalar.

        `c z(u) + log2(1 + |u|)` for each weight: `u` in steps, `c` the bits of not being zero,
        `z(u) = u^2 / (u^2 + 1/4)`, and the second term for the length of its value.
        """
        parts = []
        for tensor, cost in zip(self._tensors, self._costs, strict=True):
            scaled = tensor.scaled()
            square = scaled.square()
            parts.append((cost * square / (square + HALF_WAY**2)).sum())
            parts.append(torch.log2(1 + scaled.abs()).sum())
        return torch.stack(parts).sum()


def _value_bits(values: Tensor) -> float:
    """Order-0 bits of what is not zero, signs included."""
    if not len(values):
        return 0.0
    counts = torch.unique(values, return_counts=True)[1].double()
    return float(-(counts * (counts / counts.sum()).log2()).sum()) + math.log2(1 + len(counts))
