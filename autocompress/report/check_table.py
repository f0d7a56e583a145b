"""The table of `autocompress check`, and its last line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.table import Table
from rich.text import Text

from autocompress.report.plain_table import plain_table
from autocompress.report.units import printable

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


class Found(Protocol):
    """One line: what was looked at, how it is (`ok`, `warning`, `error`), and what was found."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def text(self) -> str: ...


def checks_table(findings: Sequence[Found]) -> Table:
    """One row a finding, in their order."""
    table = plain_table()
    table.add_column("checked", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for found in findings:
        table.add_row(
            Text(printable(found.name)),
            Text(found.state, style=STYLES[found.state]),
            Text(printable(found.text)),
        )
    return table


def verdict(findings: Sequence[Found], study: Path) -> tuple[str, str]:
    """What it comes to, and the style to say it in."""
    errors, warnings = (
        sum(found.state == state for found in findings) for state in ("error", "warning")
    )
    counted = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    if errors:
        return f"{counted}: a run would fail or mislead", STYLES["error"]
    if warnings:
        return f"{counted}: autocompress run {study}", STYLES["warning"]
    return f"nothing wrong was found: autocompress run {study}", STYLES["ok"]


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"
