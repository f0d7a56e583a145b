"""What training did for the candidates, in a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.report.limits import mapping
from autocompress.report.units import plain_text, printable, size_text


def recovery_lines(result: Mapping[str, Any], unit: str = "") -> list[str]:
    """A line for each candidate that was trained.

    Args:
        result: Content of `result.json`.
        unit: Of the metric.
    """
    rows = result.get("recovery")
    if not isinstance(rows, Sequence):
        return []
    return [_line(mapping({"row": row}, "row"), unit) for row in rows]


def _line(row: Mapping[str, Any], unit: str) -> str:
    name, method = row.get("candidate", "?"), row.get("method", "?")
    begun = printable(f"recovery ({method}) of {name}, {plain_text(row.get('seconds'), 3)} s: ")
    if not row.get("improved"):
        return begun + "nothing better was found; the candidate stays as it was"
    tail = f" {unit}" if unit else ""
    quality = f"{plain_text(row.get('quality_before'), 4)} to"
    quality += f" {plain_text(row.get('quality_after'), 4)}{tail} on the selection split"
    size = f"{size_text(row.get('size_before'))} to {size_text(row.get('size_after'))}"
    return begun + f"{quality}, {size}"
