"""The weight of a layer as the matrix that techniques work on, and back.

A `Linear` or a convolution multiplies rows of its input by `(out, in / groups * taps)`.  A
transposed convolution is one over its input with zeros between the values (Dumoulin and Visin,
1603.07285, section 4).  An embedding picks rows of `(entries, features)`.
"""

from __future__ import annotations

import copy
from math import prod

import torch
from torch import Tensor, nn

from autocompress.model.gates import GateLinear

# What the runtimes run under every option, and what is only stored in fewer bytes: kernels then
# read a float weight that is made when the model is loaded.
OPERATORS = (nn.Linear, nn.Conv2d)
STORED = (
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    GateLinear,
)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_operator(module: nn.Module) -> bool:
    """Whether a layer can run on other kernels than those of its dense weight."""
    return type(module) in OPERATORS


def groups_of(module: nn.Module) -> int:
    """Groups of a convolution; 1 of every other layer."""
    return int(module.groups) if isinstance(module, nn.modules.conv._ConvNd) else 1


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """`(out, in / groups, *taps)`; of an embedding `(entries, features)`."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    shape = tuple(weight.shape)
    if isinstance(module, TRANSPOSED):
        groups = groups_of(module)
        return shape[1] * groups, shape[0] // groups, *shape[2:]
    return shape


def matrix_of(module: nn.Module) -> Tensor:
    """The weight as a matrix `(rows, columns)`, detached; a view where that is possible."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    if not isinstance(module, TRANSPOSED):
        return weight.flatten(1)
    groups = groups_of(module)
    parts = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return parts.transpose(1, 2).reshape(weight.shape[1] * groups, -1)


def stored_layout(module: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """How a matrix `(rows, columns)` becomes the weight: reshape, permutation, reshape.

    The permutation is empty where the order of values is the same.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    shape = tuple(weight.shape)
    if not isinstance(module, TRANSPOSED):
        return shape, (), shape
    groups, taps = groups_of(module), prod(shape[2:])
    return (groups, shape[1], shape[0] // groups, taps), (0, 2, 1, 3), shape


def weight_of(module: nn.Module, matrix: Tensor) -> Tensor:
    """The inverse of `matrix_of`."""
    first, order, last = stored_layout(module)
    parts = matrix.reshape(first)
    return (parts.permute(order) if order else parts).reshape(last)


def with_matrix(module: nn.Module, matrix: Tensor, bias: Tensor | None) -> nn.Module:
    """A module of the same kind and settings with another weight and bias.

    Args:
        module: Any layer with a `weight`; it is not changed, and other tensors are shared.
        matrix: As `matrix_of` gives it.
        bias: In the place of the module's own; None leaves that.
    """
    result = copy.copy(module)
    result._parameters = dict(module._parameters)
    weight = weight_of(module, matrix).contiguous()
    result._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        result._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
    return result


def rows_of(module: nn.Module, x: Tensor) -> Tensor:
    """The rows `(n, columns)` that the matrix multiplies, of a layer that is no embedding.

    A layer with several groups has `(n * groups, columns)`, the groups of a position in a row.
    """
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(module, nn.modules.conv._ConvNd)
    columns = prod(weight_shape(module)[1:])
    if type(module) is nn.Conv2d:
        assert not isinstance(module.padding, str)  # such layers are not treated
        patches = nn.functional.unfold(
            x, module.kernel_size, module.dilation, module.padding, module.stride
        )
        return patches.transpose(1, 2).reshape(-1, columns)
    patches = _stuffed(module, x) if isinstance(module, TRANSPOSED) else _patches(module, x)
    return patches.reshape(-1, columns)


def _patches(module: nn.modules.conv._ConvNd, x: Tensor) -> Tensor:
    """`(n, *positions, in, *taps)` of a convolution in any number of dimensions."""
    assert not isinstance(module.padding, str)
    pads = [pad for pad in reversed(module.padding) for _ in range(2)]
    return _windows(module, nn.functional.pad(x, pads), module.stride)


def _stuffed(module: nn.modules.conv._ConvNd, x: Tensor) -> Tensor:
    """The same of a transposed one: windows of the input with zeros between its values."""
    assert not isinstance(module.padding, str)
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], module.stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *sizes)
    places = tuple(slice(None, None, step) for step in module.stride)
    wide[(slice(None), slice(None), *places)] = x
    pads: list[int] = []
    for axis in reversed(range(len(sizes))):
        around = module.dilation[axis] * (module.kernel_size[axis] - 1) - module.padding[axis]
        pads += [around, around + module.output_padding[axis]]
    windows = _windows(module, nn.functional.pad(wide, pads), (1,) * len(sizes))
    return windows.flip([*range(-len(sizes), 0)])  # the kernel lies the other way round


def _windows(module: nn.modules.conv._ConvNd, x: Tensor, strides: tuple[int, ...]) -> Tensor:
    for axis, step in enumerate(strides):
        spread = (module.kernel_size[axis] - 1) * module.dilation[axis] + 1
        x = x.unfold(2 + axis, spread, step)[..., :: module.dilation[axis]]
    return x.movedim(1, 1 + len(strides))  # after the positions


def weight_gradient(module: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient at the matrix of a layer, given that at its output; `(rows, columns)`.

    Args:
        module: A layer of `STORED`.
        x: Its input.
        gradient: Of a scalar at its output.
    """
    matrix = matrix_of(module).clone().requires_grad_()
    with torch.enable_grad():
        tensors = {"weight": weight_of(module, matrix)}
        output = torch.func.functional_call(module, tensors, (x,))
    (found,) = torch.autograd.grad(output, matrix, gradient)
    return found
