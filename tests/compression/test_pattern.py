from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from autocompress.compression.pattern import pattern_mask, prune_pattern
from autocompress.compression.sparsify import fit_within

System = Callable[..., tuple[Tensor, Tensor]]
Error = Callable[[Tensor, Tensor], float]


@pytest.mark.parametrize(("kept", "run"), [(2, 4), (4, 8), (1, 4), (3, 4), (1, 2)])
@pytest.mark.parametrize("taps", [1, 4])
def test_every_run_keeps_as_many(kept: int, run: int, taps: int, system: System) -> None:
    weight, moment = system(d=32 * taps if run * taps > 32 else 32)
    pruned = prune_pattern(weight, moment, kept, run, taps)
    # By channel and tap: the runs go along the channels.
    runs = (pruned != 0).reshape(len(weight), -1, run, taps)
    assert bool((runs.sum(2) == kept).all())
    torch.testing.assert_close(pruned, fit_within(weight, moment, pruned != 0), rtol=1e-3,
                               atol=1e-4)  # fmt: skip


def test_the_mask_is_near_the_best_of_all(system: System, error: Error) -> None:
    """Four inputs, two of which stay, by trying all six pairs in each row."""
    weight, moment = system(rows=30, d=4)
    found = prune_pattern(weight, moment, 2, 4)
    best = 0.0
    for row in weight:
        losses = []
        for pair in combinations(range(4), 2):
            mask = torch.zeros(1, 4, dtype=torch.bool)
            mask[0, list(pair)] = True
            losses.append(error(fit_within(row[None], moment, mask) - row, moment))
        best += min(losses)
    magnitude = fit_within(weight, moment, pattern_mask(weight.abs(), 2, 4))
    assert error(found - weight, moment) < 1.6 * best
    assert error(found - weight, moment) < error(magnitude - weight, moment)
