"""Terminal tables: known values in human units, within 80 columns, no markup from the user."""

from __future__ import annotations

from typing import Any

import pandas
import pytest
from rich.console import Console
from rich.table import Table

from autocompress.report.limits import limits_of
from autocompress.report.tables import finalists_table, front_table, layers_table, result_table
from autocompress.report.thin import thinned
from autocompress.report.units import (
    compact_text,
    latency_text,
    options_text,
    seconds_text,
    shortened,
    size_text,
)

RESULT: dict[str, Any] = {
    "budget": {
        "size": {"text": "3%", "limit": 51729, "unit": "B"},
        "quality": {"text": "-0.5pt", "limit": 0.9862, "unit": "pt"},
    },
    "original": {"quality": 0.9912, "size_bytes": 1724320, "latency_ms": 0.998},
    "best": {
        "candidate": "c3f9",
        "predicted": {"loss": 0.0312, "size_bytes": 50871, "latency_ms": 0.633},
        "measured": {"quality": 0.9887, "size_bytes": 52890, "latency_ms": 0.651},
    },
    "budget_met": False,
    "binding": "size",
}
LAYERS: list[dict[str, Any]] = [
    {
        "name": f"backbone.stages.{i}.blocks.0.depthwise",
        "kind": "Conv2d",
        "weight_shape": [500, 500, 5, 5],
        "option": "w4-s90-r50-a8",
        "treated": True,
        "bytes_before": 1_600_000,
        "bytes_after": 48_000,
        "loss_alone": 0.00312,
    }
    for i in range(3)
]


def shown(table: Table, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    text = capture.get()
    assert all(len(line) <= width for line in text.splitlines())
    return text


def row(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip().startswith(start))
    return line.split()


def test_result_table_has_every_value_at_80_columns() -> None:
    text = shown(result_table(RESULT))
    assert row(text, "size") == (
        [
            "size",
            "*",
            "1.72",
            "MB",
            "≤",
            "51.7",
            "kB",
            "50.9",
            "kB",
            "52.9",
            "kB",
            "3.1",
            "%",
            "no",
        ]
    )
    quality = ["99.12", "%", "≥", "98.62", "%", "KL", "0.0312", "98.87", "%", "-0.25", "pt", "yes"]
    assert row(text, "quality") == ["quality", *quality]
    latency = ["0.998", "ms", "–", "0.633", "ms", "0.651", "ms", "65.2", "%", "–"]
    assert row(text, "latency") == ["latency", *latency]


@pytest.mark.parametrize("result", [{}, {"best": None, "budget": None, "binding": None}])
def test_result_table_of_nothing_is_dashes(result: dict[str, Any]) -> None:
    assert row(shown(result_table(result)), "size") == ["size", *"––––––"]


def test_quality_that_must_fall_keeps_its_direction_and_unit() -> None:
    result = {
        "budget": {"quality": {"text": "110%", "limit": 13.2, "unit": "perplexity"}},
        "original": {"quality": 12.0},
        "best": {"measured": {"quality": 13.5}},
    }
    quality = limits_of(result)[0]
    assert (quality.asked, quality.met, quality.show(13.5)) == ("at most 13.2", False, "13.5")
    assert quality.distance == "0.3 beyond"


def test_soft_limits_and_floors_above_the_original_are_told() -> None:
    budget = {
        "size": {**RESULT["budget"]["size"], "soft": True},
        "quality": {"text": "99.5", "limit": 0.995, "unit": "", "direction": "at least"},
    }
    quality, size, _ = limits_of({**RESULT, "budget": budget})
    assert (size.soft, size.met, size.asked) == (True, False, "at most 51.7 kB (soft)")
    assert (quality.soft, quality.met, quality.direction) == (False, False, "at least")
    assert "≤ 51.7 kB (soft)" in shown(result_table({**RESULT, "budget": budget}), 120)


def test_details_win_over_result() -> None:
    rows = [{"name": "size", "limit": 60000, "direction": "at most", "met": True, "binding": True}]
    size = next(limit for limit in limits_of(RESULT, rows) if limit.name == "size")
    assert (size.limit, size.met, size.text) == (60000, True, "3%")


def test_layers_table_fits_and_groups_reasons() -> None:
    dense = {"treated": False, "reason": "an LSTM is not treated", "option": "dense"}
    rows = [*LAYERS, {**LAYERS[0], **dense, "name": "[red]rnn[/red]"}]
    text = shown(layers_table(rows))
    assert "left dense: [red]rnn[/red] (an LSTM is not treated)" in text
    assert text.count("w4-s90-r50-a8") == 3
    assert "48.0 kB" in text


def test_layers_table_before_a_search_lists_menus_once() -> None:
    menu = {
        "parameters": 431_080,
        "macs": 2_293_000,
        "size_share": 0.25,
        "options": ["dense", "w8"],
    }
    rows = [{**menu, "name": name, "kind": "Linear", "treated": True} for name in ("fc1", "fc2")]
    text = shown(layers_table(rows))
    assert row(text, "fc1") == ["fc1", "Linear", "431", "080", "2.29", "M", "25.0", "%", "2"]
    assert "options of fc1, fc2: dense, w8" in text
    assert "shape" not in text


def front() -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "candidate": [f"c{i:03d}" for i in range(50)],
            "loss": [1 / (i + 1) for i in range(50)],
            "size_bytes": [1000.0 * (i + 1) for i in range(50)],
            "latency_ms": 0.5,
            "quality": float("nan"),
            "fc1": "w8",
            "fc2": "w8",
        }
    )


def test_front_table_keeps_ends_and_the_best() -> None:
    text = shown(front_table(front(), limit=5, best="c017"))
    assert all(name in text for name in ("c000", "c017 *", "c049", "w8 ×2"))
    assert "5 of 50 candidates" in text
    assert row(text, "c000") == ["c000", "1.00", "kB", "0.500", "ms", "1", "–", "w8", "×2"]


def test_finalists_table_says_why() -> None:
    rows = [
        {"candidate": "a", "met": True, "chosen": True, "measured": {"size_bytes": 5e4}},
        {"candidate": "b", "met": False, "chosen": False, "reason": "[i]too slow"},
        {},
    ]
    text = shown(finalists_table(rows))
    assert "chosen" in text
    assert "[i]too slow" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (size_text(999), "999 B"),
        (size_text(51729), "51.7 kB"),
        (size_text(1724320), "1.72 MB"),
        (size_text(float("nan")), "–"),
        (latency_text(0.0123), "12.3 µs"),
        (latency_text(0.6986), "0.699 ms"),
        (latency_text(2e-17), "0 ms"),
        (latency_text(-2e-17), "0 ms"),
        (latency_text(1500), "1.50 s"),
        (latency_text("3"), "–"),
        (seconds_text(155), "2.6 min"),
        (compact_text(2_293_000), "2.29 M"),
        (shortened("backbone.stages.0.conv", 12), "back….0.conv"),
        (options_text(["w8", "dense", "w8"]), "w8 ×2, dense"),
    ],
)
def test_units(text: str, expected: str) -> None:
    assert text == expected


def test_thinned_refuses_nothing_to_show() -> None:
    assert thinned([1, 2, 3], None, lambda _: False) == [1, 2, 3]
    with pytest.raises(ValueError, match="limit=0"):
        thinned([1, 2, 3], 0, lambda _: False)
