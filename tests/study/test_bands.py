"""The arithmetic of noise bands and verdicts, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autocompress.study.bands import (
    quality_band,
    ratio_band,
    size_band,
    volume_band,
)
from autocompress.study.causes import changed_settings
from autocompress.study.compare import LIMITED, MINIMISED, TRADED, grade, role
from autocompress.study.decisions import Decisions
from autocompress.study.packing import packed
from autocompress.study.sketch import WIDTH, change, sketch
from autocompress.study.volume import volume_of


def decided(*winner: int, inputs: str = "a") -> Decisions:
    made = np.array(winner, dtype=np.int32)
    return Decisions(made, made, inputs)


def test_pairs_that_agree_leave_no_room() -> None:
    made = decided(*[0, 1] * 50)
    band = quality_band(50.0, 50.0, "%", made, made, None)
    assert band.width == 0
    assert band.basis == "0 of 100 decisions differ"


def test_pairs_that_differ() -> None:
    old, new = decided(*[0] * 100), decided(*[0] * 84, *[1] * 16)
    # 2.576 standard deviations of 16 signs among 100: sqrt(16) / 100, in hundredths.
    assert quality_band(90.0, 86.0, "%", old, new, None).width == pytest.approx(2.576 * 4)
    assert quality_band(0.9, 0.86, "", old, new, None).width == pytest.approx(2.576 * 0.04)


def test_other_inputs_are_not_paired() -> None:
    old, new = decided(*[0] * 96), decided(*[0] * 96, inputs="b")
    # Two right and two wrong ones added: 50 of 100 each.
    expected = 2.576 * math.sqrt(2 * 0.5 * 0.5 / 96)
    assert quality_band(0.5, 0.5, "", old, new, None).width == pytest.approx(expected)


def test_a_metric_that_counts_no_decisions() -> None:
    made = decided(*[0] * 100)
    # 3.14159 % of 100 decisions is no whole number of them.
    band = quality_band(3.14159, 3.2, "%", made, made, (0.03, -0.04))
    assert band.width == pytest.approx(2.576 * math.sqrt((0.03**2 + 0.04**2) / 2))
    assert "two splits" in band.basis
    band = quality_band(20.0, 21.0, "", None, None, None)
    assert band.width == pytest.approx(0.005 * 21)


def test_latency_by_the_intervals_of_both_nights() -> None:
    # Intervals of 90 % are 2 * 1.645 standard deviations wide: here 1 % and none.
    one = (0.5 * math.exp(-0.01645), 0.5 * math.exp(0.01645))
    band = ratio_band(0.5, one, (0.5, 0.5))
    expected = 0.5 * (math.exp(math.hypot(2.576 * 0.01, 0.005)) - 1)
    assert band.width == pytest.approx(expected)
    # Prices do not scatter.
    assert ratio_band(0.5, (0.5, 0.5), (0.6, 0.6)).width == 0


def test_size_and_volume() -> None:
    assert size_band(5000).width == 50
    assert volume_band(0.03, 0.04).width == pytest.approx(2.576 * 0.05)


@pytest.mark.parametrize(
    ("before", "after", "band", "higher", "bound", "expected"),
    [
        (90.0, 88.0, 2.0, True, None, "same"),
        (90.0, 87.9, 2.0, True, None, "worse"),
        (90.0, 92.1, 2.0, True, None, "better"),
        (3.0, 3.2, 0.1, False, None, "worse"),
        (3.0, 2.8, 0.1, False, None, "better"),
        # Within a limit it may move, beyond it not.
        (60.0, 79.0, 0.0, False, 80.0, "same"),
        (60.0, 80.5, 0.0, False, 80.0, "worse"),
        (60.0, 80.5, 1.0, False, 80.0, "same"),
        (90.0, 86.0, 0.0, True, 85.0, "same"),
        (90.0, 84.0, 0.0, True, 85.0, "worse"),
        # A limit that was missed before counts where it came to.
        (90.0, 89.0, 0.0, False, 80.0, "better"),
        (90.0, 90.0, 0.0, False, 80.0, "same"),
        (90.0, 91.0, 0.0, False, 80.0, "worse"),
    ],
)
def test_grades(
    before: float, after: float, band: float, higher: bool, bound: float | None, expected: str
) -> None:
    assert grade(before, after, band, higher, bound) == expected


def test_roles() -> None:
    asked = {"objective": {"minimise": "size", "front": []}, "budget": {"quality": "-1pt"}}
    assert [role(asked, name) for name in ("size", "quality", "latency")] == [
        MINIMISED,
        LIMITED,
        "free",
    ]
    front = {"objective": {"minimise": "quality", "front": ["size"]}, "budget": {}}
    assert [role(front, name) for name in ("quality", "size", "latency")] == [
        TRADED,
        TRADED,
        "free",
    ]


def test_settings_that_changed() -> None:
    before = {"metric": "accuracy", "budget": {"size": "25%"}, "search space": {"bits": [4]}}
    after = {
        "metric": "accuracy",
        "budget": {"size": "25%", "latency": "50%"},
        # A key of a later version is not the user's doing.
        "search space": {"bits": [4, 8], "new key": 1},
    }
    assert changed_settings(before, after) == [
        {"key": "budget.latency", "before": None, "after": "50%"},
        {"key": "search space.bits", "before": [4], "after": [4, 8]},
    ]


def test_sketches_tell_how_far_weights_moved() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 300, generator=generator)
    noise = torch.randn(200, 300, generator=generator)
    moved = packed(sketch([weight + 0.2 * noise]))
    old = packed(sketch([weight]))
    assert change(old, moved) == pytest.approx(0.2, rel=0.15)
    assert change(old, old) == 0
    assert change(old, packed(sketch([2 * weight]))) == pytest.approx(1)
    # Few values are kept as they are.
    few = torch.randn(WIDTH // 2, generator=generator)
    assert change(packed(sketch([few])), packed(sketch([few * 1.25]))) == pytest.approx(0.25)
    assert change(old, packed(sketch([few]))) is None


def test_volume_of_a_front() -> None:
    # One candidate of loss 10 ** -2.5, half way between a millionth and ten, at half of the costs.
    samples = [np.full(10, 10**-2.5)]
    found = volume_of(
        np.array([10**-2.5]), np.array([[0.5, 0.5]]), samples, np.random.default_rng(0)
    )
    assert found.hypervolume == pytest.approx(0.6**3 / 1.1**3)
    # All inputs alike: which of them are drawn makes no difference.
    assert (found.spread, found.points) == (pytest.approx(0, abs=1e-12), 1)
    samples = [np.random.default_rng(1).exponential(10**-2.5, 200)]
    noisy = volume_of(
        np.array([samples[0].mean()]), np.array([[0.5, 0.5]]), samples, np.random.default_rng(0)
    )
    # log10 of a mean of 200 exponential losses scatters by 1 / sqrt(200) / ln 10, of 7 decades.
    expected = 0.6**2 / 1.1**3 / (200**0.5 * math.log(10) * 7)
    assert noisy.spread == pytest.approx(expected, rel=0.3)
