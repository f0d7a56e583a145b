from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.carry import carry, survivors
from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import collect, damped
from autocompress.compression.sparsify import fit_within, prune
from autocompress.compression.treated import Treated
from autocompress.model.trace import trace
from autocompress.search_space.option import Option


def system(seed: int, rows: int = 24, d: int = 40) -> tuple[Tensor, Tensor]:
    """A weight `(rows, d)` and the damped moment of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, d, generator=generator) @ torch.randn(d, d, generator=generator)
    weight = torch.randn(rows, d, generator=generator, dtype=torch.float64)
    return weight, damped((x.T @ x).double() / len(x))


def error(weight: Tensor, other: Tensor, moment: Tensor) -> float:
    return float(((weight - other) @ moment * (weight - other)).sum())


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_survivors_of_a_poor_mask_become_as_good_as_those_of_the_trace(sparsity: float) -> None:
    traced, kept, random = 0.0, 0.0, 0.0
    for seed in range(4):
        weight, moment = system(seed)
        best = prune(weight, moment, [sparsity])[sparsity]
        mask = best != 0
        # Another weight near the one the mask was made for, as in a later layer.
        generator = torch.Generator().manual_seed(seed + 100)
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        target = weight + 0.2 * noise
        found = survivors(target, moment, mask, sparsity)
        assert int(found.sum()) == int(mask.sum()), "as many as the sparsity leaves"
        traced += error(target, prune(target, moment, [sparsity])[sparsity], moment)
        kept += error(target, fit_within(target, moment, mask), moment)
        random += error(target, fit_within(target, moment, found), moment)
    assert random < kept
    assert random < 1.1 * traced


def test_survivors_that_rounding_took_are_filled_up() -> None:
    weight, moment = system(0)
    mask = prune(weight, moment, [0.5])[0.5] != 0
    thin = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.7)
    filled = survivors(weight, moment, thin, 0.5)
    assert int(filled.sum()) == int(mask.sum())
    fitted = [error(weight, fit_within(weight, moment, m), moment) for m in (thin, filled, mask)]
    assert fitted[1] < 0.5 * fitted[0]
    assert fitted[1] < 1.1 * fitted[2]


def test_a_best_mask_stays_as_it_is() -> None:
    # Inputs that do not correlate: the largest weights are the best ones.
    weight = torch.arange(1.0, 41.0, dtype=torch.float64).reshape(2, 20)
    mask = weight > 20
    assert torch.equal(survivors(weight, torch.eye(20, dtype=torch.float64), mask, 0.5), mask)


OPTIONS = [
    Option(4),
    Option(4, 0.8),
    Option(32, 0.9),
    Option(6, 0, 0.5),
    Option(8, 0.5, 0.5),
    Option(8, 0.5, 0.5, "int8"),
    Option(8, 0, 1, "int8"),
    Option(4, 0.5, 1, "float32", "nearest"),
    Option(8, 0.5, 0.5, "int8", "nearest"),
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.id)
@pytest.mark.parametrize("convolution", [False, True])
def test_the_same_target_gives_an_entry_as_good(option: Option, convolution: bool) -> None:
    torch.manual_seed(0)
    layer_module = nn.Conv2d(4, 16, 3, padding=1) if convolution else nn.Linear(36, 24)
    model = nn.Sequential(layer_module, nn.ReLU()).eval().requires_grad_(False)
    x = torch.randn(300, 4, 6, 6) if convolution else torch.randn(300, 36) @ torch.randn(36, 36)
    (layer,) = trace(model, (x[:1],))
    statistics = collect(model, [layer], (x,))["0"]
    entry: Treated = next(compress_layer(layer, layer_module, statistics, [option]))[1]
    weight = layer_module.weight.flatten(1).double()
    moment = damped(statistics.second_moment)
    made = carry(layer, layer_module, weight, moment, x, option, entry)
    assert [w.bits for w in made.weights] == [w.bits for w in entry.weights]
    assert [w.codes.shape for w in made.weights] == [w.codes.shape for w in entry.weights]
    assert len(made.grids) == len(entry.grids)
    assert [made.grids[i] for i in (0, -1) if made.grids] == [
        entry.grids[i] for i in (0, -1) if entry.grids
    ]
    errors = [error(weight, t.matrix().double(), moment) for t in (made, entry)]
    assert errors[0] <= 1.05 * errors[1]
