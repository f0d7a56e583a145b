"""Two runs side by side in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from autocompress.report.nightly_text import change_text, figure_cells
from autocompress.report.plain_table import plain_table
from autocompress.report.units import (
    NOTHING,
    latency_text,
    number,
    printable,
    share_text,
    shortened,
    size_text,
)

NAME_WIDTH = 28
OPERATIONS = 8  # rows of the device's table that are shown
STYLES = {"better": "green", "worse": "bold red"}


def figures_table(diff: Mapping[str, Any]) -> Table:
    """Quality, costs, limits and fronts of two runs."""
    table = plain_table()
    for name in ("", "first", "second", "noise band", "", "note"):
        table.add_column(name, justify="left" if name in ("", "note") else "right")
    for figure in diff["figures"]:
        name, before, after, band, grade, note = figure_cells(figure)
        table.add_row(
            Text(printable(name)),
            before,
            after,
            band,
            Text(grade, style=STYLES.get(grade, "")),
            Text(printable(note), style="dim"),
        )
    return table


def moved_table(diff: Mapping[str, Any]) -> Table:
    """The layers of which anything moved: options, bytes, milliseconds, weights."""
    table = plain_table()
    table.add_column("layer", no_wrap=True)
    for name in ("option", "bytes", "latency", "weights moved by"):
        table.add_column(name, justify="left" if name == "option" else "right", overflow="fold")
    for row in diff["layers"]:
        if not row["moved"]:
            continue
        table.add_row(
            Text(shortened(row["name"], NAME_WIDTH)),
            Text(_pair(row["option"], lambda text: printable(text or NOTHING))),
            _pair(row["bytes"], size_text),
            _pair(row["latency_ms"], latency_text),
            _weights(row["weights"]),
        )
    return table


def diff_lines(diff: Mapping[str, Any]) -> list[str]:
    """What the tables have no room for."""
    front, layers = diff["front"], diff["layers"]
    still = sum(not row["moved"] for row in layers)
    lines = [
        f"{still} of {len(layers)} layers have not moved",
        f"front: {front['both']} candidates in both, {front['first']} only in the first,"
        f" {front['second']} only in the second",
        f"calibration data: {'the same' if diff['calibration'] else 'others'}",
    ]
    lines += [f"study: {change_text(row)}" for row in diff["settings"]]
    lines += [
        f"{row['name']}: {row['before']} before, {row['after']} now" for row in diff["versions"]
    ]
    operations = diff["operations"]
    lines += [
        f"{row['layer']} {row['option']}: {latency_text(row['before_ms'])} before,"
        f" {latency_text(row['after_ms'])} now, {row['ratio']:.2f} times"
        for row in operations[:OPERATIONS]
    ]
    if len(operations) > OPERATIONS:
        lines.append(f"{len(operations) - OPERATIONS} more operations take another time")
    lines += [cause["text"] for cause in diff["causes"]]
    return [printable(line) for line in lines]


def _pair(values: list[Any], show: Any) -> str:
    first, second = (show(value) for value in values)
    return first if first == second else f"{first} → {second}"


def _weights(share: Any) -> str:
    if share is None:
        return "not comparable"
    return NOTHING if not number(share) else share_text(share)
