"""Devices as a table, and how the latencies of one are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from autocompress.report.limits import is_estimated, mapping
from autocompress.report.plain_table import plain_table
from autocompress.report.units import energy_text, number, printable, size_text


def devices_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row a device."""
    table = plain_table()
    for name in ("device", "runtime", "costs", "runs", "step", "here"):
        justify = "right" if name == "step" else "left"
        table.add_column(name, justify=justify, no_wrap=name != "runtime")  # type: ignore[arg-type]
    for row in rows:
        here = "yes" if row["available"] else "no"
        table.add_row(
            Text(printable(row["name"])),
            Text(printable(f"{row['runtime']} {row['version']}".strip())),
            str(row["costs"]),
            _runs(row),
            str(row["channel_step"]),
            Text(here, style="green" if row["available"] else "dim"),
        )
    return table


def device_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table has no room for: why a device is not here, its limits, what was imported."""
    notes = []
    for row in rows:
        parts = [str(row["description"])] if row["description"] else []
        if row["costs"] == "measured" and row["reason"]:
            parts.append(str(row["reason"]))
        limits = [
            f"{size_text(1024 * row[key])} of {key.partition('_')[0]}"
            for key in ("flash_kib", "ram_kib")
            if row[key]
        ]
        parts += [f"models must fit into {' and '.join(limits)}"] if limits else []
        parts += [f"{row['threads']} threads"] if row["threads"] != 1 else []
        parts += [f"rows of a forward pass: {row['batch_size']}"] if row["batch_size"] else []
        parts += [f"{row['imported']} operations imported"] if row["imported"] else []
        if (row["int8_weight_bits"] or 8) < 8:
            parts.append(f"int8 kernels are exact up to {row['int8_weight_bits']} bits a weight")
        if parts:
            notes.append(printable(f"{row['name']}: {'; '.join(parts)}"))
    notes.append(
        "costs: measured by the clock of this machine, or estimated from a data sheet"
        " (objectives/devices); step: channels come in multiples of it; threads: one where"
        " nothing else is said"
    )
    return notes


def coverage_text(coverage: Mapping[str, Any]) -> str:
    """How many of the prices behind a latency were measured; empty where nothing is known."""
    measured, estimated = number(coverage.get("measured")), number(coverage.get("estimated"))
    if measured is None or estimated is None:
        return ""
    total = measured + estimated
    if not estimated:
        return f"latency: all {total:.0f} prices measured"
    return (
        f"latency: estimated, {measured:.0f} of {total:.0f} prices measured"
        f" ({100 * measured / total:.0f} %), the others from the data sheet"
    )


def met_text(result: Mapping[str, Any]) -> str:
    """That the budget is met, and how that is known."""
    asked = mapping(result, "budget")
    estimated = [name for name in ("latency", "energy") if name in asked]
    if not is_estimated(result):
        estimated = [name for name in estimated if name != "latency"]
    known = f"; {' and '.join(estimated)} as estimated" if estimated else ""
    return f"budget met, as measured{known}"


def footprint_lines(footprint: Mapping[str, Any]) -> list[str]:
    """What the original takes, and whether that fits into the device."""
    energy = footprint["energy_mj"]
    lines = [f"energy of one pass: {energy_text(energy)} (estimated)"] if energy else []
    peak = footprint["peak_memory_bytes"]
    if peak is not None:
        lines.append(f"peak memory of activations: {size_text(peak)} (estimated)")
    return lines + [
        _room_text(room["name"], room["used"], room["limit"], room["fits"])
        for room in footprint["rooms"]
    ]


def _room_text(name: str, used: float, limit: float, fits: bool) -> str:
    verb = "fits" if fits else "does not fit"
    return f"{verb}: {size_text(used)} of {size_text(limit)} of {name}"


def further_costs(estimates: Mapping[str, Any]) -> list[str]:
    """Energy and memory, and each memory of the device that is too small, in sentences."""
    lines = []
    original, best = (estimates.get(key) or {} for key in ("original", "best"))
    for key, name, show in (
        ("energy_mj", "energy", energy_text),
        ("peak_memory_bytes", "peak memory of activations", size_text),
    ):
        after, before = number(best.get(key)), number(original.get(key))
        if after is None or not before:
            continue
        lines.append(
            f"{name} (estimated): {show(after)}, {100 * after / before:.1f} % of the original's"
            f" {show(before)}"
        )
    for name, room in (estimates.get("limits") or {}).items():
        lines.append(_room_text(name, room["used_bytes"], room["limit_bytes"], room["fits"]))
    return lines


def _runs(row: Mapping[str, Any]) -> str:
    return ", ".join(row["activations"])
