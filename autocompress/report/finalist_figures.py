"""The finalists as they were measured: quality against size and against latency."""

from __future__ import annotations

import plotly.graph_objects as go

from autocompress.report.data import Row, RunData
from autocompress.report.drawing import (
    ACCENT,
    GOOD,
    blank,
    hover,
    latency_axis,
    limit_line,
    original_line,
    safe,
    size_axis,
)
from autocompress.report.limits import mapping
from autocompress.report.units import latency_text, number, size_text


def measured_figure(run: RunData) -> go.Figure | None:
    """Finalists, original and limits, all measured: quality against size."""
    figure = _measured(run, "size_bytes")
    if figure is not None:
        size_axis("x", figure, "measured size")
        _limits(run, figure, "size")
    return figure


def measured_speed_figure(run: RunData) -> go.Figure | None:
    """The same against latency."""
    figure = _measured(run, "latency_ms")
    if figure is not None:
        latency_axis("x", figure, "measured latency")
        _limits(run, figure, "latency")
    return figure


def _measured(run: RunData, key: str) -> go.Figure | None:
    rows = [(row, mapping(row, "measured")) for row in run.finalists]
    rows = [
        (row, found)
        for row, found in rows
        if number(found.get("quality")) is not None and number(found.get(key)) is not None
    ]
    if not rows:
        return None
    figure = blank(height=360)
    for is_chosen, name, colour, symbol in (
        (False, "finalist", ACCENT, "circle"),
        (True, "chosen", GOOD, "star"),
    ):
        shown = [(r, f) for r, f in rows if bool(r.get("chosen")) is is_chosen]
        if not shown:
            continue
        figure.add_scatter(
            x=[f[key] for _, f in shown],
            y=[f["quality"] for _, f in shown],
            mode="markers",
            name=name,
            marker={
                "size": 15 if is_chosen else 10,
                "color": colour,
                "symbol": [symbol if r.get("met") is not False else "x" for r, _ in shown],
            },
            hovertext=[_text(run, r, f) for r, f in shown],
            hoverinfo="text",
        )
    return figure


def _text(run: RunData, row: Row, found: Row) -> str:
    return hover(
        [
            f"<b>{safe(row.get('candidate', ''))}</b>",
            f"quality {run.limit('quality').show(number(found['quality']))}",
            f"{size_text(found.get('size_bytes'))}, {latency_text(found.get('latency_ms'))}",
            safe(row.get("reason") or ""),
        ]
    )


def _limits(run: RunData, figure: go.Figure, cost: str) -> None:
    limit = run.limit(cost)
    figure.update_yaxes(title_text="quality, selection split")
    if limit.limit:
        limit_line(figure, "x", limit.limit, f"limit {limit.show(limit.limit)}")
    quality_lines(run, figure)


def quality_lines(run: RunData, figure: go.Figure) -> None:
    """Limit and original on a vertical axis of qualities of the selection split; the better ones
    are above, whichever these are."""
    quality, shift = run.limit("quality"), run.selection_shift
    if quality.direction == "at most":
        figure.update_yaxes(autorange="reversed")
    if quality.is_share:
        figure.update_yaxes(tickformat=".1~%")
    if quality.limit is not None:
        value = quality.limit + shift
        limit_line(figure, "y", value, f"limit {quality.show(value)}")
    if quality.original is not None:
        value = quality.original + shift
        original_line(figure, value, f"original {quality.show(value)}")
