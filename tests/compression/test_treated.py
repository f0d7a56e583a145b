from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.treated import (
    FakeQuantize,
    Grid,
    StoredTensor,
    Treated,
    bias_codes,
    build_module,
)

CONVOLUTIONS = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": 3, "padding": 2, "dilation": (2, 1)},
]


def floats(weight: Tensor) -> StoredTensor:
    return StoredTensor(32, weight.detach().clone(), None)


def bias_of(module: nn.Module) -> Tensor:
    assert isinstance(module.bias, Tensor)
    return module.bias.detach()


def integers(rows: int, columns: int, seed: int = 0) -> StoredTensor:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)
    return StoredTensor(8, codes, torch.linspace(0.01, 0.02, rows).half())


def test_a_stored_tensor_is_codes_times_the_step_of_each_row() -> None:
    codes = torch.tensor([[-1, 0, 1], [3, 2, -3]], dtype=torch.int8)
    stored = StoredTensor(3, codes, torch.tensor([0.5, 0.25]).half())
    assert stored.dense().tolist() == [[-0.5, 0.0, 0.5], [0.75, 0.5, -0.75]]
    half = StoredTensor(16, torch.tensor([[0.1]]).half(), None).dense()
    assert half.dtype == torch.float32
    assert float(half) == float(np.float16(0.1))


def test_dense_weights_make_the_dense_linear_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    built = build_module(layer, Treated((floats(layer.weight),), bias_of(layer)))
    x = torch.randn(4, 2, 5)
    assert torch.equal(built(x), layer(x))
    assert not any(parameter.requires_grad for parameter in built.parameters())


@pytest.mark.parametrize("settings", CONVOLUTIONS)
@pytest.mark.parametrize("biased", [True, False])
def test_dense_weights_make_the_dense_convolution(
    settings: dict[str, object], biased: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, bias=biased, **settings)  # type: ignore[arg-type]
    stored = Treated((floats(layer.weight.flatten(1)),), bias_of(layer) if biased else None)
    built = build_module(layer, stored)
    x = torch.randn(3, 2, 7, 8)
    assert torch.equal(built(x), layer(x))


@pytest.mark.parametrize("settings", CONVOLUTIONS)
def test_two_factors_of_a_convolution_are_their_product(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, **settings)  # type: ignore[arg-type]
    columns = layer.weight[0].numel()
    treated = Treated((floats(torch.randn(3, columns)), floats(torch.randn(4, 3))), bias_of(layer))
    built = build_module(layer, treated)
    assert [type(step) for step in built.children()] == [nn.Conv2d, nn.Conv2d]
    whole = nn.Conv2d(2, 4, **settings)  # type: ignore[arg-type]
    whole.weight = nn.Parameter(treated.matrix().reshape(layer.weight.shape))
    whole.bias = layer.bias
    x = torch.randn(3, 2, 7, 8)
    torch.testing.assert_close(built(x), whole(x), rtol=1e-4, atol=1e-4)


def test_two_factors_of_a_linear_layer_are_their_product() -> None:
    torch.manual_seed(0)
    first, second = integers(2, 5), integers(3, 2, seed=1)
    bias = torch.randn(3).half()
    treated = Treated((first, second), bias)
    matrix = second.dense() @ first.dense()
    torch.testing.assert_close(treated.matrix(), matrix)
    x = torch.randn(4, 5)
    built = build_module(nn.Linear(5, 3), treated)
    torch.testing.assert_close(built(x), x @ matrix.T + bias.float())


@pytest.mark.parametrize(("scale", "zero_point"), [(0.0237, 3), (1e-4, 255), (0.7, 128), (3.1, 0)])
def test_fake_quantize_gives_the_bits_of_torch(scale: float, zero_point: int) -> None:
    x = 40 * scale * torch.randn(4096, generator=torch.Generator().manual_seed(0))
    x[:3] = torch.tensor([0.0, 1e30, -1e30])
    wanted = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)
    grid = Grid(float(torch.tensor(scale, dtype=torch.float32)), zero_point)
    found = FakeQuantize(grid)(x)
    assert torch.equal(found, wanted)


def test_fake_quantize_rounds_and_clips_like_its_formula() -> None:
    grid = Grid(0.0625, 40)  # a power of two: no tie hangs on how the division is done
    x = torch.linspace(-4, 15, 1001)
    codes = np.clip(np.rint(x.numpy() / np.float32(0.0625)) + 40, 0, 255)
    wanted = (codes - 40) * np.float32(0.0625)
    np.testing.assert_allclose(FakeQuantize(grid)(x).numpy(), wanted, rtol=0, atol=1e-6)
    assert "zero_point=40" in repr(FakeQuantize(grid))


def test_grids_stand_before_between_and_after_the_factors() -> None:
    grids = (Grid(0.02, 100), Grid(0.2, 120), Grid(0.5, 128))
    first, second = integers(2, 5), integers(3, 2, seed=1)
    built = build_module(nn.Linear(5, 3), Treated((first, second), None, grids))
    kinds = [FakeQuantize, nn.Linear, FakeQuantize, nn.Linear, FakeQuantize]
    assert [type(step) for step in built.children()] == kinds
    assert [step.grid for step in built.children() if isinstance(step, FakeQuantize)] == [*grids]
    assert not built.training
    a, b, c = (FakeQuantize(grid) for grid in grids)
    x = torch.randn(6, 5)
    assert torch.equal(built(x), c(b(a(x) @ first.dense().T) @ second.dense().T))


def test_an_output_without_a_grid_stays_float() -> None:
    layer = nn.Linear(5, 3)
    treated = Treated((integers(3, 5),), bias_of(layer), (Grid(0.02, 100), None))
    assert treated.is_int8
    built = build_module(layer, treated)
    assert [type(step) for step in built.children()] == [FakeQuantize, nn.Linear]
    x = torch.randn(6, 5)
    rounded = FakeQuantize(Grid(0.02, 100))(x)
    torch.testing.assert_close(built(x), rounded @ treated.matrix().T + built[-1].bias)


def test_the_bias_of_an_int8_layer_is_in_steps_of_input_times_weight() -> None:
    layer, stored, grid = nn.Linear(5, 3), integers(3, 5), Grid(0.02, 100)
    bias = bias_of(layer)
    codes, scale = bias_codes(bias, stored, grid)
    assert codes.dtype == torch.int32
    torch.testing.assert_close(scale, 0.02 * stored.scale.float())
    assert bool(((codes * scale - bias).abs() <= 0.5001 * scale).all())
    int8 = build_module(layer, Treated((stored,), bias, (grid, None)))
    assert torch.equal(int8[-1].bias, codes * scale)
    floats = build_module(layer, Treated((stored,), bias))
    assert torch.equal(floats.bias, bias)
    # A row without weights has no step; neither has its bias.
    empty = StoredTensor(8, torch.zeros(3, 5, dtype=torch.int8), torch.zeros(3).half())
    assert not bias_codes(bias, empty, grid)[0].any()


def test_an_int8_layer_is_what_integer_arithmetic_gives() -> None:
    """Sums of integer products, one multiplication at the end: no rounding but the grids'."""
    grid, stored = Grid(0.03, 90), integers(3, 5)
    built = build_module(nn.Linear(5, 3), Treated((stored,), None, (grid, None)))
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    codes = np.clip(np.rint(x.numpy() / np.float32(grid.scale)) + grid.zero_point, 0, 255)
    assert stored.scale is not None
    sums = (codes.astype(np.int64) - grid.zero_point) @ stored.codes.numpy().astype(np.int64).T
    wanted = sums * stored.scale.numpy().astype(np.float64) * grid.scale
    np.testing.assert_allclose(built(x).numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_the_layer_given_is_not_changed() -> None:
    layer = nn.Conv2d(2, 4, 3)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    build_module(layer, Treated((integers(4, 18),), torch.zeros(4).half()))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 2, 1), nn.Bilinear(3, 4, 2), nn.ReLU()])
def test_other_modules_are_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(TypeError, match=type(layer).__name__):
        build_module(layer, Treated((integers(2, 2),), None))


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-1, 0), (-1, 1), (2, 3), (-3, -2), (0, 0), (5, 5), (-5, -5), (-1e-3, 1e6), (-9, 1)],
)
def test_a_grid_covers_its_range_and_holds_zero(low: float, high: float) -> None:
    grid = Grid.covering(low, high)
    assert 0 <= grid.zero_point <= 255
    assert grid.scale > 0
    assert grid.scale == float(np.float32(grid.scale))
    # The zero point is a whole number, so that an end may lie half a step outside.
    assert -grid.scale * grid.zero_point <= low + 0.51 * grid.scale
    assert grid.scale * (255 - grid.zero_point) >= high - 0.51 * grid.scale
    span = max(high, 0) - min(low, 0)
    assert grid.scale == pytest.approx(max(span, 1e-8) / 255, rel=1e-6)


def test_grids_with_known_zero_points() -> None:
    assert Grid.covering(0, 255) == Grid(1.0, 0)
    assert Grid.covering(-255, -1) == Grid(1.0, 255)
    assert Grid.covering(-127, 128) == Grid(1.0, 127)
    assert Grid.covering(3, 51) == Grid(float(np.float32(0.2)), 0)
