"""Made-up treatments for timing: kernels take the same time whatever the values are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.compression.treated import Grid, StoredTensor, Treated
from autocompress.model.layer import Layer
from autocompress.search_space.factors import factor_shapes
from autocompress.search_space.option import Option

GRID = Grid(0.05, 128)  # of values of either sign
RECTIFIED = Grid(0.05, 0)  # of what a ReLU leaves


def stand_in(layer: Layer, module: nn.Module, option: Option, input_grid: Grid = GRID) -> Treated:
    """A treatment with the kernels of `option` and arbitrary weights.

    Args:
        layer: What the trace says of it.
        module: The dense `nn.Linear` or `nn.Conv2d`.
        option: Gives the factors, the channels and the type of activations.
        input_grid: Grid of the input, which must be that of the source's output.
    """
    is_int8, is_dynamic = option.activations == "int8", option.activations == "dynamic"
    matrices = [_values(*shape) for shape in factor_shapes(layer, option)]
    rows = len(matrices[-1])
    stored = tuple(
        _codes(matrix) if is_int8 else _packed(matrix, option) if is_dynamic else _floats(matrix)
        for matrix in matrices
    )
    bias = module.bias.detach()[:rows] if isinstance(module.bias, Tensor) else None
    if not is_int8:
        return Treated(stored, bias, is_dynamic=is_dynamic)
    middle = [GRID] * (len(matrices) - 1)
    return Treated(stored, bias, (input_grid, *middle, output_grid(layer)))


def output_grid(layer: Layer) -> Grid:
    """A stand-in's output grid: a ReLU leaves nothing below zero, a ReLU6 nothing above six."""
    if layer.activation == "relu6":
        return Grid.covering(0.0, 6.0)
    return RECTIFIED if layer.activation else GRID


def _values(rows: int, columns: int) -> Tensor:
    values: Tensor = torch.linspace(-1, 1, rows * columns) / columns**0.5
    return values.reshape(rows, columns)


def _floats(matrix: Tensor) -> StoredTensor:
    return StoredTensor(32, matrix, None)


def _codes(matrix: Tensor) -> StoredTensor:
    # Seven bits: the kernels that `kernel_class` means.
    scale = (matrix.abs().amax(1) / 63).clamp_min(1e-6).half()
    codes = torch.round(matrix / scale.float()[:, None]).clamp(-63, 63).to(torch.int8)
    return StoredTensor(7, codes, scale)


def _packed(matrix: Tensor, option: Option) -> StoredTensor:
    """Codes of the bits, runs and zero points of the option."""
    rows, columns = matrix.shape
    most = 2 ** (option.bits - 1) - 1
    codes = torch.round(matrix / matrix.abs().max() * most).to(torch.int8)
    steps = (rows, -(-columns // option.group)) if option.group else (rows,)
    scale = torch.full(steps, 1e-3).half()
    zero = torch.full(steps, most, dtype=torch.uint8) if option.affine else None
    return StoredTensor(option.bits, codes, scale, option.group, zero)
