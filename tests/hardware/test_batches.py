"""Models timed in batches come back in order and on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from autocompress.hardware import batches
from autocompress.hardware.batches import REFERENCE, time_in_batches
from autocompress.hardware.timing import Timing


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A clock on which model `i` takes `i + 1` ms; each batch is slower by half than the last."""
    seen: list[list[str]] = []

    def clock(models: Mapping[str, int], *rest: Any) -> dict[str, Timing]:
        slower = 1.5 ** len(seen)
        seen.append(list(models))
        return {name: Timing.of(np.full(4, slower * (i + 1.0))) for name, i in models.items()}

    monkeypatch.setattr(batches, "time_models", clock)
    return seen


def makers(count: int) -> list[Any]:
    return [lambda index=index: index for index in range(count)]


@pytest.mark.parametrize(("count", "most"), [(1, 2), (2, 2), (3, 2), (7, 3), (7, 7), (7, 100)])
def test_order_and_scale(opened: list[list[str]], count: int, most: int) -> None:
    timings = time_in_batches(makers(count), {}, most)
    assert [timing.p20_ms for timing in timings] == pytest.approx([i + 1 for i in range(count)])
    assert all(names[0] == REFERENCE and len(names) <= most for names in opened)
    assert len(opened) == max(1, -(-(count - 1) // (most - 1)))


def test_progress_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(models: Mapping[str, int], *rest: Any) -> dict[str, Timing]:
        rest[3]("timing", 0.5)
        return {name: Timing.of(np.ones(4)) for name in models}

    monkeypatch.setattr(batches, "time_models", clock)
    shares: list[float] = []
    time_in_batches(makers(9), {}, 3, progress=lambda stage, share: shares.append(share))
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="two are needed"):
        time_in_batches(makers(2), {}, 1)
