"""Every option is made as it says, and none depends on the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compress_parts import Net
from torch import Tensor, nn

from autocompress.compression.compress import compress_layer
from autocompress.compression.factorize import refit_second
from autocompress.compression.moments import Statistics, damped, fit_grid
from autocompress.compression.quantize import largest_code, round_with_feedback
from autocompress.compression.sparsify import fit_within
from autocompress.compression.treated import Treated
from autocompress.model.layer import Layer
from autocompress.search_space.option import BITS, Option

METHODS = ("obs", "nearest")


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
