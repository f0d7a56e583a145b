from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.moments import SAMPLE_EXAMPLES, collect, damped, fit_grid
from autocompress.compression.treated import Grid
from autocompress.model.matrix import rows_of
from autocompress.model.trace import trace


def patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The values under the kernel at every place, one at a time."""
    (top, left), (down, right) = conv.padding, conv.stride
    (skip_y, skip_x), (height, width) = conv.dilation, conv.kernel_size
    padded = nn.functional.pad(x, (left, left, top, top))
    outputs = conv(x).shape
    rows = []
    for image, i, j in itertools.product(range(len(x)), range(outputs[2]), range(outputs[3])):
        ys = [i * down + skip_y * k for k in range(height)]
        xs = [j * right + skip_x * k for k in range(width)]
        rows.append(padded[image][:, ys][:, :, xs].flatten())
    return torch.stack(rows)


CONVOLUTIONS = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": (2, 1)},
    {"kernel_size": 3, "padding": (1, 2), "dilation": 2},
    {"kernel_size": (3, 1), "stride": 2, "padding": 1, "dilation": (2, 1)},
]


@pytest.mark.parametrize("settings", CONVOLUTIONS)
def test_moments_of_a_convolution_are_those_of_its_patches(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, **settings)).eval()  # type: ignore[arg-type]
    x = torch.randn(7, 2, 8, 9)
    conv = model[0]
    assert isinstance(conv, nn.Conv2d)
    rows = patches(conv, x).double()
    torch.testing.assert_close(rows_of(conv, x).double(), rows)
    # Unequal batches: the last one is smaller.
    found = collect(model, trace(model, (x[:1],)), (x,), batch=3)["0"]
    assert found.second_moment.dtype == torch.float64
    torch.testing.assert_close(
        found.second_moment, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(found.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    # The rows are what the weight meets.
    wanted = rows.float() @ conv.weight.detach().flatten(1).T
    got = conv(x).movedim(1, -1).reshape(-1, 3) - conv.bias
    torch.testing.assert_close(got.detach(), wanted, rtol=1e-4, atol=1e-5)


def test_moments_of_a_linear_layer_count_every_position() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).eval()
    x = torch.randn(11, 6, 5)
    found = collect(model, trace(model, (x[:1],)), (x,), batch=4)
    for name, rows in (("0", x), ("1", model[0](x).detach())):
        flat = rows.reshape(66, -1).double()
        moment, mean = flat.T @ flat / 66, flat.mean(0)
        torch.testing.assert_close(found[name].second_moment, moment, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[name].mean, mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(found["0"].sample, x)


def test_the_batch_size_does_not_matter_and_hooks_are_gone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(300, 5)
    layers = [layer for layer in trace(model, (x[:1],)) if layer.is_treated]
    whole, parts = (collect(model, layers, (x,), batch=batch) for batch in (300, 7))
    for name in ("0", "2"):
        torch.testing.assert_close(
            parts[name].second_moment, whole[name].second_moment, rtol=1e-5, atol=1e-6
        )
        assert parts[name].input_grid == whole[name].input_grid
        assert torch.equal(parts[name].sample, whole[name].sample)
        assert len(whole[name].sample) == SAMPLE_EXAMPLES
    assert all(not module._forward_hooks for module in model.modules())


class Shared(nn.Module):
    """A ReLU read by two layers through pooling, and a sum that breaks the chain."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv(x).relu(), 2)
        x = self.left(x) + self.right(x)
        return self.head(x.mean((2, 3)))


def test_layers_that_read_one_tensor_share_the_grid_of_its_source() -> None:
    torch.manual_seed(0)
    model = Shared().eval()
    x = torch.randn(20, 1, 8, 8)
    layers = trace(model, (x[:1],))
    found = collect(model, layers, (x,))
    grid = found["conv"].output_grid
    assert grid.zero_point == 0  # after the ReLU nothing is negative
    assert found["left"].input_grid == found["right"].input_grid == grid
    assert 0 < found["left"].output_grid.zero_point < 255
    # The head reads another tensor, so its grid is its own, unless it is said to be shared.
    assert found["head"].input_grid != found["left"].output_grid
    said = [replace(layer, source="left" * (layer.name == "head")) for layer in layers]
    assert collect(model, said, (x,))["head"].input_grid == found["left"].output_grid
    # The grid of the output is that of the values after the ReLU.
    assert grid == fit_grid(model.conv(x).relu().detach())


class InPlace(nn.Module):
    """Overwrites a layer's input and its output once they were used."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        y = self.a(x)
        x += 100
        return self.b(y.sigmoid_())


def test_what_the_model_overwrites_later_is_not_seen() -> None:
    torch.manual_seed(0)
    model = InPlace().eval()
    x = torch.randn(30, 4)
    found = collect(model, trace(model, (x[:1],)), (x,))["a"]
    assert found.input_grid == fit_grid(x)
    assert found.output_grid == fit_grid(model.a(x).detach())
    assert torch.equal(found.sample, x)


def test_a_grid_covers_zero_and_the_values() -> None:
    generator = torch.Generator().manual_seed(0)
    for values in (
        torch.rand(500, generator=generator),
        torch.rand(500, generator=generator) + 3,
        -torch.rand(500, generator=generator) - 3,
        torch.rand(500, generator=generator) - 0.3,
    ):
        grid = fit_grid(values)
        assert 0 <= grid.zero_point <= 255
        rounded = torch.fake_quantize_per_tensor_affine(
            values, grid.scale, grid.zero_point, 0, 255
        )
        # Uniform values do not pay for clipping.
        assert float((rounded - values).abs().max()) < 1.1 * grid.scale
        zero = torch.fake_quantize_per_tensor_affine(
            torch.zeros(1), grid.scale, grid.zero_point, 0, 255
        )
        assert float(zero) == 0


def test_a_grid_clips_rare_large_values_where_that_pays() -> None:
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    values[0] = 12.0
    whole = Grid.covering(float(values.min()), 12.0)
    grid = fit_grid(values)
    assert grid.scale < whole.scale

    def error(grid: Grid) -> float:
        rounded = torch.fake_quantize_per_tensor_affine(
            values, grid.scale, grid.zero_point, 0, 255
        )
        return float((rounded - values).square().mean())

    assert error(grid) < error(whole)


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_a_constant_has_a_grid(value: float) -> None:
    values = torch.full((10,), value)
    grid = fit_grid(values)
    rounded = torch.fake_quantize_per_tensor_affine(values, grid.scale, grid.zero_point, 0, 255)
    torch.testing.assert_close(rounded, values)


def test_damping_adds_a_share_of_the_mean_diagonal() -> None:
    moment = torch.tensor([[1.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    wanted = torch.tensor([[1.3, 2.0], [2.0, 5.3]], dtype=torch.float64)
    torch.testing.assert_close(damped(moment, 0.1), wanted)
    # Inputs that are always zero leave something to invert.
    torch.linalg.cholesky(damped(torch.zeros(3, 3, dtype=torch.float64)))
