"""The matrix of every kind of layer gives what the layer gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.model.matrix import (
    groups_of,
    matrix_of,
    rows_of,
    weight_gradient,
    weight_of,
    weight_shape,
    with_matrix,
)

CASES = [
    (nn.Linear(4, 5), (2, 3, 4)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7, 7)),
    (nn.Conv3d(4, 6, (2, 3, 1), (1, 2, 1), (1, 0, 1), (2, 1, 1)), (2, 4, 7, 7, 5)),
    (nn.Conv3d(4, 6, 2, groups=2), (2, 4, 5, 4, 5)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 7)),
    (nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), groups=2, dilation=(1, 2)), (2, 4, 7, 5)),
    (nn.ConvTranspose2d(4, 6, 2, stride=2, padding=2), (2, 4, 7, 5)),
    (nn.ConvTranspose3d(4, 6, 2, stride=2), (2, 4, 3, 3, 2)),
]
NAMES = [f"{type(layer).__name__}{index}" for index, (layer, _) in enumerate(CASES)]


@pytest.mark.parametrize(("layer", "shape"), CASES, ids=NAMES)
def test_matrix_times_rows_is_the_output(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    output = layer(x).detach()
    matrix, groups = matrix_of(layer), groups_of(layer)
    assert matrix.shape[0] == weight_shape(layer)[0] == len(layer.bias)
    rows = rows_of(layer, x).reshape(-1, groups, matrix.shape[1])
    blocks = matrix.reshape(groups, -1, matrix.shape[1])
    found = torch.einsum("ngc,goc->ngo", rows, blocks).flatten(1) + layer.bias.detach()
    positions = output if isinstance(layer, nn.Linear) else output.movedim(1, -1)
    torch.testing.assert_close(found, positions.reshape(found.shape))


@pytest.mark.parametrize(("layer", "shape"), CASES, ids=NAMES)
def test_back_to_the_weight(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert torch.equal(weight_of(layer, matrix_of(layer)), layer.weight)
    twice = with_matrix(layer, 2 * matrix_of(layer), torch.zeros_like(layer.bias))
    assert torch.equal(twice.weight, 2 * layer.weight)
    assert not twice.bias.any()
    assert layer.bias.any()


@pytest.mark.parametrize(("layer", "shape"), CASES[2:], ids=NAMES[2:])
def test_gradients_at_the_matrix(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    output = layer(x)
    above = torch.randn_like(output)
    (wanted,) = torch.autograd.grad(output, layer.weight, above)
    found: Tensor = weight_gradient(layer, x, above)
    torch.testing.assert_close(weight_of(layer, found), wanted)


def test_an_embedding_is_its_own_matrix() -> None:
    layer = nn.Embedding(7, 3)
    assert matrix_of(layer) is not layer.weight
    assert torch.equal(matrix_of(layer), layer.weight)
    tokens = torch.tensor([[1, 1], [6, 0]])
    above = torch.randn(2, 2, 3)
    found = weight_gradient(layer, tokens, above)
    torch.testing.assert_close(found[1], above[0].sum(0))
    assert not found[2].any()
