"""What was chosen for each layer, and where bytes and milliseconds went before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from autocompress.report.data import Row, RunData
from autocompress.report.drawing import (
    ACCENT,
    BEFORE,
    SERIES,
    STRENGTH_SCALE,
    blank,
    hover,
    label,
    log_axis,
    safe,
    size_tick,
)
from autocompress.report.units import (
    NOTHING,
    latency_text,
    number,
    plain_text,
    share_text,
    short_share_text,
    size_text,
)

_ROW_HEIGHT = 26
_TALLEST = 2600


class Choice(NamedTuple):
    """How strongly a layer was treated: three strengths in [0, 1] with their texts."""

    name: str
    strengths: tuple[float, float, float]
    texts: tuple[str, str, str]
    hover: str
    before: float | None
    after: float | None


def choices(layers: Sequence[Row]) -> list[Choice]:
    """One entry per layer, in the model's order."""
    found = []
    for row in layers:
        bits = number(row.get("bits")) or 32.0
        sparsity = number(row.get("sparsity")) or 0.0
        rank, core = number(row.get("rank")) or 1.0, number(row.get("tucker")) or 1.0
        is_int8 = row.get("activations") == "int8"
        before, after = number(row.get("bytes_before")), number(row.get("bytes_after"))
        lines = [
            f"<b>{safe(row.get('name', ''))}</b>",
            safe(f"{row.get('kind', '')} {row.get('option') or ''}"),
            f"{size_text(before)} → {size_text(after)}",
            f"KL alone {plain_text(row.get('loss_alone'), 3)}",
            safe(row.get("reason") or ""),
        ]
        texts = (
            f"{bits:g} bit{', int8' if is_int8 else ''}",
            f"{short_share_text(sparsity)} zero" if sparsity else "full",
            f"{short_share_text(min(rank, core))} {'core' if core < 1 else 'rank'}"
            if min(rank, core) < 1
            else "full",
        )
        strengths = (1 - bits / 32, sparsity, 1 - min(rank, core))
        found.append(
            Choice(str(row.get("name", "")), strengths, texts, hover(lines), before, after)
        )
    return found


def choice_figure(run: RunData) -> go.Figure | None:
    """Bits, sparsity and rank of every layer; strong colour is strong compression."""
    rows = choices(run.layers)
    if not rows:
        return None
    figure = _rows_figure([row.name for row in rows])
    figure.add_heatmap(
        z=[row.strengths for row in rows],
        x=["weights", "sparsity", "rank"],
        y=list(range(len(rows))),
        text=[row.texts for row in rows],
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=[[row.hover] * 3 for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=STRENGTH_SCALE,
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=3,
        ygap=2,
    )
    figure.update_xaxes(side="top", showline=False, ticks="", showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure


def bytes_figure(run: RunData) -> go.Figure | None:
    """Bytes of every layer before and after, on a logarithmic scale."""
    rows = [row for row in choices(run.layers) if row.before or row.after]
    if not rows:
        return None
    figure = _rows_figure([row.name for row in rows])
    index = list(range(len(rows)))
    figure.add_scatter(
        x=[value for row in rows for value in (row.before, row.after, None)],
        y=[value for i in index for value in (i, i, None)],
        mode="lines",
        line={"color": BEFORE, "width": 2},
        showlegend=False,
        hoverinfo="skip",
    )
    for name, colour, values in (
        ("original", BEFORE, [row.before for row in rows]),
        ("compressed", ACCENT, [row.after for row in rows]),
    ):
        figure.add_scatter(
            x=values,
            y=index,
            mode="markers",
            marker={"color": colour, "size": 11},
            name=name,
            hovertext=[row.hover for row in rows],
            hoverinfo="text",
        )
    known = [value for row in rows for value in (row.before, row.after) if value]
    log_axis("x", figure, "", known, size_tick)
    return figure


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


def _rows_figure(names: Sequence[str]) -> go.Figure:
    """One line per layer, top down; numbers as positions keep equal short labels apart."""
    figure = blank(height=min(_TALLEST, 96 + _ROW_HEIGHT * len(names)))
    figure.update_layout(margin={"t": 40, "b": 40})
    figure.update_yaxes(
        tickmode="array",
        ticks="",
        tickvals=list(range(len(names))),
        ticktext=[label(name) for name in names],
        range=[len(names) - 0.5, -0.5],
    )
    return figure
