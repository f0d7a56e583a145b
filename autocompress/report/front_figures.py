"""The front as the search predicted it, and the finalists as they were measured."""

from __future__ import annotations

from typing import Any, NamedTuple

import plotly.graph_objects as go

from autocompress.report.data import RunData
from autocompress.report.drawing import (
    ACCENT,
    BEFORE,
    GOOD,
    LATENCY_SCALE,
    WARM,
    blank,
    hover,
    limit_line,
    log_axis,
    original_line,
    safe,
    size_axis,
    size_tick,
)
from autocompress.report.limits import mapping
from autocompress.report.units import (
    latency_text,
    number,
    options_text,
    plain_text,
    shortened,
    size_text,
)

_LAYERS_IN_HOVER = 12


class FrontPoint(NamedTuple):
    """A candidate of the front: proxy loss, bytes, ms, options; `is_slow` is beyond the limit."""

    candidate: str
    loss: float
    size_bytes: float
    latency_ms: float | None
    is_slow: bool
    text: str


def front_points(run: RunData) -> list[FrontPoint]:
    """Every candidate of `front.csv` that has a size and a loss."""
    limit = run.limit("latency").limit
    layers = run.layer_columns
    points = []
    for row in run.front.to_dict("records"):
        loss, size = number(row["loss"]), number(row["size_bytes"])
        if loss is None or size is None:
            continue
        latency = number(row["latency_ms"])
        lines = [
            f"<b>{safe(row['candidate'])}</b>",
            f"loss {plain_text(loss, 3)}, {size_text(size)}, {latency_text(latency)}",
        ]
        if (quality := number(row["quality"])) is not None:
            lines.append(f"quality {run.limit('quality').show(quality)}")
        if len(layers) <= _LAYERS_IN_HOVER:
            lines += [f"{safe(shortened(name, 40))}: {safe(row[name])}" for name in layers]
        else:
            lines.append(safe(options_text([str(row[name]) for name in layers], 8)))
        is_slow = limit is not None and latency is not None and latency > limit
        points.append(
            FrontPoint(str(row["candidate"]), loss, size, latency, is_slow, hover(lines))
        )
    return points


def front_figure(run: RunData) -> go.Figure | None:
    """Predicted loss against predicted size; colour is latency; limits are drawn as lines."""
    points = front_points(run)
    if not points:
        return None
    # A loss of zero (the original) has no place on a logarithmic axis: it is drawn at the foot.
    floor = min((p.loss for p in points if p.loss > 0), default=1e-6) / 2
    figure = blank(height=440)
    latencies = [p.latency_ms for p in points if p.latency_ms is not None]
    for is_slow, name in ((False, "candidate"), (True, "candidate beyond the latency limit")):
        shown = [p for p in points if p.is_slow is is_slow]
        if not shown:
            continue
        marker: dict[str, Any] = {"size": 9, "symbol": "circle-open" if is_slow else "circle"}
        if latencies:
            marker |= {
                "color": [p.latency_ms for p in shown],
                "colorscale": LATENCY_SCALE,
                "cmin": min(latencies),
                "cmax": max(latencies),
                "colorbar": {"title": {"text": "latency, ms"}, "thickness": 12, "outlinewidth": 0},
            }
        figure.add_scatter(
            x=[p.size_bytes for p in shown],
            y=[max(p.loss, floor) for p in shown],
            mode="markers",
            marker=marker,
            name=name,
            hovertext=[p.text for p in shown],
            hoverinfo="text",
        )
    best = next((p for p in points if p.candidate == run.best_id), None)
    if best:
        figure.add_scatter(
            x=[best.size_bytes],
            y=[max(best.loss, floor)],
            mode="markers",
            marker={"size": 19, "symbol": "circle-open", "color": GOOD, "line": {"width": 3}},
            name="best",
            hovertext=[best.text],
            hoverinfo="text",
        )
    knee = next((p for p in points if run.knee and p.candidate == run.knee), None)
    if knee:
        figure.add_scatter(
            x=[knee.size_bytes],
            y=[max(knee.loss, floor)],
            mode="markers",
            marker={"size": 14, "symbol": "star", "color": WARM},
            name=f"knee {safe(knee.candidate)}",
            hovertext=[knee.text],
            hoverinfo="text",
        )
    original = number(run.original.get("size_bytes"))
    if original:
        figure.add_scatter(
            x=[original],
            y=[floor],
            mode="markers",
            marker={"size": 13, "symbol": "diamond", "color": BEFORE},
            name="original (loss 0)",
            hovertext=[f"original: {size_text(original)}"],
            hoverinfo="text",
        )
    limit = run.limit("size")
    sizes = [p.size_bytes for p in points] + [value for value in (original, limit.limit) if value]
    losses = [floor, *(max(p.loss, floor) for p in points)]
    log_axis("x", figure, "predicted size", sizes, size_tick)
    log_axis("y", figure, "predicted loss (KL), lower is better", losses)
    if limit.limit:
        limit_line(figure, "x", limit.limit, f"size limit {size_text(limit.limit)}")
    return figure


def measured_figure(run: RunData) -> go.Figure | None:
    """Finalists, original and limits, all measured: quality against size."""
    quality, size = run.limit("quality"), run.limit("size")
    rows = [(row, mapping(row, "measured")) for row in run.finalists]
    rows = [
        (row, found)
        for row, found in rows
        if number(found.get("quality")) is not None and number(found.get("size_bytes")) is not None
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
            x=[f["size_bytes"] for _, f in shown],
            y=[f["quality"] for _, f in shown],
            mode="markers",
            name=name,
            marker={
                "size": 15 if is_chosen else 10,
                "color": colour,
                "symbol": [symbol if r.get("met") is not False else "x" for r, _ in shown],
            },
            hovertext=[
                hover(
                    [
                        f"<b>{safe(r.get('candidate', ''))}</b>",
                        f"quality {quality.show(number(f['quality']))}",
                        f"{size_text(f['size_bytes'])}, {latency_text(f.get('latency_ms'))}",
                        safe(r.get("reason") or ""),
                    ]
                )
                for r, f in shown
            ],
            hoverinfo="text",
        )
    size_axis("x", figure, "measured size")
    figure.update_yaxes(title_text="measured quality")
    if quality.is_share:
        figure.update_yaxes(tickformat=".1~%")
    if size.limit:
        limit_line(figure, "x", size.limit, f"size limit {size_text(size.limit)}")
    if quality.limit is not None:
        limit_line(figure, "y", quality.limit, f"quality limit {quality.show(quality.limit)}")
    if quality.original is not None:
        original_line(figure, quality.original, f"original {quality.show(quality.original)}")
    return figure
