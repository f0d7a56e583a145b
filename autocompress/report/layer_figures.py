"""Where bytes and milliseconds went, layer by layer, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from autocompress.report.data import Row, RunData
from autocompress.report.drawing import (
    ACCENT,
    BEFORE,
    SERIES,
    blank,
    hover,
    label,
    latency_tick,
    log_axis,
    rows_figure,
    safe,
    size_tick,
)
from autocompress.report.heat_figures import layer_hover
from autocompress.report.units import (
    LEAST_MS,
    NOTHING,
    latency_text,
    number,
    share_text,
    size_text,
)


def bytes_figure(run: RunData) -> go.Figure | None:
    """Bytes of every layer before and after, on a logarithmic scale."""
    return _before_after(run, "bytes_before", "bytes_after", size_tick)


def times_figure(run: RunData) -> go.Figure | None:
    """Predicted milliseconds of every layer before and after, on a logarithmic scale."""
    return _before_after(run, "latency_before_ms", "latency_after_ms", latency_tick)


def _before_after(
    run: RunData, first: str, last: str, show: Callable[[float], str]
) -> go.Figure | None:
    found = [
        (str(row.get("name", "")), _positive(row.get(first)), _positive(row.get(last)), row)
        for row in run.layers
    ]
    found = [line for line in found if line[1] or line[2]]
    if not found:
        return None
    figure = rows_figure([name for name, _, _, _ in found])
    index = list(range(len(found)))
    figure.add_scatter(
        x=[value for _, before, after, _ in found for value in (before, after, None)],
        y=[value for i in index for value in (i, i, None)],
        mode="lines",
        line={"color": BEFORE, "width": 2},
        showlegend=False,
        hoverinfo="skip",
    )
    for name, colour, values in (
        ("original", BEFORE, [before for _, before, _, _ in found]),
        ("compressed", ACCENT, [after for _, _, after, _ in found]),
    ):
        figure.add_scatter(
            x=values,
            y=index,
            mode="markers",
            marker={"color": colour, "size": 11},
            name=name,
            hovertext=[layer_hover(row) for _, _, _, row in found]
            if name == "compressed"
            else None,
            hoverinfo="text" if name == "compressed" else "skip",
        )
    known = [value for _, before, after, _ in found for value in (before, after) if value]
    log_axis("x", figure, "", known, show)
    return figure


def _positive(value: Any) -> float | None:
    """A figure that has a place on a logarithmic axis."""
    found = number(value)
    return found if found and found > LEAST_MS else None


def shares_figure(run: RunData) -> go.Figure | None:
    """Share of each layer in bytes and milliseconds, before and after."""
    bars: list[tuple[str, str, Any]] = [
        ("size, original", "bytes_before", size_text),
        ("size, compressed", "bytes_after", size_text),
        ("latency, original", "latency_before_ms", latency_text),
        ("latency, compressed", "latency_after_ms", latency_text),
    ]
    totals = {key: sum(number(row.get(key)) or 0.0 for row in run.layers) for _, key, _ in bars}
    bars = [bar for bar in bars if totals[bar[1]] > 0]
    if not bars:
        return None
    figure = blank(height=110 + 46 * len(bars), barmode="stack")
    for colour, (name, rows) in zip(SERIES, _grouped(run.layers, bars, totals), strict=False):
        values = [sum(number(row.get(key)) or 0.0 for row in rows) for _, key, _ in bars]
        shares = [value / totals[key] for value, (_, key, _) in zip(values, bars, strict=True)]
        figure.add_bar(
            x=shares,
            y=[f"{title}  {show(totals[key])}" for title, key, show in bars],
            orientation="h",
            name=label(name, 24),
            marker={"color": colour, "line": {"width": 0}},
            text=[share_text(share, 0) if share >= 0.06 else "" for share in shares],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            textfont={"color": "#ffffff"},
            hovertext=[
                hover([f"<b>{safe(name)}</b>", f"{show(value)}, {share_text(share)} of {title}"])
                for value, share, (title, _, show) in zip(values, shares, bars, strict=True)
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(tickformat=".0%", range=[0, 1], showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(bargap=0.25, legend_traceorder="normal")
    return figure


def _grouped(
    layers: Sequence[Row], bars: Sequence[tuple[str, str, Any]], totals: dict[str, float]
) -> list[tuple[str, list[Row]]]:
    """The layers that weigh most in any bar, each for itself, and all others together."""
    own = len(SERIES) - 1

    def weight(row: Row) -> float:
        return max((number(row.get(key)) or 0.0) / totals[key] for _, key, _ in bars)

    order = sorted(range(len(layers)), key=lambda index: -weight(layers[index]))
    kept = sorted(order[:own])
    groups = [(str(layers[index].get("name", NOTHING)), [layers[index]]) for index in kept]
    others = [layers[index] for index in sorted(order[own:])]
    return [*groups, (f"{len(others)} others", others)] if others else groups
