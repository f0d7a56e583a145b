"""The race: what is surely beaten is dropped early, everything else is measured in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.objective.quality import Proxy
from autocompress.objective.racing import Outputs, race

COUNT = 160


@pytest.fixture
def proxy() -> Proxy:
    torch.manual_seed(0)
    return Proxy(nn.Linear(8, 4).eval(), (torch.randn(COUNT, 8),))


def outputs_of(proxy: Proxy, noise: float, seed: int = 0) -> Outputs:
    """A candidate whose logits are off by noise of a size that differs between the examples."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0.5 + torch.rand(COUNT, 1, generator=generator)
    moved = proxy._reference + noise * scale * torch.randn(COUNT, 4, generator=generator)

    def outputs(part: int) -> tuple[Tensor, float]:
        return moved[proxy.parts[part]], 1.0

    return outputs


ORDER = [3, 0, 7, 5, 11, 1, 12, 9, 2, 15, 6, 4, 8, 14, 10, 13]


def test_parts_cover_the_inputs_once(proxy: Proxy) -> None:
    rows = np.concatenate([np.arange(COUNT)[part] for part in proxy.parts])
    assert rows.tolist() == list(range(COUNT))


def test_without_a_rival_everything_is_measured(proxy: Proxy) -> None:
    whole = race(proxy, outputs_of(proxy, 0.3), ORDER)
    again = race(proxy, outputs_of(proxy, 0.3), range(16))
    assert whole.complete
    assert whole.passes == pytest.approx(1)
    assert whole.examples == COUNT
    assert np.array_equal(whole.samples, again.samples)


def test_a_worse_candidate_is_dropped_and_estimated(proxy: Proxy) -> None:
    rival = race(proxy, outputs_of(proxy, 0.2), ORDER)
    worse = race(proxy, outputs_of(proxy, 0.4), ORDER, rival.samples)
    true = race(proxy, outputs_of(proxy, 0.4), ORDER)
    assert not worse.complete
    assert worse.passes <= 0.5
    assert worse.examples == round(worse.passes * COUNT)
    assert abs(worse.value - true.value) < 4 * worse.doubt * true.value


@pytest.mark.parametrize("noise", [0.1, 0.2])
def test_a_better_or_equal_candidate_is_measured_in_full(proxy: Proxy, noise: float) -> None:
    rival = race(proxy, outputs_of(proxy, 0.2), ORDER)
    found = race(proxy, outputs_of(proxy, noise), ORDER, rival.samples)
    assert found.complete
    assert found.value <= rival.value


def test_outputs_that_are_not_finite_are_dropped(proxy: Proxy) -> None:
    rival = race(proxy, outputs_of(proxy, 0.2), ORDER)

    def broken(part: int) -> tuple[Tensor, float]:
        rows = proxy.parts[part]
        return torch.full((rows.stop - rows.start, 4), torch.nan), 1.0

    found = race(proxy, broken, ORDER, rival.samples)
    assert found.value > 1e6
