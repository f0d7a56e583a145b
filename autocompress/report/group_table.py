"""Channel groups for the terminal: what is removed together, in which widths, or why it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from autocompress.report.plain_table import plain_table
from autocompress.report.units import NOTHING, printable, shortened

_NAME_WIDTH = 20
_NAMES_SHOWN = 3
_WIDTHS_SHOWN = 6


def groups_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """One row a group.

    Args:
        groups: Rows as `model.channels.group_rows` gives them.
    """
    table = plain_table()
    for name in ("group", "written by", "read by", "channels", "step", "widths, or why not"):
        is_number = name in ("channels", "step")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in groups:
        channels = str(row["channels"])
        if row["pieces"] != row["channels"]:
            channels = f"{row['pieces']} × {row['channels'] // row['pieces']}"
        table.add_row(
            Text(shortened(row["name"], _NAME_WIDTH)),
            _names(row["producers"]),
            _names(row["consumers"]),
            channels,
            NOTHING if row["frozen"] else str(row["step"]),
            Text(printable(row["frozen"]), style="dim") if row["frozen"] else _widths(row),
        )
    free = sum(not row["frozen"] for row in groups)
    table.caption = f"{free} of {len(groups)} channel groups may become narrower"
    table.caption_justify = "left"
    return table


def _names(names: Sequence[str]) -> Text:
    shown = [shortened(name, _NAME_WIDTH) for name in names[:_NAMES_SHOWN]]
    more = len(names) - len(shown)
    return Text("\n".join([*shown, f"and {more} more"] if more else shown) or NOTHING)


def _widths(row: Mapping[str, Any]) -> Text:
    widths = [str(width) for width in row["widths"]]
    if len(widths) > _WIDTHS_SHOWN:
        widths = [*widths[: _WIDTHS_SHOWN - 2], "…", widths[-1]]
    return Text(" ".join(widths) or f"none: fewer than two steps of {row['step']}")
