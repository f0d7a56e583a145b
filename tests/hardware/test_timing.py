from __future__ import annotations

import numpy as np
import pytest

from autocompress.hardware.timing import Timing, interleaved, ratio


def work(size: int) -> object:
    return sum(range(size))


def test_every_function_runs_in_turn_and_short_ones_are_repeated() -> None:
    timings = interleaved(
        {"short": lambda: work(2_000), "long": lambda: work(40_000)}, blocks=15, block_ms=1.0
    )
    assert timings["short"].p20_ms < timings["long"].p20_ms
    assert timings["short"].blocks == timings["long"].blocks >= 15
    assert len(timings["short"].samples_ms) == timings["short"].blocks
    assert timings["long"].spread >= 0


def test_rounds_end_when_patience_does() -> None:
    timing = interleaved({"f": lambda: work(500)}, blocks=5, block_ms=0.1, patience=2.0)["f"]
    assert 5 <= timing.blocks <= 10


def test_the_clock_that_is_given_is_read() -> None:
    now = 0

    def run(nanoseconds: int) -> None:
        nonlocal now
        now += nanoseconds

    timings = interleaved(
        {"one": lambda: run(1_000_000), "three": lambda: run(3_000_000)}, clock=lambda: now
    )
    assert (timings["one"].p20_ms, timings["three"].p20_ms) == (1.0, 3.0)


def test_percentile_of_known_samples() -> None:
    timing = Timing.of(np.arange(1.0, 12.0))
    assert timing.p20_ms == 3.0
    assert timing.spread == pytest.approx(5 / 3)


def test_ratio_pairs_rounds_so_that_common_disturbances_cancel() -> None:
    generator = np.random.default_rng(0)
    disturbance = 1 + generator.random(40)
    under = Timing.of(disturbance)
    over = Timing.of(2 * disturbance * (1 + 0.001 * generator.standard_normal(40)))
    found = ratio(over, under, generator)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(2, rel=0.01)
    assert found.high - found.low < 0.02


def test_ratio_of_different_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="not pairs"):
        ratio(Timing.of(np.ones(3)), Timing.of(np.ones(4)), np.random.default_rng(0))
