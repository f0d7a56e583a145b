"""HTML pieces that escape whatever they are given: tables, commands, lists."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from autocompress.report.units import printable


@dataclass(frozen=True)
class Raw:
    """Markup that is already escaped.

    Args:
        markup: The HTML.
    """

    markup: str


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Args:
        cells: Texts, or `Raw` for markup.
        is_best: Whether the row is highlighted.
    """

    cells: Sequence[str | Raw]
    is_best: bool = False


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        title: Heading.
        kind: `n` for numbers (to the right), `id` for ids (not broken), `name` for names that may
            break when long, `text` for sentences, `screen` for what is not printed, empty for
            anything else.
        hint: Shown when the pointer rests on the heading.
    """

    title: str
    kind: str = ""
    hint: str = field(default="")


def escaped(text: Any) -> str:
    """`text` as HTML text or attribute value."""
    return html.escape(printable(text), quote=True)


def table(columns: Sequence[Column], rows: Sequence[TableRow]) -> str:
    """A table in a box that scrolls."""
    heads = "".join(
        f'<th scope="col" class="{column.kind}" title="{escaped(column.hint)}">'
        f"{escaped(column.title)}</th>"
        for column in columns
    )
    lines = []
    for row in rows:
        cells = "".join(
            f'<td class="{column.kind}">{_markup(cell)}</td>'
            for column, cell in zip(columns, row.cells, strict=True)
        )
        lines.append(f'<tr class="best">{cells}</tr>' if row.is_best else f"<tr>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def pairs_table(pairs: Sequence[tuple[str, str]]) -> str:
    """Two columns: a name and its value."""
    lines = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>'
        for name, value in pairs
    )
    return f'<div class="scroll"><table><tbody>{lines}</tbody></table></div>'


def command(text: str) -> str:
    """A command line with a button that copies it."""
    return f'<div class="command"><code>{escaped(text)}</code>{copy_button(text, "copy")}</div>'


def copy_button(text: str, label: str, what: str = "") -> str:
    """A button that copies `text`.

    Args:
        text: What is copied.
        label: What stands on it.
        what: What the text is about, where many buttons have the same label.
    """
    told = f' title="{escaped(f"copy how to write {what}")}"' if what else ""
    return f'<button type="button" data-copy="{escaped(text)}"{told}>{escaped(label)}</button>'


def folded(title: str, body: str) -> str:
    """A part that opens on a click, and is open on paper."""
    return f"<details><summary>{escaped(title)}</summary>{body}</details>"


def tile(title: str, value: str, below: str, kind: str = "") -> str:
    """A figure to be seen at once.

    Args:
        title: What it is.
        value: The figure.
        below: A few words on it.
        kind: `yes` or `no` for what is met and what is not.
    """
    return (
        f'<div class="tile"><div class="soft">{escaped(title)}</div>'
        f'<div class="figure {kind}">{escaped(value)}</div>'
        f'<div class="soft">{escaped(below)}</div></div>'
    )


def bullets(items: Sequence[str], kind: str = "plain") -> str:
    """A list of sentences."""
    return f'<ul class="{kind}">{"".join(f"<li>{escaped(item)}</li>" for item in items)}</ul>'


def yes_no(value: bool | None) -> Raw:
    """`yes`, `no` or a dash, coloured."""
    if value is None:
        return Raw("–")
    return Raw('<span class="yes">yes</span>' if value else '<span class="no">no</span>')


def _markup(cell: str | Raw) -> str:
    return cell.markup if isinstance(cell, Raw) else escaped(cell)
