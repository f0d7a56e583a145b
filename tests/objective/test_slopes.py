"""Slopes are the derivative of the loss along the way from one option's weights to another's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.compression.treated import FakeQuantize, Grid, StoredTensor, Treated
from autocompress.objective.quality import Proxy
from autocompress.objective.slopes import slopes
from autocompress.search_space.option import Option
from autocompress.study.config import load_study
from autocompress.study.events import Silent
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.subject import look

OPTIONS = (Option(), Option.parse("w8"), Option.parse("w4"))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    ).eval()


def factored() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1, bias=False), nn.Conv2d(2, 4, 1)
    ).eval()


def around_core() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False),
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(3, 4, 1),
    ).eval()


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_they_are_finite_differences(kind: str) -> None:
    model = small()
    proxy = Proxy(model, (torch.randn(90, 1, 8, 8),), kind)  # more than one batch
    menus = {"0": OPTIONS, "3": OPTIONS}
    others = {
        ("0", OPTIONS[1]): factored(),
        ("0", OPTIONS[2]): around_core(),
        ("3", OPTIONS[1]): nn.Linear(64, 5),
        ("3", OPTIONS[2]): nn.Linear(64, 5),
    }
    build = {**{(n, OPTIONS[0]): model.get_submodule(n) for n in menus}, **others}
    candidate = small()
    with torch.no_grad():  # the loss has no slope at the original
        for name in menus:
            candidate.get_submodule(name).weight.mul_(0.8)  # type: ignore[operator]
    build["0", OPTIONS[0]], build["3", OPTIONS[0]] = candidate[0], candidate[3]  # type: ignore[index]
    chosen = {"0": OPTIONS[0], "3": OPTIONS[0]}
    found = slopes(candidate, menus, lambda n, o: build[n, o], chosen, proxy)
    assert found.shape == (6,)
    assert found[0] == found[3] == 0

    def matrix(module: nn.Module) -> torch.Tensor:
        steps = [m.weight.flatten(1) for m in module.modules() if hasattr(m, "weight")]
        if len(steps) == 3:
            return Treated(tuple(StoredTensor(32, step, None) for step in steps), None).matrix()
        return steps[0] if len(steps) == 1 else steps[1] @ steps[0]

    for place, (name, option) in (
        (1, ("0", OPTIONS[1])),
        (2, ("0", OPTIONS[2])),
        (5, ("3", OPTIONS[2])),
    ):
        step = 1e-2
        weight = candidate.get_submodule(name).weight
        start = weight.detach().clone()
        way = (matrix(build[name, option]).reshape(start.shape) - start).detach()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.copy_(start + sign * step * way)  # type: ignore[operator]
            values.append(proxy(candidate).value)
        with torch.no_grad():
            weight.copy_(start)  # type: ignore[operator]
        assert found[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.02)


@pytest.mark.parametrize("make", [factored, around_core])
def test_a_factored_layer_has_the_slopes_of_its_matrix(make) -> None:
    model, steps = small(), make()
    proxy = Proxy(model, (torch.randn(50, 1, 8, 8),), "kl")
    matrices = [StoredTensor(32, step.weight.flatten(1).detach(), None) for step in steps]
    whole = nn.Conv2d(1, 4, 3, stride=2, padding=1)
    with torch.no_grad():
        whole.weight.copy_(Treated(tuple(matrices), None).matrix().reshape(4, 1, 3, 3))
        whole.bias.copy_(steps[-1].bias)
    menus = {"0": OPTIONS[:2]}
    found = []
    for here in (steps, whole):
        candidate = small()
        candidate[0] = here
        build = {OPTIONS[0]: here, OPTIONS[1]: model[0]}
        ways = slopes(candidate, menus, lambda n, o, b=build: b[o], {"0": OPTIONS[0]}, proxy)
        found.append(ways)
    assert found[0][1] != 0
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-7)


def test_rounding_is_passed_straight_through() -> None:
    rounding = FakeQuantize(Grid(0.1, 128))
    x = torch.randn(50, requires_grad=True)
    out = rounding(x)
    assert torch.allclose(out, rounding(x.detach()), atol=1e-6)
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones(50))


@pytest.fixture(scope="module")
def prepared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    study = load_study(trained)
    model, space = look(study, Silent())
    return prepare(study, model, space, tmp_path_factory.mktemp("prepared"), Silent())


def test_they_tell_which_switches_help_at_a_candidate(prepared: Prepared) -> None:
    rng = np.random.default_rng(0)
    sizes = [len(menu) for menu in prepared.space.units.values()]
    centre = tuple(int(rng.integers(size)) for size in sizes)
    evaluator = prepared.evaluator
    found = evaluator.slopes(centre)
    assert np.array_equal(found, evaluator.slopes(centre))
    assert all(p.requires_grad for p in prepared.model.dense.parameters())
    start = prepared.evaluate(prepared.space.candidate(centre)).value
    predicted, measured = [], []
    flat = 0
    for unit, size in enumerate(sizes):
        for option in range(size):
            switched = (*centre[:unit], option, *centre[unit + 1 :])
            loss = prepared.evaluate(prepared.space.candidate(switched)).value
            if abs(loss / start - 1) < 0.2:  # small switches, which first order tells
                predicted.append(found[flat])
                measured.append(loss - start)
            flat += 1
    assert flat == len(found)
    assert np.corrcoef(predicted, measured)[0, 1] > 0.5
