"""Treated layers that can be trained, and the model around them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from autocompress.compression.rounded import swap_sums
from autocompress.compression.trainable_tensor import TrainableTensor, as_half, through
from autocompress.compression.treated import (
    PLAIN_RUN,
    DynamicQuantize,
    FakeQuantize,
    Grid,
    Treated,
    dynamic_run,
)
from autocompress.model.swap import swap
from autocompress.search_space.factors import kernel_index

BIAS_CODES = 31  # of each sign, in free layers


class TrainableLayer(nn.Module):
    """A treated layer that computes with trainable weights what `build_module` computes.

    Args:
        dense: The layer as it was; gives strides and padding, is not changed.
        treated: Where training starts.
        free: Whether the weights are free to become zero or another code.
    """

    def __init__(self, dense: nn.Module, treated: Treated, free: bool = False) -> None:
        super().__init__()
        # In a list, or the dense layer's weights would become this module's.
        self.dense = [dense]
        self.start = treated
        self.is_free = free
        wide = treated.widened()
        allowed = _allowed(treated, wide)
        self.tensors = nn.ModuleList(
            TrainableTensor(weight, free, allowed.get(index))
            for index, weight in enumerate(wide.weights)
        )
        self.bias = None if wide.bias is None else nn.Parameter(wide.bias.float())
        self.rounds = nn.ModuleList(
            _Rounding(grid) if grid else nn.Identity() for grid in wide.grids
        )
        if wide.is_dynamic:
            # Free weights come to have one step for each tensor.
            runs = [PLAIN_RUN if free else dynamic_run(weight) for weight in wide.weights]
            self.rounds = nn.ModuleList([*map(DynamicQuantize, runs), nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        (dense,) = self.dense
        last = len(self.tensors) - 1
        for index, tensor in enumerate(self.tensors):
            if self.rounds:
                x = self.rounds[index](x)
            weight = tensor()
            bias = self._bias(weight) if index == last else None
            if isinstance(dense, nn.Linear):
                x = nn.functional.linear(x, weight, bias)
            elif index == kernel_index(len(self.tensors)):
                x = _convolve(dense, x, weight, bias)
            else:
                x = nn.functional.conv2d(x, weight[:, :, None, None], bias)
        return self.rounds[-1](x) if self.rounds else x

    def matrix(self) -> Tensor:
        """The weight `(out, in)` as it is now, for embeddings that read it."""
        first, *others = (tensor() for tensor in self.tensors)
        product: Tensor = first
        for other in others:
            product = other @ product
        return product

    @property
    def coded_tensors(self) -> list[TrainableTensor]:
        """Those that hold codes in steps, whose length depends on how they are trained."""
        return [t for t in self.tensors if isinstance(t, TrainableTensor) and t.has_steps]

    def treated(self) -> Treated:
        """What training has come to."""
        weights = [tensor.stored() for tensor in self.tensors]  # type: ignore[operator]
        bias = None
        if self.bias is not None:
            with torch.no_grad():
                bias = self._bias(self.tensors[-1]())
            assert bias is not None
            bias = bias.detach().cpu().to(self.start.bias.dtype)  # type: ignore[union-attr]
        narrow = self.start.narrow
        if narrow is not None and narrow.inputs is not None:
            taps = weights[0].codes.shape[1] // narrow.sizes[1]
            columns = (narrow.inputs[:, None] * taps + torch.arange(taps)).flatten()
            weights[0] = replace(weights[0], codes=weights[0].codes[:, columns])
        if narrow is not None and narrow.outputs is not None:
            weights[-1] = weights[-1].rows(narrow.outputs)
            bias = None if bias is None else bias[narrow.outputs]
        return replace(self.start, weights=tuple(weights), bias=bias)

    def _bias(self, weight: Tensor) -> Tensor | None:
        """The bias as it is stored; zero in free layers for outputs that no input reaches."""
        if self.bias is None:
            return None
        assert self.start.bias is not None
        bias = as_half(self.bias) if self.start.bias.dtype == torch.float16 else self.bias
        if self.start.narrow is not None and self.start.narrow.outputs is not None:
            kept = torch.zeros_like(bias)
            kept[self.start.narrow.outputs.to(bias.device)] = 1
            bias = bias * kept
        if not self.is_free:
            return bias
        # A constant is of no use to the layer behind, and costs bytes; so do digits that nothing
        # hangs on.
        return through(bias, _coarse(bias.detach())) * (weight != 0).any(1)


def _coarse(bias: Tensor) -> Tensor:
    """Multiples of a power of two, up to `BIAS_CODES` of them, which float16 holds."""
    most = bias.abs().max().clamp_min(2.0**-12)
    step = torch.exp2((most / BIAS_CODES).log2().ceil())
    return (bias / step).round() * step


class _Rounding(nn.Module):
    """Rounds to a grid; no gradient beyond its ends, where a change would change nothing."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self._round = FakeQuantize(grid)
        self._low, self._high = -grid.scale * grid.zero_point, grid.high

    def forward(self, x: Tensor) -> Tensor:
        return through(x.clamp(self._low, self._high), self._round(x.detach()))


def trainable(
    model: nn.Module, treated: Mapping[str, Treated], free: bool = False
) -> tuple[nn.Module, dict[str, TrainableLayer]]:
    """A copy of a model whose treated layers can be trained; all else is frozen.

    Args:
        model: The original; not changed.
        treated: Layers by name.
        free: Whether their weights are free.

    Returns:
        The copy, and its trainable layers by name.
    """
    student = copy.deepcopy(model).requires_grad_(False)
    layers = {
        name: TrainableLayer(model.get_submodule(name), stored, free)
        for name, stored in treated.items()
    }
    for name, layer in layers.items():
        swap(student, name, layer)
    swap_sums(student, dict(treated).get)
    return student, layers


def _allowed(treated: Treated, wide: Treated) -> dict[int, Tensor]:
    """For the first and the last tensor, which of their weights belong to channels that stay."""
    narrow = treated.narrow
    if narrow is None:
        return {}
    allowed: dict[int, Tensor] = {}
    if narrow.inputs is not None:
        rows, columns = wide.weights[0].codes.shape
        taps = columns // narrow.sizes[1]
        kept = torch.zeros(narrow.sizes[1], dtype=torch.bool)
        kept[narrow.inputs] = True
        allowed[0] = kept.repeat_interleave(taps).expand(rows, -1).clone()
    if narrow.outputs is not None:
        last = len(wide.weights) - 1
        rows, columns = wide.weights[last].codes.shape
        kept = torch.zeros(rows, dtype=torch.bool)
        kept[narrow.outputs] = True
        mask = kept[:, None].expand(-1, columns)
        allowed[last] = allowed[last] & mask if last in allowed else mask.clone()
    return allowed


def _convolve(dense: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    assert isinstance(dense, nn.Conv2d)
    shape = (len(weight), weight.shape[1] // prod(dense.kernel_size), *dense.kernel_size)
    # With the weight and bias of another module: strides, padding and its mode are the layer's.
    output: Tensor = dense._conv_forward(x, weight.reshape(shape), bias)
    return output
