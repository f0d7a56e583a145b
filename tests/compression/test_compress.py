from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.carry import carry
from autocompress.compression.coding import decode, encode
from autocompress.compression.compress import compress_layer
from autocompress.compression.factorize import refit_second
from autocompress.compression.moments import Statistics, collect, damped, fit_grid
from autocompress.compression.quantize import largest_code, round_with_feedback
from autocompress.compression.sparsify import fit_within
from autocompress.compression.stored import StoredTensor
from autocompress.compression.treated import Treated, build_module
from autocompress.hardware.device import DEVICES, kernel_class, reject
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.search_space.option import BITS, Option

METHODS = ("obs", "nearest")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 10, 3, padding=1)
        self.plain = nn.Conv2d(10, 8, 3, bias=False)
        self.hidden = nn.Linear(8, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.conv(x).relu()).mean((2, 3))
        return self.head(self.hidden(x).relu())


@pytest.fixture(scope="module")
def traced() -> tuple[Net, dict[str, Layer], dict[str, Statistics]]:
    torch.manual_seed(0)
    model = Net().eval()
    # Smooth images: their pixels are strongly correlated.
    x = nn.functional.avg_pool2d(torch.randn(40, 2, 10, 10), 3, 1)
    layers = trace(model, (x[:1],))
    return model, {layer.name: layer for layer in layers}, collect(model, layers, (x,))


def grid_of_options() -> list[Option]:
    return [
        option
        for bits in BITS
        for sparsity in (0.0, 0.5, 0.8)
        for rank in (1.0, 0.5)
        for activations in ("float32", "int8")
        for method in METHODS
        if bits <= 8 or activations == "float32"
        for option in [Option(bits, sparsity, rank, activations, method)]
        if not option.is_identity
    ]


@pytest.mark.parametrize("name", ["conv", "plain", "head"])
def test_every_option_is_made_as_it_says(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]], name: str
) -> None:
    model, layers, statistics = traced
    module, layer = model.get_submodule(name), layers[name]
    weight = module.weight.detach().flatten(1).double()  # type: ignore[operator]
    moment = damped(statistics[name].second_moment)
    options = grid_of_options()
    made = {
        option: (treated, error)
        for option, treated, error in compress_layer(layer, module, statistics[name], options)
    }
    assert set(made) == set(options)
    for option, (treated, error) in made.items():
        assert len(treated.weights) == (2 if option.is_factored else 1)
        for stored in treated.weights:
            assert stored.bits == option.bits
            count = stored.codes.numel()
            zeros = int((stored.codes == 0).sum())
            # Rounding may add zeros to those that were pruned.
            assert zeros >= count - round((1 - option.sparsity) * count)
            if option.bits <= 8:
                assert stored.codes.dtype == torch.int8
                assert int(stored.codes.abs().max()) <= largest_code(option.bits)
            elif option.sparsity:
                assert zeros == count - round((1 - option.sparsity) * count)
        if option.is_factored:
            rank = layer.rank(0.5)
            assert treated.weights[0].codes.shape == (rank, weight.shape[1])
            assert treated.weights[1].codes.shape == (weight.shape[0], rank)
        change = treated.matrix().double() - weight
        wanted = float(((change @ moment) * change).sum() / ((weight @ moment) * weight).sum())
        assert error == pytest.approx(wanted, rel=1e-6, abs=1e-12)
        bias = module.bias
        if not isinstance(bias, Tensor):
            assert treated.bias is None
        else:
            wanted_bias = bias.detach().half() if option.bits < 32 else bias.detach()
            assert treated.bias is not None
            assert torch.equal(treated.bias, wanted_bias)
        assert treated.is_int8 == (option.activations == "int8")


def test_int8_options_hold_the_grids_of_the_layer(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]],
) -> None:
    model, layers, statistics = traced

    def grids(name: str, rank: float) -> Treated:
        option = Option(8, rank=rank, activations="int8")
        module = model.get_submodule(name)
        return next(compress_layer(layers[name], module, statistics[name], [option]))[1]

    for name in ("conv", "plain", "hidden"):
        own = statistics[name]
        assert grids(name, 1.0).grids == (own.input_grid, own.output_grid)
    # A linear layer without a fused ReLU writes floats.
    assert grids("head", 1.0).grids == (statistics["head"].input_grid, None)
    treated = grids("head", 0.5)
    assert len(treated.grids) == 3
    middle = statistics["head"].sample @ treated.weights[0].dense().T
    assert treated.grids[1] == fit_grid(middle)
    # A fused ReLU leaves nothing below zero to hold.
    assert statistics["hidden"].output_grid.zero_point == 0


def test_int8_activations_change_neither_weights_nor_error(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]],
) -> None:
    model, layers, statistics = traced
    pair = [Option(4, 0.5, 0.5), Option(4, 0.5, 0.5, "int8")]
    (_, plain, error), (_, integer, same) = compress_layer(
        layers["plain"], model.plain, statistics["plain"], pair
    )
    assert error == same
    assert torch.equal(plain.matrix(), integer.matrix())


@pytest.mark.parametrize("option", [Option(32, 0, 0.5), Option(4, 0, 0.5), Option(3, 0.5, 0.5)])
def test_the_second_factor_makes_up_for_the_first_as_stored(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]], option: Option
) -> None:
    model, layers, statistics = traced
    _, treated, _ = next(compress_layer(layers["conv"], model.conv, statistics["conv"], [option]))
    weight = model.conv.weight.detach().flatten(1).double()
    first, second = treated.weights
    best, middle = refit_second(
        weight, first.dense().double(), damped(statistics["conv"].second_moment)
    )
    if option.sparsity:
        best = fit_within(best, middle, second.codes != 0)
    wanted = round_with_feedback(best, [option.bits], middle)[option.bits]
    if option.bits == 32:
        torch.testing.assert_close(second.codes, wanted.codes, rtol=1e-4, atol=1e-5)
    else:
        # Rounding may have made zeros of survivors, and so changed what is fitted.
        assert float((second.codes == wanted.codes).float().mean()) > 0.9


def test_an_option_does_not_depend_on_the_others(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]],
) -> None:
    model, layers, statistics = traced
    options = [
        Option(b, s, r, method=m)
        for b in (2, 4)
        for s in (0.0, 0.8)
        for r in (1.0, 0.5)
        for m in METHODS
    ]
    arguments = layers["conv"], model.conv, statistics["conv"]
    for option, treated, error in compress_layer(*arguments, options[::-1]):
        _, alone, same = next(compress_layer(*arguments, [option]))
        assert error == same
        for one, other in zip(treated.weights, alone.weights, strict=True):
            assert torch.equal(one.codes, other.codes)


def test_second_moments_beat_the_baseline_at_every_setting(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]],
) -> None:
    model, layers, statistics = traced
    for name in ("conv", "plain"):
        options = [option for option in grid_of_options() if option.bits <= 8]
        arguments = layers[name], model.get_submodule(name), statistics[name]
        error = {option: error for option, _, error in compress_layer(*arguments, options)}
        for option in options:
            # Eight bits alone are nearly exact by either method.
            if option.method == "obs" and (
                option.bits < 8 or option.sparsity or option.is_factored
            ):
                assert error[option] < error[replace(option, method="nearest")], option.id


def test_the_baseline_is_magnitude_and_the_nearest_code(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]],
) -> None:
    model, layers, statistics = traced
    option = Option(8, 0.5, method="nearest")
    _, treated, _ = next(
        compress_layer(layers["plain"], model.plain, statistics["plain"], [option])
    )
    weight = model.plain.weight.detach().flatten(1)
    kept = weight.abs() >= weight.abs().flatten().sort(descending=True).values[360 - 1]
    scale = treated.weights[0].scale
    assert scale is not None
    step = scale.float()[:, None]
    nearest = (weight / step).round().clamp(-127, 127) * step * kept
    torch.testing.assert_close(treated.matrix(), nearest)


def test_more_bits_fewer_zeros_and_more_rank_lose_less(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]],
) -> None:
    model, layers, statistics = traced
    sweeps = (
        [Option(bits) for bits in (2, 3, 4, 6, 8, 16)],
        [Option(32, sparsity) for sparsity in (0.95, 0.8, 0.5, 0.2)],
        [Option(32, 0, rank) for rank in (0.2, 0.4, 0.7, 0.9)],
    )
    for sweep in sweeps:
        made = compress_layer(layers["plain"], model.plain, statistics["plain"], sweep)
        error = {option: error for option, _, error in made}
        falling = [error[option] for option in sweep]
        assert falling == sorted(falling, reverse=True)
        assert falling[-1] < 0.1 * falling[0]


@pytest.mark.parametrize("case", ["equal rows", "zero weight", "zero input", "few inputs", "tiny"])
def test_degenerate_layers_give_finite_options(case: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 24, generator=generator)
    inputs = torch.randn(100, 24, generator=generator)
    if case == "equal rows":
        weight = weight[:1].repeat(16, 1)
    elif case == "zero weight":
        weight *= 0
    elif case == "zero input":
        inputs *= 0
    elif case == "few inputs":
        inputs = inputs[:2]
    else:
        weight *= 1e-5
    module = nn.Linear(24, 16)
    module.weight = nn.Parameter(weight)
    layer = Layer("fc", "Linear", (16, 24), 400, 384, 1, (1, 24), (1, 16))
    double = inputs.double()
    grid = fit_grid(inputs)
    moments = double.T @ double / len(inputs)
    statistics = Statistics(moments, double.mean(0), inputs, grid, grid)
    count = 0
    for option, treated, error in compress_layer(layer, module, statistics, grid_of_options()):
        count += 1
        assert bool(torch.isfinite(treated.matrix()).all()), option.id
        assert 0 <= error <= 1.1, option.id
    assert count == len(grid_of_options())


FURTHER = [
    Option(1),
    Option(1, 0.5, activations="int8"),
    Option(4, scales="tensor", activations="int8"),
    Option(3, 0.5, scales="8"),
    Option(3, affine=True, rank=0.5),
    Option(4, 0.5, affine=True, scales="tensor", activations="int8"),
    Option(codebook=8, sparsity=0.5),
    Option(codebook=6, rank=0.5, rate=0.01),
    Option(4, rate=0.02),
    Option(4, 0.5, 0.5, rate=0.02, scales="8"),
    Option(4, pattern="1:2"),
    Option(16, pattern="1:2"),
    Option(3, pattern="1:2", rank=0.5, rate=0.01, activations="int8"),
]


@pytest.mark.parametrize("name", ["plain", "hidden"])
def test_further_options_are_made_stored_and_carried(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]], name: str
) -> None:
    model, layers, statistics = traced
    module, layer = model.get_submodule(name), layers[name]
    weight = module.weight.detach().flatten(1).double()  # type: ignore[operator]
    moment = damped(statistics[name].second_moment)
    x = statistics[name].sample
    for option, treated, error in compress_layer(layer, module, statistics[name], FURTHER):
        assert 0 < error < 1, option.id
        for index, stored in enumerate(treated.weights):
            assert_kind(stored, option, layer if index == 0 else None)
            shape = (stored.codes.shape[0], stored.codes.shape[1])
            again = decode(encode(stored), shape)
            assert torch.equal(again.dense(), stored.dense()), option.id
            if option.activations == "int8":
                assert stored.is_uniform
        output = build_module(module, treated)(x)
        assert output.shape == module(x).shape
        # For another target the option is what it was, and as near as the entry to its own.
        carried = carry(layer, module, 1.3 * weight, moment, x, option, treated)
        change = carried.matrix().double() - 1.3 * weight
        loss = float(((change @ moment) * change).sum()) / float(
            ((weight @ moment) * weight).sum()
        )
        assert loss < 1.5 * 1.69 * error + 1e-3, option.id
        for index, stored in enumerate(carried.weights):
            assert_kind(stored, option, layer if index == 0 else None)


def assert_kind(stored: StoredTensor, option: Option, layer: Layer | None) -> None:
    """Whether a stored tensor is what its option says; `layer` where it has taps."""
    assert (stored.codebook is not None) == bool(option.codebook)
    assert (stored.zero is not None) == option.affine
    assert stored.group == option.group
    assert (stored.scale is not None) == (option.bits <= 8 and not option.codebook)
    if option.scales == "tensor":
        assert stored.scale is not None
        assert stored.scale.shape == (1,)
    if option.codebook:
        assert len(stored.dense().unique()) <= option.codebook
    else:
        assert stored.bits == option.bits
    if option.pattern:
        kept, run = option.kept_of
        taps = int(np.prod(layer.weight_shape[2:])) if layer else 1
        runs = (stored.dense() != 0).reshape(len(stored.codes), -1, run, taps)
        assert bool((runs.sum(2) <= kept).all())
    if option.sparsity:
        share = float((stored.dense() == 0).float().mean())
        assert share >= option.sparsity - 1 / stored.codes.numel()


def test_depthwise_convolutions_take_what_counts_no_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)).eval()
    x = torch.randn(30, 8, 9, 9)
    (layer,) = trace(model, (x[:1],))
    statistics = collect(model, [layer], (x,))["0"]
    options = [
        Option(4, scales="tensor"),
        Option(4, scales="4"),
        Option(codebook=8),
        Option(4, affine=True),
        Option(4, rate=0.01),
        Option(1),
    ]
    for option, treated, error in compress_layer(layer, model[0], statistics, options):
        assert error < 0.5, option.id
        assert build_module(model[0], treated)(x).shape == model(x).shape
    assert "no whole runs of 4" in reject(Option(4, pattern="2:4"), layer)


def test_device_says_what_it_cannot_take() -> None:
    layer = Layer("fc", "Linear", (12, 18), 0, 0, 1, (1, 18), (1, 12))
    assert "18 inputs are no whole runs of 4" in reject(Option(4, pattern="2:4"), layer)
    assert not reject(Option(4, pattern="1:2"), layer)
    # The second factor has as many inputs as the rank.
    assert "3 inputs are no whole runs of 2" in reject(Option(4, rank=0.25, pattern="1:2"), layer)
    for option in (Option(codebook=16), Option(4, affine=True), Option(4, scales="6")):
        assert "symmetric codes" in reject(option, layer, format="onnx")
        assert not reject(option, layer)
    assert not reject(Option(4, scales="tensor"), layer, format="onnx")
    assert "zeros like any other" in reject(Option(4, rate=0.1), layer, format="onnx")
    seven = Option(7, affine=True, activations="int8")
    narrow = replace(DEVICES["onnxruntime-cpu"], int8_bits=7)
    assert "more than 7 bits" in reject(seven, layer, narrow)
    assert narrow.suited(seven).bits == 6
    assert kernel_class(seven) == kernel_class(Option(8, activations="int8"))
