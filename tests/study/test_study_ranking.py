"""Never worse than the original: how finalists are ranked, and what is told when none may ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from autocompress.objective.budget import parse_budget
from autocompress.study.confirm import quality_threshold, rank
from autocompress.study.finalist import Verdict
from autocompress.study.front import by_knee
from autocompress.study.result import budget_rows
from autocompress.study.storage import Record
from autocompress.study.targets import (
    Measured,
    Target,
    keeps_hard,
    search_limits,
    shortfall,
    targets_of,
)

ORIGINAL = Measured(90.0, 1000.0, 1.0)


def record(id: str, loss: float = 0.1) -> Record:
    return Record(id, {}, loss, 0.0, 100.0, 1.0, "", 0.0)


def verdict(
    id: str,
    quality: float = 90.0,
    size: float = 100.0,
    ratio: float = 0.5,
    targets: tuple[Target, ...] = (),
    loss: float = 0.1,
) -> Verdict:
    measured = Measured(quality, size, ratio * ORIGINAL.latency_ms)
    met = keeps_hard(targets, measured)
    finalist: Any = SimpleNamespace(loss=loss)
    return Verdict(finalist, record(id), measured, 0.98 * ratio, 1.02 * ratio, met)


def order(
    verdicts: list[Verdict], minimise: str = "quality", **kept: Any
) -> list[tuple[str, str]]:
    targets = kept.get("targets", ())
    ranked = rank(verdicts, ORIGINAL, targets, minimise, kept.get("higher", True))
    return [(item.record.id, item.reason) for item in ranked]


def limits(*texts: str, higher: bool = True) -> tuple[Target, ...]:
    return targets_of(parse_budget(texts), ORIGINAL, higher, "%")


def test_larger_and_slower_lose_to_a_poorer_one() -> None:
    found = order(
        [
            verdict("larger", quality=95, size=1001),
            verdict("slower", quality=95, ratio=1.5),
            verdict("poor", quality=70),
        ]
    )
    assert found[0] == ("poor", "")
    assert {"larger", "slower"} == {id for id, _ in found[1:]}
    reasons = dict(found)
    assert reasons["larger"] == "larger than the original"
    assert "slower than the original" in reasons["slower"]


def test_all_worse_leaves_no_winner() -> None:
    found = order([verdict("larger", size=1001), verdict("slower", ratio=1.5)])
    assert all(reason for _, reason in found)


def test_slower_within_the_clocks_error_is_not_slower() -> None:
    """The lower end of the interval decides: 1.01 times 0.98 is no proof."""
    assert order([verdict("a", ratio=1.01)]) == [("a", "")]
    assert order([verdict("a", ratio=1.03)])[0][1]


def test_equal_size_is_not_larger() -> None:
    assert order([verdict("a", size=1000)]) == [("a", "")]


def test_limits_come_before_what_is_minimised() -> None:
    targets = limits("size=15%", "quality=-2pt")
    found = order(
        [
            verdict("good but large", quality=90, size=160, targets=targets),
            verdict("within", quality=88.5, size=140, targets=targets),
            verdict("small but poor", quality=80, size=50, targets=targets),
        ],
        targets=targets,
    )
    assert [id for id, _ in found] == ["within", "good but large", "small but poor"]
    assert dict(found)["good but large"] == "misses the limit on size"
    assert dict(found)["small but poor"] == "misses the limit on quality"


@pytest.mark.parametrize(
    ("minimise", "winner"), [("quality", "good"), ("size", "small"), ("latency", "fast")]
)
def test_objective_decides_among_those_that_keep_the_limits(minimise: str, winner: str) -> None:
    found = order(
        [
            verdict("good", quality=91, size=200, ratio=0.6),
            verdict("small", quality=89, size=100, ratio=0.6),
            verdict("fast", quality=89, size=200, ratio=0.4),
        ],
        minimise,
    )
    assert found[0] == (winner, "")
    assert {reason for _, reason in found[1:]} == {"another one is better"}


def test_closest_wins_when_no_limit_can_be_kept() -> None:
    targets = limits("size=5%")
    items = [verdict("far", size=90, targets=targets), verdict("near", size=60, targets=targets)]
    assert order(items, targets=targets)[0] == ("near", "")
    assert not items[1].met


def test_equal_quality_is_decided_by_the_proxy() -> None:
    assert order([verdict("a", loss=0.2), verdict("b", loss=0.1)])[0][0] == "b"


def test_lower_is_better_turns_quality_around() -> None:
    targets = limits("quality=-5", higher=False)
    items = [verdict("high", quality=94, targets=targets), verdict("low", quality=85)]
    assert order(items, targets=targets, higher=False)[0][0] == "low"
    assert targets[0].bound == 95
    assert not targets[0].is_met(Measured(95.1, 0, 0))
    assert targets[0].is_met(Measured(20.0, 0, 0))


def test_targets_are_relative_to_the_original_as_measured() -> None:
    size, latency, quality = limits("size=10%", "latency=2us", "quality=-0.5pt")
    assert (size.bound, size.unit) == (100.0, "B")
    assert (latency.bound, latency.unit) == (0.002, "ms")
    assert (quality.bound, quality.at_least) == (89.5, True)
    assert size.excess(Measured(0, 150, 0), ORIGINAL) == pytest.approx(0.05)
    assert size.excess(Measured(0, 50, 0), ORIGINAL) < 0
    assert quality.excess(Measured(88.5, 0, 0), ORIGINAL) == pytest.approx(1 / 89.5)


def test_soft_limits_are_aimed_at_but_do_not_fail() -> None:
    targets = limits("quality=-1pt", "latency~50%", "size<=10% (soft)")
    assert [target.soft for target in targets] == [False, True, True]
    kept, large, slow = Measured(90, 90, 0.4), Measured(89, 200, 0.4), Measured(90, 90, 0.6)
    assert shortfall(targets, kept, ORIGINAL) == (0, 0, 0)
    assert shortfall(targets, large, ORIGINAL) == (0, 0, pytest.approx(0.1))
    assert shortfall(targets, slow, ORIGINAL) == (0, pytest.approx(0.1), 0)
    assert all(keeps_hard(targets, found) for found in (kept, large, slow))
    poor = Measured(80, 90, 0.4)
    assert not keeps_hard(targets, poor)
    # Hard limits first, then the soft ones in the order given.
    assert sorted([poor, slow, large, kept], key=lambda m: shortfall(targets, m, ORIGINAL)) == [
        kept,
        large,
        slow,
        poor,
    ]


def test_soft_limits_decide_among_those_that_keep_the_hard_ones() -> None:
    targets = limits("quality=-5pt", "size<=10% (soft)", "latency~50%")
    found = order(
        [
            verdict("poor", quality=80, size=50, targets=targets),
            verdict("good but large", quality=90, size=200, ratio=0.4, targets=targets),
            verdict("good but slow", quality=90, size=90, ratio=0.7, targets=targets),
            verdict("within", quality=86, size=90, ratio=0.4, targets=targets),
        ],
        targets=targets,
    )
    assert [id for id, _ in found] == ["within", "good but slow", "good but large", "poor"]
    assert dict(found)["good but slow"] == "misses the limit on latency"
    assert verdict("large", size=200, targets=targets).met, "it misses a soft limit only"


def test_the_order_given_decides_where_nothing_is_minimised() -> None:
    items = [
        verdict("knee", quality=80, size=200),
        verdict("slow knee", quality=80, ratio=1.5),
        verdict("good", quality=90, size=100),
    ]
    ranked = rank(items, ORIGINAL, (), None, True)
    assert [item.record.id for item in ranked] == ["knee", "good", "slow knee"]


def test_a_front_begins_with_its_knee() -> None:
    points = {"a": (1e-4, 900), "b": (1e-3, 300), "c": (1e-2, 250), "d": (1e-1, 240)}
    items = [replace(record(id, loss), size_bytes=size) for id, (loss, size) in points.items()]
    partial = replace(record("e", 1e-5), size_bytes=1.0, doubt=0.1)
    beaten = replace(record("f", 1e-2), size_bytes=900)
    found = [item.id for item in by_knee([*items, partial, beaten], ["size_bytes"])]
    assert found[0] == "b"
    assert sorted(found) == ["a", "b", "c", "d"]
    assert by_knee([], ["size_bytes"]) == by_knee([partial], ["size_bytes"]) == []


def test_search_is_held_to_less_than_the_budget() -> None:
    budget = parse_budget(["size=10%", "latency=50%", "quality=-1pt"])
    found = search_limits(budget, 1000, 2.0, error=0.03)
    assert found == {"size_bytes": 99.0, "latency_ms": pytest.approx(0.97)}
    turned = search_limits(dict(reversed(budget.items())), 1000, 2.0, error=0.03)
    assert list(turned) == ["latency_ms", "size_bytes"], "soft limits count in the order given"
    assert search_limits(budget, 1000, 2.0, error=0.5)["latency_ms"] == pytest.approx(0.95)


def measured_by(quality_of_loss: Callable[[float], float]) -> tuple[Any, list[float]]:
    asked: list[float] = []

    def measure(item: Record) -> float:
        asked.append(item.loss)
        return quality_of_loss(item.loss)

    return measure, asked


def test_threshold_is_the_largest_loss_that_keeps_the_metric() -> None:
    records = [record(str(i), loss=i / 100) for i in range(64)]
    (target,) = limits("quality=-5pt")
    measure, asked = measured_by(lambda loss: 90 - 10 * loss)
    assert quality_threshold(records, measure, target) == pytest.approx(0.5)
    assert len(asked) <= 7, "bisection takes the logarithm of 64 evaluations"


def test_threshold_at_its_ends() -> None:
    records = [record(str(i), loss=float(i)) for i in range(1, 4)]
    (target,) = limits("quality=-5pt")
    assert quality_threshold(records, lambda _: 0.0, None) == float("inf")
    assert quality_threshold(records, lambda _: 50.0, target) == 0.0
    assert quality_threshold(records, lambda _: 90.0, target) == 3.0


def test_a_latency_that_is_not_lower_outside_the_noise_misses_its_limit() -> None:
    """One timing says 0.98 of the original under a limit of 0.99; the interval ends above 1."""
    (limit,) = targets = limits("latency=99%")
    lucky = replace(
        verdict("lucky", 91.0, ratio=0.985), latency_high=1.01, met=False, no_gain=True
    )
    sure = verdict("sure", 89.0, ratio=0.9, targets=targets)
    assert order([lucky, sure], targets=targets) == [
        ("sure", ""),
        ("lucky", "misses the limit on latency (no gain outside the noise)"),
    ]
    assert limit.is_met(lucky.measured)
    rows = budget_rows(targets, lucky.measured, lucky)
    assert not rows["latency"]["met"]
    assert budget_rows(targets, sure.measured, sure)["latency"]["met"]
    assert lucky.missed_latency == {"latency": pytest.approx(0.01)}
    assert not sure.missed_latency
