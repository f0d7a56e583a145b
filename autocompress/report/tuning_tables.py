"""Terminal tables of `tune-settings`: the trials, best first, and what each knob decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from autocompress.report.plain_table import plain_table
from autocompress.report.thin import thinned
from autocompress.report.units import plain_text, printable, seconds_text, share_text

ROWS_SHOWN = 12


def trials_table(rows: Sequence[Mapping[str, Any]], best: int) -> Table:
    """Trials by their loss over that of the defaults; the defaults and the best always shown.

    Args:
        rows: `Tuning.rows`, the defaults first.
        best: Trial to mark.
    """
    names = list(rows[0]["knobs"]) if rows else []
    table = plain_table()
    table.add_column("trial", no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for name in ("loss", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    default = rows[0]["trial"] if rows else -1
    ordered = sorted(rows, key=lambda row: (row["value"] is None, row["value"], row["trial"]))
    shown = thinned(ordered, ROWS_SHOWN, lambda row: row["trial"] in (best, default))
    for row in shown:
        mark = " *" if row["trial"] == best else ""
        value = "failed" if row["error"] else plain_text(row["value"], 3)
        missed = (row["excess"] or 0) > 0
        table.add_row(
            Text(f"{row['trial']}{' (defaults)' if row['trial'] == default else ''}{mark}"),
            *(printable(row["knobs"].get(name, "")) for name in names),
            f"{value} beyond limits" if missed else value,
            seconds_text(row["seconds"]),
            style="bold" if row["trial"] == best else None,
        )
    lines = ["loss: times that of the defaults on the selection split; * the best within limits"]
    if len(shown) < len(ordered):
        lines.append(f"{len(shown)} of {len(ordered)} trials")
    table.caption, table.caption_justify = Text("\n".join(lines), style="dim"), "left"
    return table


def importance_table(importances: Mapping[str, float]) -> Table:
    """Knob to its share of what decides whether a trial is among the best (PED-ANOVA)."""
    table = plain_table()
    table.add_column("knob")
    table.add_column("importance", justify="right")
    for name, share in sorted(importances.items(), key=lambda item: -item[1]):
        table.add_row(printable(name), share_text(share))
    return table
