"""How much each layer minds being compressed: the loss of every option with all others intact."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from autocompress.report.data import RunData
from autocompress.report.drawing import (
    FAINT,
    GOOD,
    LATENCY_SCALE,
    hover,
    limit_line,
    log_axis,
    rows_figure,
    safe,
)
from autocompress.report.limits import mapping
from autocompress.report.thin import thinned
from autocompress.report.units import number, plain_text, short_share_text, size_text
from autocompress.report.words import option_words

_LEAST_OPTIONS = 3  # of a layer, also where there are many layers
_MOST_POINTS = 800
LEAST = 1e-9  # losses below this are equal


class Single(NamedTuple):
    """One option of one layer alone: its row in the figure, loss, and share of bytes left."""

    row: int
    option: str
    loss: float
    left: float | None
    text: str


def singles(run: RunData) -> list[Single]:
    """The priced options of every layer but the original's, thinned where there are very many."""
    found = []
    most = max(_LEAST_OPTIONS, _MOST_POINTS // max(1, len(run.layers)))
    for index, layer in enumerate(run.layers):
        name = str(layer.get("name", ""))
        before = number(layer.get("bytes_before"))
        options = [alone for alone in run.prices.get(name, ()) if alone.option != "dense"]
        options.sort(key=lambda alone: alone.loss)
        for alone in thinned(options, most, lambda _: False):
            left = alone.size_bytes / before if alone.size_bytes is not None and before else None
            text = hover(
                [
                    f"<b>{safe(alone.option)}</b>",
                    f"loss alone {plain_text(alone.loss, 3)}",
                    f"{size_text(before)} → {size_text(alone.size_bytes)}",
                ]
            )
            found.append(Single(index, alone.option, max(alone.loss, LEAST), left, text))
    return found


def sensitivity_figure(run: RunData) -> go.Figure | None:
    """Loss of each option alone, a row per layer; the chosen ones as stars."""
    points = singles(run)
    chosen = [
        (index, max(loss, LEAST), layer)
        for index, layer in enumerate(run.layers)
        if (loss := number(layer.get("loss_alone"))) is not None
        and str(layer.get("option") or "dense") != "dense"
    ]
    if not points and not chosen:
        return None
    figure = rows_figure([str(layer.get("name", "")) for layer in run.layers], foot=52)
    if points:
        figure.add_scatter(
            x=[point.loss for point in points],
            y=[point.row for point in points],
            mode="markers",
            name="an option",
            marker={
                "size": 8,
                "color": [1.0 if p.left is None else round(min(1.0, p.left), 3) for p in points],
                "colorscale": LATENCY_SCALE,
                "cmin": 0,
                "cmax": 0.3,
                "opacity": 0.75,
                "colorbar": {
                    "title": {"text": "bytes left<br> "},
                    "thickness": 12,
                    "outlinewidth": 0,
                    "len": 1,
                    "tickvals": [0, 0.1, 0.2, 0.3],
                    "ticktext": ["0 %", "10 %", "20 %", "30 %"],
                },
            },
            hovertext=[point.text for point in points],
            hoverinfo="text",
        )
    figure.add_scatter(
        x=[loss for _, loss, _ in chosen],
        y=[index for index, _, _ in chosen],
        mode="markers",
        name="chosen",
        marker={"size": 13, "symbol": "star", "color": GOOD, "line": {"width": 1, "color": FAINT}},
        hovertext=[
            hover(
                [
                    f"<b>{safe(layer.get('name', ''))}</b>, chosen: {safe(layer['option'])}",
                    safe(option_words(str(layer["option"]))),
                    f"loss alone {plain_text(layer.get('loss_alone'), 3)}",
                    f"bytes left {short_share_text(_left(layer))}",
                ]
            )
            for _, _, layer in chosen
        ],
        hoverinfo="text",
    )
    losses = [p.loss for p in points] + [loss for _, loss, _ in chosen]
    whole = number(mapping(run.best, "predicted").get("loss"))
    known = [*losses, *([whole] if whole and whole > 0 else [])]
    log_axis("x", figure, "loss when only this layer is treated", known)
    if whole and whole > 0:
        limit_line(figure, "x", whole, "")
    return figure


def _left(layer: object) -> float | None:
    row = mapping({"row": layer}, "row")
    before, after = number(row.get("bytes_before")), number(row.get("bytes_after"))
    return after / before if before and after is not None else None
