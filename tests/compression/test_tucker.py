"""Tucker-2: known answers of the factors; layers around a core, from option to training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.bank import Bank, fingerprint
from autocompress.compression.carry import carry
from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics, collect, damped
from autocompress.compression.narrow import embed, narrow_layer
from autocompress.compression.resolve import resolve
from autocompress.compression.trainable import TrainableLayer
from autocompress.compression.treated import FakeQuantize, Treated, build_module
from autocompress.compression.tucker import channel_moment, store_around_core, tucker2
from autocompress.model.layer import Layer
from autocompress.model.shrink import Kept
from autocompress.model.trace import trace
from autocompress.search_space.option import Option

TAPS = 9
Error = Callable[[Tensor, Tensor], float]
System = Callable[..., tuple[Tensor, Tensor]]


def composed(first: Tensor, core: Tensor, last: Tensor) -> Tensor:
    """`(out, in * taps)` by the definition, one tap at a time."""
    cube = core.reshape(len(core), len(first), -1)
    taps = [last @ cube[:, :, tap] @ first for tap in range(cube.shape[2])]
    return torch.stack(taps, 2).flatten(1)


def of_rank(reads: int, makes: int, inputs: int = 6, outputs: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    parts = ((reads, inputs), (makes, reads * TAPS), (outputs, makes))
    return composed(*(torch.randn(*p, generator=generator, dtype=torch.float64) for p in parts))


def test_a_weight_of_exact_tucker_rank_is_restored(system: System) -> None:
    _, moment = system(d=6 * TAPS)
    weight = of_rank(3, 4)
    for metric in (moment, torch.eye(6 * TAPS, dtype=torch.float64)):
        factors = tucker2(weight, metric, TAPS, 3, 4)
        assert [tuple(part.shape) for part in factors] == [(3, 6), (4, 3 * TAPS), (10, 4)]
        assert float((composed(*factors) - weight).abs().max()) < 1e-6 * float(weight.abs().max())


def test_full_shares_give_the_weight_back(system: System) -> None:
    weight, moment = system(rows=8, d=5 * TAPS)
    first, core, last = tucker2(weight, moment, TAPS, 5, 8)
    torch.testing.assert_close(composed(first, core, last), weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("reads", "makes"), [(1, 1), (2, 5), (4, 3), (5, 10)])
def test_whitened_factors_are_no_worse_than_plain_ones(
    system: System, error: Error, seed: int, reads: int, makes: int
) -> None:
    weight, moment = system(seed, rows=12, d=6 * TAPS)
    whitened = composed(*tucker2(weight, moment, TAPS, reads, makes))
    plain = composed(*tucker2(weight, torch.eye(len(moment)).double(), TAPS, reads, makes))
    assert error(whitened - weight, moment) <= error(plain - weight, moment)


def test_least_squares_improves_on_the_higher_order_svd(system: System, error: Error) -> None:
    weight, moment = system(1, rows=12, d=6 * TAPS)
    errors = [
        error(composed(*tucker2(weight, moment, TAPS, 3, 4, turns)) - weight, moment)
        for turns in range(5)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.99 * errors[0]


def test_every_factor_is_the_best_between_the_others(system: System, error: Error) -> None:
    weight, moment = system(2, rows=12, d=6 * TAPS)
    factors = tucker2(weight, moment, TAPS, 3, 4, turns=60)
    least = error(composed(*factors) - weight, moment)
    generator = torch.Generator().manual_seed(0)
    for which in range(3):
        for _ in range(10):
            moved = list(factors)
            shift = torch.randn(moved[which].shape, generator=generator, dtype=torch.float64)
            moved[which] = moved[which] + 1e-3 * shift * moved[which].abs().mean()
            assert error(composed(*moved) - weight, moment) > (1 - 1e-6) * least


def test_the_moment_of_channels_is_the_mean_over_taps(system: System) -> None:
    _, moment = system(d=4 * TAPS)
    wanted = sum(moment[tap::TAPS, tap::TAPS] for tap in range(TAPS)) / TAPS
    torch.testing.assert_close(channel_moment(moment, TAPS), wanted)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_rounded_factors_make_up_for_each_other(system: System, error: Error, bits: int) -> None:
    weight, moment = system(3, rows=16, d=8 * TAPS)
    factors = tucker2(weight, moment, TAPS, 4, 8)
    exact = error(composed(*factors) - weight, moment)
    stored = store_around_core(weight, factors[0], moment, 8, Option(bits))
    assert [part.bits for part in stored] == [bits] * 3
    apart = [store_nearest(part, bits) for part in factors]
    own = error(composed(*(part.dense().double() for part in stored)) - weight, moment) - exact
    assert 0 < own < 0.9 * (error(composed(*apart) - weight, moment) - exact)


def store_nearest(part: Tensor, bits: int) -> Tensor:
    step = part.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (part / step).round() * step


@pytest.fixture(scope="module")
def parts() -> tuple[nn.Sequential, Layer, Statistics, Tensor]:
    """A network whose second convolution has strides, padding and a bias."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )
    model = model.eval().requires_grad_(False)
    x = torch.randn(60, 3, 9, 9)
    x = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    layers = trace(model, (x[:1],))
    return model, layers[1], collect(model, layers, (x,))["2"], x


OPTIONS = [
    Option(tucker=0.5),
    Option(16, tucker=0.25),
    Option(8, tucker=0.5, activations="int8"),
    Option(4, tucker=0.75),
    Option(4, tucker=0.5, rate=0.01),
    Option(codebook=16, tucker=0.5),
    Option(8, tucker=0.5, activations="int8", method="nearest"),
]


def inputs_of(parts: tuple[nn.Sequential, Layer, Statistics, Tensor]) -> Tensor:
    model, _, _, x = parts
    y: Tensor = model[1](model[0](x))
    return y


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.id)
def test_an_option_is_three_tensors_whose_module_computes_their_matrix(parts, option) -> None:
    model, layer, statistics, _ = parts
    ((found, treated, relative),) = compress_layer(layer, model[2], statistics, [option])
    assert found == option
    reads, makes = layer.core(option.tucker)
    shapes = [tuple(weight.codes.shape) for weight in treated.weights]
    assert shapes == [(reads, 12), (makes, reads * TAPS), (16, makes)]
    assert treated.shape == (16, 12 * TAPS)
    weight = model[2].weight.flatten(1).double()
    moment = damped(statistics.second_moment)
    change = treated.matrix().double() - weight
    wanted = float(((change @ moment) * change).sum() / ((weight @ moment) * weight).sum())
    assert relative == pytest.approx(wanted, rel=1e-6)
    assert len(treated.grids) == (4 if option.activations == "int8" else 0)
    # Without grids the module is the layer with the composed weight.
    dense = nn.Conv2d(12, 16, 3, stride=2, padding=1)
    dense.weight.data = treated.matrix().reshape(dense.weight.shape)
    dense.bias.data = treated.bias.float()
    y = inputs_of(parts)
    plain = build_module(model[2], replace(treated, grids=()))
    torch.testing.assert_close(plain(y), dense(y), rtol=1e-4, atol=1e-5)


def test_int8_values_are_rounded_between_all_factors(parts) -> None:
    model, layer, statistics, _ = parts
    option = Option(8, tucker=0.75, activations="int8")
    ((_, treated, _),) = compress_layer(layer, model[2], statistics, [option])
    built = build_module(model[2], treated)
    kinds = [type(part) for part in built]
    assert kinds == [FakeQuantize, nn.Conv2d] * 3 + [FakeQuantize]
    assert [part.kernel_size for part in built if isinstance(part, nn.Conv2d)] == [
        (1, 1),
        (3, 3),
        (1, 1),
    ]
    y = inputs_of(parts)
    exact = build_module(model[2], replace(treated, grids=()))(y).relu()
    assert float((built(y) - exact).std()) < 0.05 * float(exact.std())


def test_more_of_the_core_is_better(parts) -> None:
    model, layer, statistics, _ = parts
    menu = [Option(tucker=share) for share in (0.25, 0.5, 0.75)]
    found = {o: e for o, _, e in compress_layer(layer, model[2], statistics, menu)}
    errors = [found[option] for option in menu]
    assert errors == sorted(errors, reverse=True)


def test_zeros_in_the_factors_are_refused(parts) -> None:
    model, layer, statistics, _ = parts
    option = Option(4, 0.5, tucker=0.5)
    with pytest.raises(ValueError, match="w4-s50-t50: factors around a Tucker core are not"):
        list(compress_layer(layer, model[2], statistics, [option]))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.id)
def test_an_entry_for_the_same_target_is_as_good(parts, option) -> None:
    model, layer, statistics, _ = parts
    ((_, entry, _),) = compress_layer(layer, model[2], statistics, [option])
    weight = model[2].weight.flatten(1).double()
    moment = damped(statistics.second_moment)
    made = carry(layer, model[2], weight, moment, inputs_of(parts), option, entry)
    assert [w.codes.shape for w in made.weights] == [w.codes.shape for w in entry.weights]
    assert len(made.grids) == len(entry.grids)
    assert made.grids[:1] + made.grids[3:] == entry.grids[:1] + entry.grids[3:]
    changes = [t.matrix().double() - weight for t in (made, entry)]
    errors = [float(((change @ moment) * change).sum()) for change in changes]
    assert errors[0] <= 1.01 * errors[1]


def test_a_candidate_around_a_core_is_fitted_to_what_arrives(parts) -> None:
    model, _, _, x = parts
    layers = trace(model, (x[:1],))
    statistics = collect(model, layers, (x,))
    choices = {"0": Option(3), "2": Option(6, tucker=0.5, activations="int8")}
    entries = {}
    for layer in layers[:2]:
        module = model.get_submodule(layer.name)
        own = [choices[layer.name]]
        ((_, entries[layer.name], _),) = compress_layer(layer, module, statistics[layer.name], own)
    fitted = resolve(model, layers, entries, choices, (x,))
    assert len(fitted["2"].weights) == 3
    errors = []
    for treated in (entries, fitted):
        y = build_module(model[0], treated["0"])(x).relu()
        errors.append(
            float((build_module(model[2], treated["2"])(y) - model[:3](x)).square().sum())
        )
    assert errors[1] < errors[0]


def test_the_bank_gives_back_every_bit(parts, tmp_path: Path) -> None:
    model, layer, statistics, x = parts
    made: dict[Option, Treated] = {}
    for option, treated, _ in compress_layer(layer, model[2], statistics, OPTIONS):
        made[option] = treated
    for again in range(2):
        bank = Bank(tmp_path, fingerprint(model, (x,)))
        bank.fill(layer, model[2], lambda: statistics, OPTIONS)
        assert (bank.made, bank.reused) == ((0, len(OPTIONS)) if again else (len(OPTIONS), 0))
        for option, wanted in made.items():
            found = bank[layer.name, option].treated
            assert found.grids == wanted.grids
            assert torch.equal(found.matrix(), wanted.matrix())
            assert torch.equal(found.bias, wanted.bias)


@pytest.mark.parametrize("option", OPTIONS[:5], ids=lambda option: option.id)
def test_a_trainable_layer_starts_as_it_is_stored_and_learns(parts, option) -> None:
    model, layer, statistics, _ = parts
    ((_, treated, _),) = compress_layer(layer, model[2], statistics, [option])
    trained = TrainableLayer(model[2], treated)
    y = inputs_of(parts)
    # A value between two codes may fall to either side.
    room = 1.01 * treated.grids[-1].scale if treated.grids else 1e-5
    start = build_module(model[2], treated)(y)
    assert float((trained(y).detach() - start).abs().max()) <= room
    wanted = model[2](y).relu()
    optimiser = torch.optim.Adam(trained.parameters(), lr=2e-4)
    before = float((start.relu() - wanted).square().mean())
    for _ in range(100):
        optimiser.zero_grad()
        (trained(y).relu() - wanted).square().mean().backward()
        optimiser.step()
    after = trained.treated()
    assert [w.codes.shape for w in after.weights] == [w.codes.shape for w in treated.weights]
    found = build_module(model[2], after)(y)
    assert float((found - trained(y).detach()).abs().max()) <= room
    assert float((found.relu() - wanted).square().mean()) < 0.9 * before


@pytest.mark.parametrize("option", [Option(8, tucker=0.5, activations="int8"), Option(tucker=0.5)])
def test_a_narrow_layer_around_a_core_stands_in_full_width(parts, option) -> None:
    model, layer, statistics, _ = parts
    inputs, outputs = torch.tensor([0, 1, 3, 4, 7, 8, 10, 11]), torch.arange(0, 16, 2)
    small = narrow_layer(layer, model[2], statistics, Kept(None, inputs))
    ((_, made, _),) = compress_layer(small.layer, small.module, small.statistics, [option])
    treated = embed(made, model[2], Kept(None, inputs)).with_outputs(outputs)
    reads, makes = layer.narrowed(8).core(0.5)
    shapes = [tuple(weight.codes.shape) for weight in treated.weights]
    assert shapes == [(reads, 8), (makes, reads * TAPS), (8, makes)]
    assert treated.shape == (16, 12 * TAPS)
    y = inputs_of(parts)
    wide = build_module(model[2], treated)(y)
    narrow = build_module(small.module, made)(y[:, inputs])
    torch.testing.assert_close(wide[:, outputs], narrow[:, outputs], rtol=1e-4, atol=1e-5)
    gone = sorted(set(range(16)) - set(outputs.tolist()))
    assert bool((wide[:, gone] == 0).all())
    again = TrainableLayer(model[2], treated).treated()
    assert [w.codes.shape for w in again.weights] == [w.codes.shape for w in treated.weights]
    assert torch.equal(again.matrix(), treated.matrix())


def test_free_factors_share_a_step_each_and_keep_their_core(parts) -> None:
    model, layer, statistics, _ = parts
    option = Option(4, tucker=0.5)
    ((_, treated, _),) = compress_layer(layer, model[2], statistics, [option])
    trained = TrainableLayer(model[2], treated, free=True)
    y = inputs_of(parts)
    optimiser = torch.optim.Adam(trained.parameters(), lr=1e-3)
    for _ in range(20):
        optimiser.zero_grad()
        loss = (trained(y) - model[2](y)).square().mean()
        (loss + 1e-3 * sum(t.scaled().abs().mean() for t in trained.coded_tensors)).backward()
        optimiser.step()
    after = trained.treated()
    assert [w.codes.shape for w in after.weights] == [w.codes.shape for w in treated.weights]
    assert all(len(w.scale) == 1 for w in after.weights)
    torch.testing.assert_close(build_module(model[2], after)(y), trained(y).detach())
    torch.testing.assert_close(after.matrix(), build_matrix(trained))


def build_matrix(trained: TrainableLayer) -> Tensor:
    first, core, last = (tensor().detach() for tensor in trained.tensors)
    return composed(first, core, last)
