"""`trend.html`: quality, size, latency and hypervolume of every study over all nights, offline."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from autocompress.report.drawing import ACCENT, BAD, BEFORE, GOOD, WARM, blank, hover, safe
from autocompress.report.markup import Column, Raw, TableRow, bullets, escaped, table
from autocompress.report.nightly_text import quality_text, value_text
from autocompress.report.page import POLICY, STYLE
from autocompress.report.script import SCRIPT
from autocompress.report.units import latency_text, number, share_text, size_text
from autocompress.study.verdict import BASELINE, BETTER, FAILED, NEEDED, SAME, WORSE, headline

# Colour and shape, so that the verdicts differ without colours too.
MARKS = {
    BASELINE: (BEFORE, "square"),
    SAME: (ACCENT, "circle"),
    BETTER: (GOOD, "triangle-up"),
    WORSE: (BAD, "x"),
    NEEDED: (WARM, "diamond"),
    FAILED: (BAD, "cross-open"),
}
_SIGNS = {
    "square": "■",
    "circle": "●",
    "triangle-up": "▲",
    "x": "✖",
    "diamond": "◆",
    "cross-open": "✚",
}
_NIGHT = re.compile(r"\d{4}-(\d\d)-(\d\d)_(\d\d)(\d\d)")
_TICKS = 6
STATES = {WORSE: "missed", FAILED: "missed", NEEDED: "open"}

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Series:
    """One chart of a study.

    Args:
        key: Of `measured`.
        title: Heading.
        caption: How to read it.
        unit: For the hovers; empty takes the metric's, or none.
    """

    key: str
    title: str
    caption: str
    unit: str = ""


SERIES = (
    Series("quality", "Quality", "Of the delivered model, by the user's metric."),
    Series("size_bytes", "Size", "Of the delivered file.", "B"),
    Series(
        "latency_ratio",
        "Latency over the original's",
        "Both measured in the same minutes, so that a slow night does not show.",
    ),
    Series(
        "hypervolume", "Hypervolume of the front", "Higher is better; 1 is all there could be."
    ),
)


def trend_html(verdicts: Rows) -> str:
    """The whole page as text.

    Args:
        verdicts: Every study of every night, oldest first.
    """
    studies = list(dict.fromkeys(row["study"] for row in verdicts))
    bodies = []
    for place, study in enumerate(studies):
        rows = [row for row in verdicts if row["study"] == study]
        bodies.append(_section(f"s{place}", study, rows))
    links = "".join(
        f'<a href="#s{place}">{escaped(study)}</a>' for place, study in enumerate(studies)
    )
    nights = len({row["night"] for row in verdicts})
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>autocompress nights</title>\n<style>{STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        f'<header><h1>Nights</h1><p class="soft">{_count(nights, "night", "nights")}, '
        f"{_count(len(studies), 'study', 'studies')}</p>"
        f"{_last(verdicts)}{_key()}<nav>{links}</nav></header>\n{''.join(bodies)}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def trend_figure(rows: Rows, series: Series) -> go.Figure | None:
    """One figure of a study over its nights, with a mark for each verdict; None without data.

    The line goes through the accepted nights; a night that measured nothing has no point.
    """
    shown = [row for row in rows if number(row["measured"].get(series.key)) is not None]
    if not shown:
        return None
    figure = blank(height=240, showlegend=False)
    nights = [row["night"] for row in rows]
    # A few short dates beside each other; the hovers have the whole name.
    ticks = nights[:: math.ceil(len(nights) / _TICKS)]
    figure.update_xaxes(
        type="category",
        categoryorder="array",
        categoryarray=nights,
        tickmode="array",
        tickvals=ticks,
        ticktext=_dates(ticks),
        tickangle=0,
    )
    kept = [row for row in shown if row["accepted"]]
    figure.add_scatter(
        x=[row["night"] for row in kept],
        y=[row["measured"][series.key] for row in kept],
        mode="lines",
        line={"color": ACCENT, "width": 2},
        showlegend=False,
        hoverinfo="skip",
    )
    for verdict, (colour, symbol) in MARKS.items():
        mine = [row for row in shown if row["verdict"] == verdict]
        if not mine:
            continue
        figure.add_scatter(
            x=[row["night"] for row in mine],
            y=[row["measured"][series.key] for row in mine],
            mode="markers",
            name=verdict,
            marker={"color": colour, "symbol": symbol, "size": 10},
            hovertext=[_hover(row, series) for row in mine],
            hoverinfo="text",
        )
    if series.unit == "B":
        figure.update_yaxes(tickformat="~s", ticksuffix="B")
    return figure


def _dates(nights: Sequence[str]) -> list[str]:
    """Month and day of each night, with the time where two are of one day."""
    parts = [_NIGHT.match(night) for night in nights]
    days = [
        f"{part[1]}-{part[2]}" if part else safe(night)
        for night, part in zip(nights, parts, strict=True)
    ]
    if len(set(days)) == len(days):
        return days
    return [
        f"{day}<br>{part[3]}:{part[4]}" if part else day
        for day, part in zip(days, parts, strict=True)
    ]


def _key() -> str:
    """What the marks of the figures mean."""
    marks = "".join(
        f'<span><span style="color:{colour}">{_SIGNS[symbol]}</span> {escaped(verdict)}</span> '
        for verdict, (colour, symbol) in MARKS.items()
    )
    text = (
        "Each mark is a night; the line goes through those that were accepted, which the next "
        "night is compared with. A night that is worse is never accepted."
    )
    return f'<p class="soft key">{marks}</p><p class="soft">{escaped(text)}</p>'


def _hover(row: Mapping[str, Any], series: Series) -> str:
    unit = series.unit
    if series.key == "quality":
        unit = row["measured"].get("metric_unit", "")
    value = value_text(row["measured"][series.key], unit)
    words = headline(row).split()
    lines = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    return hover([f"<b>{safe(row['night'])}</b>: {safe(value)}", *map(safe, lines)])


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _last(verdicts: Rows) -> str:
    """What the last night came to."""
    night = max((row["night"] for row in verdicts), default="")
    rows = [row for row in verdicts if row["night"] == night]
    if not rows:
        return '<div class="empty">No night has finished a study yet.</div>'
    states = {STATES.get(row["verdict"], "met") for row in rows if not row["accepted"]} or {"met"}
    state = "missed" if "missed" in states else states.pop()
    said = ", ".join(f"{row['study']}: {row['verdict']}" for row in rows)
    sentences = [f"{row['study']}: {headline(row)}" for row in rows]
    return (
        f'<div class="verdict {state}">{escaped(f"Last night, {night}: {said}")}</div>'
        + bullets(sentences)
    )


def _section(id: str, study: str, rows: Rows) -> str:
    figures = "".join(_drawn(f"{id}-{series.key}", rows, series) for series in SERIES)
    return (
        f'<section id="{id}"><h2>{escaped(study)}</h2><div class="grid">{figures}</div>'
        f"{_table(rows)}</section>"
    )


def _drawn(id: str, rows: Rows, series: Series) -> str:
    drawing = trend_figure(rows, series)
    head = f"<h3>{escaped(series.title)}</h3>"
    if drawing is None:
        return f'<figure>{head}<div class="empty">Nothing was measured yet.</div></figure>'
    # "<" is the only character that could end a script element.
    data = drawing.to_json().replace("<", "\\u003c")
    return (
        f"<figure>{head}<figcaption>{escaped(series.caption)}</figcaption>"
        f'<div class="plot"><div id="{id}" data-figure role="img" '
        f'aria-label="{escaped(series.title)}"></div></div>'
        f'<script type="application/json" id="{id}-data">{data}</script></figure>'
    )


def _table(rows: Rows) -> str:
    columns = (
        Column("night", "id"),
        Column("verdict", "id"),
        Column("quality", "n"),
        Column("size", "n"),
        Column("latency", "n"),
        Column("of the original's", "n"),
        Column("what it says", "text"),
    )
    lines = []
    for row in reversed(rows):
        found = row["measured"]
        kind = "no" if row["verdict"] in (WORSE, FAILED) else ""
        kind = "yes" if row["verdict"] == BETTER else kind
        lines.append(
            TableRow(
                (
                    row["night"],
                    Raw(f'<span class="{kind}">{escaped(row["verdict"])}</span>'),
                    quality_text(found.get("quality"), found.get("metric_unit", "")),
                    size_text(found.get("size_bytes")),
                    latency_text(found.get("latency_ms")),
                    share_text(found.get("latency_ratio")),
                    headline(row),
                )
            )
        )
    return table(columns, lines)
