"""Rate-aware rounding: what it saves, and what it costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autocompress.compression.coding import coded_bytes, entropy_bytes
from autocompress.compression.descent import descend
from autocompress.compression.rounding import round_one
from autocompress.compression.sparsify import prune
from autocompress.compression.steps import fit_uniform
from autocompress.compression.stored import StoredTensor
from autocompress.search_space.option import Option

System = Callable[..., tuple[Tensor, Tensor]]
Error = Callable[[Tensor, Tensor], float]


RATES = (0.001, 0.01, 0.1, 0.3)


@pytest.fixture(scope="module")
def layer(system: System) -> tuple[Tensor, Tensor]:
    return system(rows=64, d=96)


@pytest.mark.parametrize(
    "way",
    [
        Option(3),
        Option(4),
        Option(4, scales="tensor"),
        Option(4, scales="32"),
        Option(4, affine=True),
        Option(codebook=12),
        Option(1),
    ],
    ids=lambda way: way.id,
)
def test_entropy_falls_and_error_rises_with_the_rate(
    layer: tuple[Tensor, Tensor], way: Option, error: Error
) -> None:
    weight, moment = layer
    entropies, errors = [], []
    for rate in RATES:
        changed = Option(
            bits=32 if way.codebook else way.bits,
            scales=way.scales,
            affine=way.affine,
            codebook=way.codebook,
            rate=rate,
        )
        stored = round_one(weight, changed, moment)
        entropies.append(entropy_bytes(stored.codes.numpy()))
        errors.append(error(stored.dense().double() - weight, moment))
    assert entropies == sorted(entropies, reverse=True)
    # Codes are decided one by one: without a price they are no better than with a small one.
    assert all(later > 0.97 * before for before, later in itertools.pairwise(errors))
    assert errors[-1] > 2 * errors[0]
    # A sign is one bit, so that only the zeros can become cheaper.
    assert entropies[-1] < (0.7 if way.bits == 1 else 0.5) * entropies[0]


def within(size: int, bits: int, weight: Tensor, moment: Tensor) -> StoredTensor:
    """What the least rate gives that keeps to so many bytes, by bisection."""
    low, high = math.log(1e-3), math.log(0.3)
    for _ in range(7):
        middle = (low + high) / 2
        found = round_one(weight, Option(bits, rate=math.exp(middle)), moment)
        if coded_bytes(found) <= size:
            high, best = middle, found
        else:
            low = middle
    return best


@pytest.mark.parametrize(("bits", "fewer"), [(4, 3), (4, 2), (6, 2)])
def test_at_equal_bytes_the_error_is_below_that_of_fewer_bits(
    layer: tuple[Tensor, Tensor], bits: int, fewer: int, error: Error
) -> None:
    weight, moment = layer
    plain = round_one(weight, Option(fewer), moment)
    stored = within(coded_bytes(plain), bits, weight, moment)
    losses = [error(one.dense().double() - weight, moment) for one in (stored, plain)]
    assert losses[0] < losses[1]


def test_at_equal_bytes_it_beats_pruning_to_a_share(
    layer: tuple[Tensor, Tensor], error: Error
) -> None:
    weight, moment = layer
    pruned = prune(weight, moment, [0.7])[0.7]
    plain = round_one(pruned, Option(4), moment)
    stored = within(coded_bytes(plain), 4, weight, moment)
    losses = [error(one.dense().double() - weight, moment) for one in (stored, plain)]
    assert losses[0] < losses[1]


def test_zeros_of_before_stay_and_rows_of_zeros_are_no_trouble(
    layer: tuple[Tensor, Tensor],
) -> None:
    weight, moment = layer
    pruned = prune(weight, moment, [0.5])[0.5]
    pruned[3] = 0
    stored = round_one(pruned, Option(4, rate=0.02), moment)
    assert bool((stored.codes[pruned == 0] == 0).all())
    assert int((stored.codes != 0).sum()) < int((pruned != 0).sum())


def test_nothing_at_all_may_be_left(layer: tuple[Tensor, Tensor]) -> None:
    weight, moment = layer
    for way in (Option(4, rate=10), Option(codebook=4, rate=10), Option(1, rate=10)):
        stored = round_one(weight, way, moment)
        assert bool(stored.dense().isfinite().all())
        assert coded_bytes(stored) < 0.1 * weight.numel()
    empty = round_one(torch.zeros_like(weight), Option(4, rate=0.1), moment)
    assert bool((empty.codes == 0).all())


def test_rows_that_count_more_keep_more(layer: tuple[Tensor, Tensor]) -> None:
    weight, moment = layer
    counts = torch.ones(len(weight)).double()
    counts[:32] = 50
    stored = round_one(weight, Option(4, rate=0.05), moment, counts)
    kept = (stored.codes != 0).sum(1)
    assert int(kept[:32].sum()) > 2 * int(kept[32:].sum())


def test_descent_never_raises_the_error(layer: tuple[Tensor, Tensor], error: Error) -> None:
    weight, moment = layer
    levels = fit_uniform(weight, 3, "channel", False, moment.diagonal())
    codes = round_one(weight, Option(3), moment).codes.short()
    mask = torch.ones_like(weight, dtype=torch.bool)
    losses = [error(levels.stored(codes).dense().double() - weight, moment)]
    for _ in range(3):
        codes = descend(codes, weight, levels, moment, mask)
        losses.append(error(levels.stored(codes).dense().double() - weight, moment))
    assert losses[3] <= losses[2] <= losses[1] < losses[0]
