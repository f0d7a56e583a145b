from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from autocompress.model.swap import swap
from autocompress.objective.adjoint import adjoint_prices
from autocompress.objective.quality import Proxy
from autocompress.search_space.option import Option

# Three ways to disturb a layer; what the options say does not matter here.
MENU = (Option(), Option(8), Option(4), Option(2))


class Net(nn.Module):
    def __init__(self, outputs: int = 3, in_place: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.first = nn.Linear(12, 6)
        self.last = nn.Linear(6, outputs)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = (x.relu_() if self.in_place else x.relu()).flatten(1)
        x = self.first(x)
        return self.last(x.tanh_() if self.in_place else x.tanh())


LAYERS = ("conv", "first", "last")


def made(outputs: int = 3, in_place: bool = False) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(outputs, in_place).eval()


def inputs(count: int = 10) -> tuple[Tensor]:
    return (torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(1)),)


def builder(model: nn.Module, size: float) -> Callable[[str, Option], nn.Module]:
    """Adds noise of a size that grows as the bits shrink, always the same."""

    def build(name: str, option: Option) -> nn.Module:
        module = copy.deepcopy(model.get_submodule(name))
        assert isinstance(module, nn.Linear | nn.Conv2d)
        generator = torch.Generator().manual_seed(100 * LAYERS.index(name) + option.bits)
        with torch.no_grad():
            noise = torch.randn(module.weight.shape, generator=generator)
            module.weight += size / option.bits * noise
        return module

    return build


def priced(
    model: nn.Module, x: tuple[Tensor, ...], kind: str, **settings: int
) -> dict[str, NDArray[np.float64]]:
    menus = dict.fromkeys(LAYERS, MENU)
    generator = torch.Generator().manual_seed(0)
    return adjoint_prices(model, menus, builder(model, 0.3), x, kind, generator, **settings)


def exact(model: nn.Module, x: tuple[Tensor, ...], kind: str) -> dict[str, NDArray[np.float64]]:
    """`1/2 d^T F d` with `d = J dY` the change of the outputs to first order, example by example.

    `F` is `diag(p) - p p^T` for `kl`, by enumeration of the labels, and `2 I / (K var)` for `mse`.
    """
    build = builder(model, 0.3)
    with torch.no_grad():
        outputs = model(*x).double()
    prices = {}
    for name in LAYERS:
        totals = np.zeros(len(MENU))
        dense = model.get_submodule(name)
        for index, option in enumerate(MENU[1:], start=1):
            other = build(name, option)
            for row in range(len(x[0])):
                caught: list[Tensor] = []

                def keep(
                    module: nn.Module, arguments: tuple[Tensor, ...], caught: list[Tensor] = caught
                ) -> None:
                    caught.append(arguments[0].clone())

                handle = dense.register_forward_pre_hook(keep)
                with torch.no_grad():
                    model(x[0][row : row + 1])
                handle.remove()
                with torch.no_grad():
                    change = other(caught[0]) - dense(caught[0])

                def rest(delta: Tensor, dense: nn.Module = dense, row: int = row) -> Tensor:
                    hook = dense.register_forward_hook(lambda m, i, o: o + delta)
                    result = model(x[0][row : row + 1])
                    hook.remove()
                    assert isinstance(result, Tensor)
                    return result[0]

                jacobian = torch.autograd.functional.jacobian(rest, torch.zeros_like(change))
                d = (jacobian.flatten(1) @ change.flatten()).double()
                if kind == "kl":
                    p = outputs[row].softmax(-1)
                    totals[index] += float(0.5 * ((p * d * d).sum() - (p * d).sum() ** 2))
                else:
                    totals[index] += float((d * d).mean() / outputs.var())
        prices[name] = totals / len(x[0])
    return prices


@pytest.mark.parametrize("kind", ["kl", "mse"])
@pytest.mark.parametrize("in_place", [False, True])
def test_prices_are_the_gauss_newton_form(kind: str, in_place: bool) -> None:
    model, x = made(in_place=in_place), inputs()
    found = priced(model, x, kind, probes=2000, batch=4)
    wanted = exact(made(), x, kind)
    for name in LAYERS:
        assert found[name][0] == 0
        # A squared draw has a spread of about its mean: 2000 draws for each of 10 examples.
        np.testing.assert_allclose(found[name][1:], wanted[name][1:], rtol=0.06)


def test_few_draws_are_right_on_average() -> None:
    model, x = made(), inputs()
    wanted = exact(model, x, "kl")
    generator = torch.Generator().manual_seed(5)
    menus = dict.fromkeys(LAYERS, MENU)
    draws = [
        adjoint_prices(model, menus, builder(model, 0.3), x, "kl", generator, probes=2)
        for _ in range(400)
    ]
    for name in LAYERS:
        sample = np.array([draw[name][1:] for draw in draws])
        error = sample.std(0, ddof=1) / len(draws) ** 0.5
        assert bool((np.abs(sample.mean(0) - wanted[name][1:]) < 4 * error).all())


def test_small_changes_cost_what_the_divergence_says() -> None:
    model, x = made(), inputs(200)
    build = builder(model, 0.05)
    menus = dict.fromkeys(LAYERS, MENU)
    prices = adjoint_prices(
        model, menus, build, x, "kl", torch.Generator().manual_seed(0), probes=64
    )
    proxy = Proxy(model, x)
    predicted, measured = [], []
    for name in LAYERS:
        for index, option in enumerate(MENU[1:], start=1):
            other = copy.deepcopy(model)
            swap(other, name, build(name, option))
            predicted.append(prices[name][index])
            measured.append(proxy(other).value)
    np.testing.assert_allclose(predicted, measured, rtol=0.15)
    assert spearmanr(predicted, measured).statistic > 0.98


def test_positions_of_a_sequence_count_as_in_the_proxy() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(5, 6)
            self.last = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).tanh())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tokens().eval()
    x = (torch.randn(60, 7, 5, generator=torch.Generator().manual_seed(0)),)
    build = builder(model, 0.05)
    menus = {"first": MENU, "last": MENU}
    prices = adjoint_prices(
        model, menus, build, x, "kl", torch.Generator().manual_seed(0), probes=200
    )
    proxy = Proxy(model, x)
    for name in menus:
        other = copy.deepcopy(model)
        swap(other, name, build(name, MENU[3]))
        assert prices[name][3] == pytest.approx(proxy(other).value, rel=0.15)


def test_one_output_and_a_last_batch_of_one_example() -> None:
    model, x = made(outputs=1), inputs(9)
    found = priced(model, x, "mse", probes=1, batch=4)
    wanted = exact(model, x, "mse")
    for name in LAYERS:
        # A sign of one output has no spread at all.
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3)


def test_the_same_draws_give_the_same_prices_and_the_model_is_as_it_was() -> None:
    model, x = made(), inputs()
    model.last.bias.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    one, other = priced(model, x, "kl"), priced(model, x, "kl")
    for name in LAYERS:
        assert one[name].shape == (len(MENU),)
        np.testing.assert_array_equal(one[name], other[name])
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())


def test_an_input_overwritten_after_the_layer_is_not_seen() -> None:
    class Stream(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.last = nn.Linear(4, 3)
            self.in_place = in_place

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1.0
            y = self.first(x)
            if self.in_place:
                x += y
            else:
                x = x + y
            return self.last(x)

    x = (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)),)
    found = []
    for in_place in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Stream(in_place).eval()
        menus = {"first": MENU, "last": MENU}
        generator = torch.Generator().manual_seed(0)
        found.append(adjoint_prices(model, menus, builder(model, 0.3), x, "kl", generator))
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name])


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_a_batch_that_is_cut_up_gives_the_same_prices(kind: str) -> None:
    model, x = made(), inputs(70)
    whole = priced(model, x, kind)
    # One example takes 6 times 16 + 27 + 12 + 6 + 6 + 3 values: a pass holds 7 of them, or 1.
    for room in (7 * 6 * 4 * 70, 1):
        cut = priced(model, x, kind, room=room)
        for name in LAYERS:
            np.testing.assert_allclose(cut[name], whole[name], rtol=1e-5)
            assert whole[name][0] == cut[name][0] == 0
