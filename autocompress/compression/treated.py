"""What is stored for a layer under an option, and the torch module that computes it.

A treated layer is one stored tensor, or two or three applied one after the other when it is
factored.  With int8 activations it also holds the grids on which its input, middle and output
values are rounded, so that the module is a float twin of what an integer kernel computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from autocompress.compression.stored import StoredTensor as StoredTensor
from autocompress.model.matrix import STORED, matrix_of, with_matrix
from autocompress.search_space.factors import kernel_index

PLAIN_RUN = 128  # inputs that share a step: longer runs are hardly faster, shorter ones slower


@dataclass(frozen=True)
class Grid:
    """Unsigned 8-bit affine grid of activations: `real = scale * (code - zero_point)`."""

    scale: float
    zero_point: int

    @property
    def high(self) -> float:
        """The largest value on the grid."""
        return self.scale * (255 - self.zero_point)

    @staticmethod
    def covering(low: float, high: float) -> Grid:
        """The finest grid that holds zero and `[low, high]`."""
        low, high = min(low, 0.0), max(high, 0.0)
        # float32 is what ONNX stores: round here once, so that the twin and the file agree.
        scale = float(torch.tensor(max(high - low, 1e-8) / 255, dtype=torch.float32))
        return Grid(scale, min(255, max(0, round(-low / scale))))


@dataclass(frozen=True)
class Narrow:
    """Which channels a layer still has, of those that it had.

    Args:
        sizes: Output and input channels of the whole layer; only read where some are gone.
        outputs: `(n,)` int64 output channels that stay, ascending; None for all.
        inputs: `(n,)` input channels that stay; None for all.
    """

    sizes: tuple[int, int]
    outputs: Tensor | None = None
    inputs: Tensor | None = None


@dataclass(frozen=True)
class Treated:
    """One layer under one option.

    Args:
        weights: One stored tensor `(out, in * kh * kw)`, or two: `(rank, in * kh * kw)`, applied
            first, then `(out, rank)`; or three: `(core_in, in)`, the core
            `(core_out, core_in * kh * kw)`, and `(out, core_out)`.
        bias: `(out,)` float16 or float32, or None.
        grids: Empty for float activations.  For int8: grid of the input, then of each stored
            tensor's output; an output whose grid is None stays float.
        narrow: Which channels these are the weights of; None for all.
        is_dynamic: Whether each tensor's input is rounded to int8 at each call, see
            `DynamicQuantize`; such a layer has no grids.
    """

    weights: tuple[StoredTensor, ...]
    bias: Tensor | None
    grids: tuple[Grid | None, ...] = ()
    narrow: Narrow | None = None
    is_dynamic: bool = False

    @property
    def is_int8(self) -> bool:
        return bool(self.grids)

    @property
    def shape(self) -> tuple[int, int]:
        """`(out, in * kh * kw)` of the whole layer."""
        rows, columns = self.weights[-1].codes.shape[0], self.weights[0].codes.shape[1]
        if len(self.weights) == 3:
            columns *= self.weights[1].codes.shape[1] // len(self.weights[0].codes)
        if self.narrow is not None and self.narrow.outputs is not None:
            rows = self.narrow.sizes[0]
        if self.narrow is not None and self.narrow.inputs is not None:
            columns = self.narrow.sizes[1] * (columns // len(self.narrow.inputs))
        return rows, columns

    def matrix(self) -> Tensor:
        """The `(out, in * kh * kw)` float32 matrix of the whole layer."""
        first, *rest = (weight.dense() for weight in self.widened().weights)
        if len(rest) == 2:
            # The taps of the core meet every channel that the first factor reads.
            core = rest.pop(0)
            taps = core.reshape(len(core), len(first), -1)
            first = torch.einsum("bat,ai->bit", taps, first).flatten(1)
        for factor in rest:
            first = factor @ first
        return first

    def widened(self) -> Treated:
        """The same in full width: zeros stand for the channels that are gone."""
        if self.narrow is None:
            return self
        outputs, inputs = self.narrow.outputs, self.narrow.inputs
        weights, bias = list(self.weights), self.bias
        if inputs is not None:
            taps = weights[0].codes.shape[1] // len(inputs)
            columns = (inputs[:, None] * taps + torch.arange(taps)).flatten()
            weights[0] = weights[0].spread_columns(columns, self.narrow.sizes[1] * taps)
        if outputs is not None:
            weights[-1] = weights[-1].spread_rows(outputs, self.narrow.sizes[0])
            if bias is not None:
                wide = bias.new_zeros(self.narrow.sizes[0])
                wide[outputs] = bias
                bias = wide
        return Treated(tuple(weights), bias, self.grids, is_dynamic=self.is_dynamic)

    def with_outputs(self, outputs: Tensor) -> Treated:
        """A layer that has all of its output channels with some of them only."""
        last = self.weights[-1]
        inputs, width = (self.narrow.inputs, self.narrow.sizes[1]) if self.narrow else (None, 0)
        return Treated(
            (*self.weights[:-1], last.rows(outputs)),
            None if self.bias is None else self.bias[outputs],
            self.grids,
            Narrow((len(last.codes), width), outputs, inputs),
            self.is_dynamic,
        )


def stored_dense(module: nn.Module) -> Treated:
    """What is stored for a layer that stays as it is: the module's own float32 weights."""
    bias = getattr(module, "bias", None)
    stored = StoredTensor(32, matrix_of(module), None)
    return Treated((stored,), bias.detach() if isinstance(bias, Tensor) else None)


class FakeQuantize(nn.Module):
    """Rounds values to a `Grid` and back, as a quantise-dequantise pair does."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self._steps = float(1 / torch.tensor(grid.scale, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        # The same bits as `torch.fake_quantize_per_tensor_affine`, which also makes a mask for
        # the backward pass and takes over ten times as long.
        low, high = -self.grid.zero_point, 255 - self.grid.zero_point
        with torch.no_grad():
            rounded = torch.mul(x, self._steps).round_().clamp_(low, high).mul_(self.grid.scale)
        # Gradients pass straight through the rounding (Bengio et al., 1308.3432).
        return x + (rounded - x).detach() if x.requires_grad else rounded

    def extra_repr(self) -> str:
        return f"scale={self.grid.scale:.4g}, zero_point={self.grid.zero_point}"


class DynamicQuantize(nn.Module):
    """Rounds values to int8 in runs of a row, each with the step that its largest value asks for,
    as onnxruntime's `MatMulNBits` does with accuracy level 4.

    Args:
        run: Values of a run; the last one of a row may be shorter.
    """

    def __init__(self, run: int) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        with torch.no_grad():
            runs = nn.functional.pad(x, (0, -width % self.run))
            runs = runs.reshape(*x.shape[:-1], -1, self.run)
            largest = runs.abs().amax(-1, keepdim=True)
            codes = (runs * torch.where(largest > 0, 127 / largest, 0.0)).round_()
            rounded: Tensor = codes.mul_(largest / 127).flatten(-2)[..., :width]
        # Gradients pass straight through the rounding (Bengio et al., 1308.3432).
        return x + (rounded - x).detach() if x.requires_grad else rounded

    def extra_repr(self) -> str:
        return f"run={self.run}"


def dynamic_run(stored: StoredTensor) -> int:
    """How many inputs share a step where they are rounded at each call: as many as weights do, or
    `PLAIN_RUN` where a whole row of weights has one."""
    return stored.group or PLAIN_RUN


def bias_codes(bias: Tensor, stored: StoredTensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """A bias as integer kernels add it: in steps of input times weight.

    Args:
        bias: `(rows,)`.
        stored: The weights of its step, integer codes with one step a row.
        grid: Of the step's input.

    Returns:
        Codes `(rows,)` int32, and their steps `(rows,)` float32.
    """
    scale = torch.tensor(grid.scale, dtype=torch.float32) * stored.row_steps()
    steps = bias.double() / torch.where(scale > 0, scale, 1.0).double()
    limit = 2**31 - 1
    codes = torch.where(scale > 0, steps.round().clamp(-limit, limit), 0.0)
    return codes.to(torch.int32), scale


def build_module(layer: nn.Module, treated: Treated) -> nn.Module:
    """A module that computes `layer` with the stored weights in its place.

    Args:
        layer: The dense module; gives strides and padding, is not changed.
        treated: What is stored.

    Raises:
        TypeError: If `layer` is of a kind that is not treated.
    """
    if isinstance(layer, STORED):
        own = None if treated.bias is None else treated.bias.float()
        return with_matrix(layer, treated.matrix(), own)
    steps: list[nn.Linear | nn.Conv2d]
    treated = treated.widened()
    if isinstance(layer, nn.Linear):
        steps = [_linear(weight.dense()) for weight in treated.weights]
    elif isinstance(layer, nn.Conv2d):
        kernel = kernel_index(len(treated.weights))
        steps = [
            _convolution(layer, weight.dense()) if index == kernel else _pointwise(weight.dense())
            for index, weight in enumerate(treated.weights)
        ]
    else:
        raise TypeError(f"build_module: {type(layer).__name__} is not treated")
    if treated.bias is not None:
        bias = treated.bias.float()
        grid = treated.grids[len(steps) - 1] if treated.is_int8 else None
        if grid is not None:
            codes, scale = bias_codes(bias, treated.weights[-1], grid)
            bias = codes * scale
        steps[-1].bias = nn.Parameter(bias, requires_grad=False)
    modules: list[nn.Module] = []
    for index, step in enumerate(steps):
        grid = treated.grids[index] if treated.is_int8 else None
        modules += [FakeQuantize(grid)] if grid else []
        if treated.is_dynamic:
            modules.append(DynamicQuantize(dynamic_run(treated.weights[index])))
        modules.append(step)
    last = treated.grids[-1] if treated.is_int8 else None
    modules += [FakeQuantize(last)] if last else []
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules).eval()


def _linear(weight: Tensor) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module


def _convolution(layer: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    read = weight.shape[1] // prod(layer.kernel_size)
    # Of a narrow layer in groups, whole groups are gone.
    groups = layer.groups * weight.shape[0] // layer.out_channels if layer.groups > 1 else 1
    module = nn.Conv2d(
        read * groups,
        weight.shape[0],
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        groups=groups,
        padding_mode=layer.padding_mode,
        bias=False,
        device="meta",
    )
    shape = (weight.shape[0], read, *layer.kernel_size)
    module.weight = nn.Parameter(weight.reshape(shape), requires_grad=False)
    return module


def _pointwise(weight: Tensor) -> nn.Conv2d:
    module = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False, device="meta")
    module.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)
    return module
