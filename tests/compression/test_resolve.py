from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics, collect
from autocompress.compression.resolve import resolve
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Treated
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.objective.quality import Proxy
from autocompress.search_space.option import Option


class Net(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=bias)
        self.mix = nn.Conv2d(8, 12, 3, bias=bias)
        self.hidden = nn.Linear(48, 24, bias=bias)
        self.head = nn.Linear(24, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv(x).relu(), 2)
        x = nn.functional.max_pool2d(self.mix(x).relu(), 2)
        return self.head(self.hidden(x.flatten(1)).relu())


LAYERS = ("conv", "mix", "hidden", "head")
Parts = tuple[Net, tuple[Layer, ...], dict[str, Statistics], Tensor, Tensor]


@cache
def trained(seed: int, bias: bool = True) -> Parts:
    """A small network taught to tell five noisy patterns apart, with two sets of inputs."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(5, 1, 12, 12, generator=generator)
    labels = torch.randint(5, (700,), generator=generator)
    x = patterns[labels] + 2 * torch.randn(700, 1, 12, 12, generator=generator)
    x = nn.functional.avg_pool2d(x, 3, 1, 1) * 2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net(bias)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[:300]), labels[:300]).backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    calibration, fresh = x[300:500], x[500:]
    layers = trace(model, (x[:1],))
    return model, layers, collect(model, layers, (calibration,)), calibration, fresh


@pytest.fixture(scope="module")
def parts() -> Parts:
    return trained(0)


def banked(parts: Parts, choices: dict[str, Option]) -> dict[str, Treated]:
    model, layers, statistics, _, _ = parts
    made = {}
    for layer in layers:
        option = choices.get(layer.name, Option())
        if not option.is_identity:
            module = model.get_submodule(layer.name)
            made[layer.name] = next(
                compress_layer(layer, module, statistics[layer.name], [option])
            )[1]
    return made


def resolved(parts: Parts, choices: dict[str, Option]) -> dict[str, Treated]:
    model, layers, _, calibration, _ = parts
    return resolve(model, layers, banked(parts, choices), choices, (calibration,), batch=64)


@pytest.mark.parametrize(
    "option",
    [Option(3, 0.7), Option(2), Option(32, 0.9), Option(8, 0.5, 0.5), Option(8, 0.8, 1, "int8")],
    ids=lambda option: option.id,
)
def test_fitting_in_sequence_lowers_the_loss(option: Option) -> None:
    choices = dict.fromkeys(LAYERS, option)
    # Summed over networks: on a single one a hard option may be unlucky.
    plain, sequential = torch.zeros(2), torch.zeros(2)
    for seed in range(4):
        model, _, _, calibration, fresh = parts = trained(seed)
        one = stitched(model, banked(parts, choices))
        other = stitched(model, resolved(parts, choices))
        for index, inputs in enumerate((calibration, fresh)):
            proxy = Proxy(model, (inputs,))
            plain[index] += proxy(one).value
            sequential[index] += proxy(other).value
    assert bool((sequential < 0.97 * plain).all())


def test_the_mean_output_of_each_layer_is_that_of_the_dense_model(parts: Parts) -> None:
    model, _, _, calibration, _ = parts
    choices = dict.fromkeys(LAYERS, Option(3, 0.7))

    def means(net: nn.Module) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def watch(name: str) -> None:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                del module, inputs
                found[name] = output.transpose(0, 1).flatten(1).mean(1)

            net.get_submodule(name).register_forward_hook(hook)

        for name in LAYERS:
            watch(name)
        net(calibration)
        return found

    dense = means(copy.deepcopy(model))
    plain = means(stitched(model, banked(parts, choices)))
    corrected = means(stitched(model, resolved(parts, choices)))
    for name in LAYERS:
        # A bias in half precision is exact to a thousandth.
        torch.testing.assert_close(corrected[name], dense[name], rtol=2e-3, atol=2e-3)
    assert float((plain["head"] - dense["head"]).abs().max()) > 0.02


@pytest.mark.parametrize("name", LAYERS)
def test_after_dense_layers_it_is_the_entry_of_the_bank(parts: Parts, name: str) -> None:
    option = Option(8, 0.3)
    sequential = resolved(parts, {name: option})
    assert list(sequential) == [name]
    plain = banked(parts, {name: option})
    one, other = sequential[name].matrix(), plain[name].matrix()
    # The target is solved for, so that rounding may fall to the other side now and then, and a
    # few survivors that matter little are exchanged.
    assert float(((one == 0) == (other == 0)).float().mean()) > 0.95
    dense = parts[0].get_submodule(name).weight.flatten(1)
    moment = parts[2][name].second_moment.float()
    errors = [float(((w - dense) @ moment * (w - dense)).sum()) for w in (one, other)]
    assert errors[0] < 1.01 * errors[1]


def test_the_model_is_not_changed_and_has_no_hooks(parts: Parts) -> None:
    model, _, _, _, fresh = parts
    before = copy.deepcopy(model.state_dict())
    modules, output = dict(model.named_modules()), model(fresh)
    resolved(parts, dict.fromkeys(LAYERS, Option(4)))
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(fresh), output)
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.modules())


def test_it_gives_the_same_each_time_and_nothing_for_identities(parts: Parts) -> None:
    choices = {"conv": Option(), "mix": Option(4, 0.5), "head": Option(2)}
    one, other = resolved(parts, choices), resolved(parts, choices)
    assert list(one) == ["mix", "head"]
    for name in one:
        assert torch.equal(one[name].matrix(), other[name].matrix())
    assert resolved(parts, {}) == {}


def test_grids_stay_those_of_the_dense_model(parts: Parts) -> None:
    choices = dict.fromkeys(LAYERS, Option(8, activations="int8"))
    for name, treated in resolved(parts, choices).items():
        assert treated.grids == banked(parts, choices)[name].grids


def test_layers_without_bias_get_none() -> None:
    parts = trained(1, bias=False)
    made = resolved(parts, dict.fromkeys(LAYERS, Option(3)))
    assert all(treated.bias is None for treated in made.values())


class InPlace(nn.Module):
    """Adds to the stream that a layer has just read."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        x += self.a(x).relu()
        x += self.b(x).relu()
        return self.head(x)


class OutOfPlace(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a(x).relu()
        x = x + self.b(x).relu()
        return self.head(x)


def test_what_the_model_overwrites_later_is_not_seen() -> None:
    torch.manual_seed(0)
    one, other = InPlace().eval(), OutOfPlace().eval()
    other.load_state_dict(one.state_dict())
    x = torch.randn(50, 6)
    choices = dict.fromkeys(("a", "b", "head"), Option(3, 0.3))
    made = []
    for model in (one, other):
        layers = trace(model, (x[:1],))
        parts = (model, layers, collect(model, layers, (x,)), x, x)
        made.append(resolve(model, layers, banked(parts, choices), choices, (x,)))  # type: ignore[arg-type]
    for name in choices:
        assert torch.equal(made[0][name].matrix(), made[1][name].matrix())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(self.up(x).relu())
        return y


class Tower(nn.Module):
    """Blocks in a chain, with a layer before and one behind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(12, 5)
        self.stem = nn.Linear(10, 12)
        self.blocks = nn.ModuleList(Residual() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.head(x)
        return y


def test_a_chain_that_does_not_fit_is_walked_along_to_the_same_end() -> None:
    model, x = Tower().eval().requires_grad_(False), torch.randn(300, 4, 10)
    layers = trace(model, (x[:1],))
    statistics = collect(model, layers, (x,))
    option = Option(bits=3)
    entries = {
        layer.name: next(
            compress_layer(
                layer, model.get_submodule(layer.name), statistics[layer.name], [option]
            )
        )[1]
        for layer in layers
    }
    choices = dict.fromkeys(entries, option)
    inputs = 4 * 300 * 4 * (10 + 3 * (12 + 24) + 12)  # bytes that reach the layers
    whole = resolve(model, layers, entries, choices, (x,))
    walked = resolve(model, layers, entries, choices, (x,), memory=inputs - 1)
    for name in choices:
        assert torch.equal(whole[name].weights[0].codes, walked[name].weights[0].codes)
        torch.testing.assert_close(whole[name].bias, walked[name].bias)
    # With less memory than a block takes there are fewer examples.
    fewer = resolve(model, layers, entries, choices, (x,), memory=inputs // 20)
    assert not torch.equal(whole["head"].weights[0].codes, fewer["head"].weights[0].codes)
    assert not any(module._forward_pre_hooks for module in model.modules())
