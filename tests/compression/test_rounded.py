"""A sum is rounded exactly where all layers around it are int8, however a model is assembled."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.quantize import round_to_nearest
from autocompress.compression.rounded import RoundedSum
from autocompress.compression.stitch import Stitcher, stitched
from autocompress.compression.treated import Grid, Treated
from autocompress.model.replay import Replay, Run
from autocompress.model.sums import expose_sums, sums_of
from autocompress.search_space.option import Option

DENSE, FLOAT, INT8 = Option(), Option(4), Option(8, activations="int8")
LAYERS = ("stem", "body", "last", "head")
GRID = Grid.covering(0.0, 2.0)


class Net(nn.Module):
    """One block, read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(6, 8), nn.Linear(8, 8)
        self.last, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (self.body(x.relu()) + x).relu()
        return self.head(self.last(x).relu() + x)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    exposed = expose_sums(Net().eval())
    assert [found.around.readers for found in sums_of(exposed).values()] == [("last",), ("head",)]
    return exposed


def treat(model: nn.Module, name: str, option: Option) -> Treated:
    layer = model.get_submodule(name)
    weight = layer.weight.detach()
    stored = (round_to_nearest(weight, option.bits, torch.ones(weight.shape[1])),)
    is_int8 = option.activations == "int8"
    # Every layer reads another grid, so that it is seen whose grid a sum takes.
    grid = Grid.covering(0.0, 2.0 + LAYERS.index(name))
    return Treated(stored, layer.bias.detach(), (grid, None) if is_int8 else ())


def rounded(model: nn.Module) -> dict[str, Grid]:
    return {name: m.grid for name, m in sums_of(model).items() if isinstance(m, RoundedSum)}


def expected(model: nn.Module, choices: dict[str, Option]) -> dict[str, Grid]:
    grids = {}
    for name, found in sums_of(model).items():
        if all(choices[layer].activations == "int8" for layer in found.around.layers):
            reader = found.around.readers[0]
            grids[name] = treat(model, reader, INT8).grids[0]
    return grids


@pytest.mark.parametrize("menu", [(DENSE, INT8), (FLOAT, INT8)])
def test_every_candidate_has_the_sums_of_the_rule(model: nn.Module, menu) -> None:
    stitcher = Stitcher(model, lambda name, option: treat(model, name, option))
    x = torch.randn(5, 6)
    seen = set()
    for options in itertools.product(menu, repeat=len(LAYERS)):
        choices = dict(zip(LAYERS, options, strict=True))
        treated = {n: treat(model, n, o) for n, o in choices.items() if not o.is_identity}
        alone, working = stitched(model, treated), stitcher.stitch(choices)
        assert rounded(alone) == rounded(working) == expected(model, choices)
        assert torch.equal(alone(x), working(x))
        seen.add(len(rounded(alone)))
    assert seen == {0, 1, 2}
    assert not rounded(model)


def test_a_rounded_sum_lies_on_its_grid(model: nn.Module) -> None:
    plain = next(iter(sums_of(model).values()))
    x, y = torch.randn(2, 50, 8)
    found = RoundedSum(plain, GRID)(x, y)
    codes = torch.clamp(torch.round((x + y) / GRID.scale) + GRID.zero_point, 0, 255)
    torch.testing.assert_close(found, (codes - GRID.zero_point) * GRID.scale)
    assert bool((found >= 0).all())  # what a ReLU after it would give


def test_replay_starts_anew_where_a_later_layer_rounds_an_earlier_sum(model: nn.Module) -> None:
    parts = [(torch.randn(5, 6),), (torch.randn(4, 6),)]
    replay = Replay(model, LAYERS, [48, 64, 64, 24], parts)
    assert replay.reuses
    stitcher = Stitcher(model, lambda name, option: treat(model, name, option))
    menu = (DENSE, INT8, FLOAT)
    for indices in itertools.product(range(3), repeat=len(LAYERS)):
        choices = {name: menu[k] for name, k in zip(LAYERS, indices, strict=True)}
        modules = [stitcher.module(name, option) for name, option in choices.items()]
        run = Run(modules.__getitem__, indices, stitcher.sums(choices))
        for part, x in enumerate(parts):
            output, _ = replay(run, part)
            assert torch.equal(output, stitcher.stitch(choices)(*x))
