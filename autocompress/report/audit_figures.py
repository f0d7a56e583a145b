"""How far the predictions can be trusted: cost model, size, and the quality proxy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from autocompress.report.data import RunData
from autocompress.report.drawing import (
    ACCENT,
    BAND,
    BEFORE,
    GOOD,
    WARM,
    blank,
    hover,
    log_axis,
    safe,
    size_axis,
)
from autocompress.report.finalist_figures import quality_lines
from autocompress.report.limits import mapping
from autocompress.report.units import latency_text, number, plain_text, size_text

LATENCY_BAND = 0.10
SIZE_BAND = 0.01


class Pair(NamedTuple):
    """A prediction beside its measurement, with the measured range where it is known."""

    group: str
    predicted: float
    measured: float
    low: float
    high: float
    name: str


def latency_pairs(run: RunData) -> list[Pair]:
    """The cost model's own points, then the finalists; milliseconds."""
    pairs = []
    for row in run.latency.get("points", ()):
        group = "held out" if row.get("held_out") else "used for the fit"
        pairs += _pair(group, row.get("predicted_ms"), row.get("measured_ms"), {}, "")
    for row in run.finalists:
        measured = mapping(row, "measured")
        predicted = mapping(row, "predicted").get("latency_ms")
        name = str(row.get("candidate", ""))
        pairs += _pair("finalist", predicted, measured.get("latency_ms"), measured, name)
    return pairs


def size_pairs(run: RunData) -> list[Pair]:
    """Finalists: bytes predicted and bytes of the file."""
    pairs = []
    for row in run.finalists:
        predicted = mapping(row, "predicted").get("size_bytes")
        measured = mapping(row, "measured").get("size_bytes")
        pairs += _pair("finalist", predicted, measured, {}, str(row.get("candidate", "")))
    return pairs


def latency_figure(run: RunData) -> go.Figure | None:
    """Predicted against measured latency; the band is 10 % to either side."""
    pairs = latency_pairs(run)
    if not pairs:
        return None
    figure = _identity(pairs, LATENCY_BAND, latency_text)
    figure.update_xaxes(title_text="predicted latency, ms")
    figure.update_yaxes(title_text="measured latency, ms")
    return figure


def size_figure(run: RunData) -> go.Figure | None:
    """Predicted against measured size; the band is 1 % to either side."""
    pairs = size_pairs(run)
    if not pairs:
        return None
    figure = _identity(pairs, SIZE_BAND, size_text)
    size_axis("x", figure, "predicted size")
    size_axis("y", figure, "measured size")
    return figure


def proxy_figure(run: RunData) -> go.Figure | None:
    """The proxy's loss against the user's metric: a good proxy falls (or rises) steadily."""
    rows = [
        row
        for row in run.proxy
        if (number(row.get("loss")) or 0) > 0 and number(row.get("quality")) is not None
    ]
    if not rows:
        return None
    quality = run.limit("quality")
    figure = blank(height=360)
    figure.add_scatter(
        x=[row["loss"] for row in rows],
        y=[row["quality"] for row in rows],
        mode="markers",
        marker={"color": ACCENT, "size": 9},
        showlegend=False,
        hovertext=[
            hover(
                [
                    f"<b>{safe(row.get('candidate', ''))}</b>",
                    f"loss {plain_text(row['loss'], 3)}",
                    f"quality {quality.show(number(row['quality']))}",
                ]
            )
            for row in rows
        ],
        hoverinfo="text",
    )
    log_axis("x", figure, "loss, lower is better", [row["loss"] for row in rows])
    figure.update_yaxes(title_text="quality, selection split")
    quality_lines(run, figure)
    return figure


def model_figure(run: RunData) -> go.Figure | None:
    """Rank correlation with the clock: the cost model beside counting multiply-adds."""
    rows = [
        ("cost model", number(run.latency.get("spearman")), ACCENT),
        ("multiply-adds only", number(run.latency.get("flops_spearman")), BEFORE),
    ]
    shown = [(name, value, colour) for name, value, colour in rows if value is not None]
    if not shown:
        return None
    figure = blank(height=360)
    figure.add_bar(
        x=[f"{name}<br>{value:.2f}" for name, value, _ in shown],
        y=[value for _, value, _ in shown],
        marker={"color": [colour for _, _, colour in shown]},
        width=0.5,
        hoverinfo="skip",
        showlegend=False,
    )
    low = min(0.0, *(value for _, value, _ in shown))
    figure.update_yaxes(title_text="Spearman with measured latency", range=[low, 1])
    return figure


def _pair(group: str, predicted: Any, measured: Any, around: Any, name: str) -> list[Pair]:
    x, y = number(predicted), number(measured)
    if x is None or y is None:
        return []
    low, high = number(around.get("latency_low_ms")), number(around.get("latency_high_ms"))
    return [Pair(group, x, y, y if low is None else low, y if high is None else high, name)]


def _identity(pairs: Sequence[Pair], band: float, show: Any) -> go.Figure:
    """Measured against predicted, with the line of equality and a relative band."""
    values = [value for pair in pairs for value in (pair.predicted, pair.low, pair.high)]
    low, high = min(values) * 0.97, max(values) * 1.03
    figure = blank(height=380)
    figure.add_scatter(
        x=[low, high, high, low],
        y=[low * (1 + band), high * (1 + band), high * (1 - band), low * (1 - band)],
        fill="toself",
        fillcolor=BAND,
        line={"width": 0},
        mode="lines",
        name=f"within {100 * band:g} %",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line={"color": BEFORE, "width": 1.5, "dash": "dot"},
        showlegend=False,
        hoverinfo="skip",
    )
    colours = {"held out": ACCENT, "used for the fit": BEFORE, "finalist": GOOD}
    symbols = {"held out": "circle", "used for the fit": "circle-open", "finalist": "diamond"}
    for group in dict.fromkeys(pair.group for pair in pairs):
        shown = [pair for pair in pairs if pair.group == group]
        figure.add_scatter(
            x=[pair.predicted for pair in shown],
            y=[pair.measured for pair in shown],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, pair.high - pair.measured) for pair in shown],
                "arrayminus": [max(0.0, pair.measured - pair.low) for pair in shown],
                "thickness": 1.2,
                "width": 3,
                "visible": any(pair.high > pair.low for pair in shown),
            },
            mode="markers",
            marker={"color": colours.get(group, WARM), "symbol": symbols.get(group), "size": 9},
            name=group,
            hovertext=[
                hover(
                    [
                        f"<b>{safe(pair.name)}</b>" if pair.name else "",
                        f"predicted {show(pair.predicted)}, measured {show(pair.measured)}",
                    ]
                )
                for pair in shown
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(range=[low, high])
    return figure
