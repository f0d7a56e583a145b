"""Stored tensors whose weights can be trained while they stay what can be stored.

A latent float weight stands behind every code; the forward pass sees the code's value, the
gradient passes straight through the rounding (Bengio et al., 1308.3432), and the step is learned
with it (LSQ, 1902.08153).  Zeros of a masked tensor stay zero; a free tensor may move them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from autocompress.compression.quantize import SMALLEST_SCALE, largest_code
from autocompress.compression.stored import StoredTensor, spread_steps

FREE_SPREAD = 0.75  # step of a free tensor, in root mean squares of its survivors
FREE_BITS = 4  # of its codes while it is trained


class TrainableTensor(nn.Module):
    """A stored tensor `(rows, columns)`; calling it gives its float32 values.

    Args:
        stored: Where training starts.  Floats, codes with steps of any kind, or a codebook, of
            which the assignment stays and the values are trained.
        free: Whether zeros may move and codes share one step, of as many bits as they turn out to
            need: what a penalty on the coded length works on.  Floats and codebooks become codes.
        allowed: `(rows, columns)` bool, false where channels are gone; None where all are there.
    """

    mask: Tensor

    def __init__(
        self, stored: StoredTensor, free: bool = False, allowed: Tensor | None = None
    ) -> None:
        super().__init__()
        self.is_free = free
        dense = stored.dense()
        if self.is_free:
            stored = _one_step(stored, dense)
        self.start = stored
        mask = torch.ones_like(dense, dtype=torch.bool) if self.is_free else dense != 0
        if allowed is not None:
            mask &= allowed
        self.register_buffer("mask", mask)
        if stored.codebook is not None:
            self.values = nn.Parameter(stored.codebook.float())
            return
        self.values = nn.Parameter(dense * mask)
        if stored.scale is not None:
            self.log_step = nn.Parameter(stored.scale.float().log())

    @property
    def has_steps(self) -> bool:
        """Whether it holds whole multiples of steps."""
        return self.start.scale is not None

    def forward(self) -> Tensor:
        if self.start.codebook is not None:
            table = torch.cat([self.values.new_zeros(1), as_half(self.values)])
            return table[self.start.codes.to(self.values.device).long()] * self.mask
        if self.start.scale is None:
            return (as_half(self.values) if self.start.bits == 16 else self.values) * self.mask
        steps = spread_steps(self._steps(), self.start.group, self.values)
        return self._codes(steps) * steps

    def scaled(self) -> Tensor:
        """Latent weights in steps, `(rows, columns)`: what `CodeLength` looks at."""
        steps = spread_steps(self._steps(), self.start.group, self.values)
        return self.values / steps * self.mask

    def codes(self) -> Tensor:
        """The codes as they stand, `(rows, columns)` float32, without a gradient."""
        with torch.no_grad():
            return self._codes(spread_steps(self._steps(), self.start.group, self.values))

    def stored(self) -> StoredTensor:
        """What training has come to, exactly as the forward pass sees it."""
        with torch.no_grad():
            if self.start.codebook is not None:
                return self._stored_codebook()
            if self.start.scale is None:
                values = self.forward().cpu()
                return replace(self.start, codes=values.to(self.start.codes.dtype))
            codes = self.codes().to(torch.int8).cpu()
            stored = replace(self.start, codes=codes, scale=self._steps().half().cpu())
            return _tightened(stored) if self.is_free else stored

    def _stored_codebook(self) -> StoredTensor:
        """Values in ascending order, as they are stored, and the codes that go with them."""
        values, order = self.values.detach().half().cpu().sort()
        place = torch.zeros(len(order) + 1, dtype=torch.uint8)
        place[order + 1] = torch.arange(1, len(order) + 1, dtype=torch.uint8)
        return replace(self.start, codes=place[self.start.codes.long()], codebook=values)

    def _steps(self) -> Tensor:
        most = torch.finfo(torch.float16).max
        return as_half(self.log_step.exp().clamp(SMALLEST_SCALE, most))

    def _codes(self, steps: Tensor) -> Tensor:
        scaled = self.values / steps
        if self.start.bits == 1:
            # Beyond the step the sign is settled, and what is left to learn is the step.
            inside = scaled.clamp(-1, 1)
            return through(inside, torch.where(scaled < 0, -1.0, 1.0)) * self.mask
        if self.start.zero is None:
            low: Tensor | float = -float(largest_code(self.start.bits))
            high: Tensor | float = float(largest_code(self.start.bits))
        else:
            low = -self.start.zeros().float().to(scaled.device)
            high = low + float((1 << self.start.bits) - 1)
        inside = torch.minimum(torch.maximum(scaled, _like(low, scaled)), _like(high, scaled))
        return through(inside, inside.round()) * self.mask


def _one_step(stored: StoredTensor, dense: Tensor) -> StoredTensor:
    """The same weights on a grid of one step for all, symmetric."""
    kept = dense[dense != 0]
    spread = float(kept.square().mean().sqrt()) if len(kept) else 1.0
    scale = torch.tensor([max(SMALLEST_SCALE, FREE_SPREAD * spread)]).half()
    top = largest_code(FREE_BITS)
    codes = (dense / scale.float()).round().clamp(-top, top).to(torch.int8)
    return StoredTensor(FREE_BITS, codes, scale)


def _tightened(stored: StoredTensor) -> StoredTensor:
    """The same codes in the fewest bits that hold them."""
    most = int(stored.codes.abs().max()) if stored.codes.numel() else 0
    return replace(stored, bits=next(b for b in (2, 3, FREE_BITS) if largest_code(b) >= most))


def as_half(values: Tensor) -> Tensor:
    """Values as float16 holds them."""
    most = torch.finfo(torch.float16).max
    return through(values, values.clamp(-most, most).half().float())


def through(values: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `values`."""
    return values + (rounded - values).detach()


def _like(bound: Tensor | float, values: Tensor) -> Tensor:
    return bound if isinstance(bound, Tensor) else values.new_tensor(bound)
