"""The front as the search predicted it, against size and against latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from autocompress.report.choose_tables import commands_of
from autocompress.report.data import Row, RunData
from autocompress.report.drawing import (
    ACCENT,
    BEFORE,
    GOOD,
    LATENCY_SCALE,
    WARM,
    blank,
    hover,
    latency_tick,
    limit_line,
    log_axis,
    safe,
    size_tick,
)
from autocompress.report.limits import mapping
from autocompress.report.thin import thinned
from autocompress.report.units import (
    latency_text,
    number,
    options_text,
    plain_text,
    shortened,
    size_text,
)
from autocompress.report.words import option_words

_LAYERS_IN_HOVER = 12
_MOST_POINTS = 250


class FrontPoint(NamedTuple):
    """A candidate as predicted: proxy loss, bytes, ms; `is_beyond` is over a limit on a cost."""

    candidate: str
    loss: float
    size_bytes: float
    latency_ms: float | None
    is_beyond: bool
    text: str


def front_points(run: RunData) -> list[FrontPoint]:
    """Every candidate of `front.csv`, then the other finalists, that has a size and a loss."""
    rows: list[Any] = run.front.to_dict("records")
    layers = run.layer_columns
    found = [_point(run, row, [str(row[name]) for name in layers]) for row in rows]
    known = {str(row["candidate"]) for row in rows}
    for finalist in run.finalists:
        if (candidate := str(finalist.get("candidate", ""))) not in known:
            quality = mapping(finalist, "measured").get("quality")
            row = {**mapping(finalist, "predicted"), "candidate": candidate, "quality": quality}
            found.append(_point(run, row, []))
    kept = (run.best_id, run.knee)
    shown = [point for point in found if point is not None]
    return thinned(shown, _MOST_POINTS, lambda point: point.candidate in kept)


def front_figure(run: RunData) -> go.Figure | None:
    """Predicted loss against predicted size; colour is latency; limits are drawn as lines."""
    return _front(run, front_points(run), _SIZE, _LATENCY)


def speed_figure(run: RunData) -> go.Figure | None:
    """The same against latency, coloured by size; None where all candidates take as long."""
    points = [p for p in front_points(run) if (p.latency_ms or 0) > 0]
    values = [p.latency_ms or 0.0 for p in points]
    if not values or max(values) < 1.01 * min(values):
        return None
    return _front(run, points, _LATENCY, _SIZE)


class _Axis(NamedTuple):
    """One cost as an axis and as a colour."""

    name: str
    value: Callable[[FrontPoint], float | None]
    show: Callable[[float], str]
    key: str


_SIZE = _Axis("size", lambda point: point.size_bytes, size_text, "size_bytes")
_LATENCY = _Axis("latency", lambda point: point.latency_ms, latency_text, "latency_ms")


def _point(run: RunData, row: Row, options: Sequence[str]) -> FrontPoint | None:
    loss, size = number(row.get("loss")), number(row.get("size_bytes"))
    if loss is None or size is None:
        return None
    latency = number(row.get("latency_ms"))
    lines = [
        f"<b>{safe(row['candidate'])}</b>",
        f"loss {plain_text(loss, 3)}, {size_text(size)}, {latency_text(latency)}",
    ]
    if (quality := number(row.get("quality"))) is not None:
        lines.append(f"quality {run.limit('quality').show(quality)}")
    if 0 < len(options) <= _LAYERS_IN_HOVER:
        named = zip(run.layer_columns, options, strict=True)
        lines += [
            f"{safe(shortened(name, 40))}: {safe(option_words(option))}" for name, option in named
        ]
    elif options:
        lines.append(safe(options_text(list(options), 8)))
    limits = ((latency, run.limit("latency").limit), (size, run.limit("size").limit))
    is_beyond = any(value is not None and limit and value > limit for value, limit in limits)
    return FrontPoint(str(row["candidate"]), loss, size, latency, is_beyond, hover(lines))


def _front(
    run: RunData, points: Sequence[FrontPoint], axis: _Axis, tint: _Axis
) -> go.Figure | None:
    if not points:
        return None
    # A loss of zero (the original) has no place on a logarithmic axis: it is drawn at the foot.
    floor = min((p.loss for p in points if p.loss > 0), default=1e-6) / 2
    figure = blank(height=440)

    def add(shown: Sequence[FrontPoint], name: str, marker: dict[str, Any]) -> None:
        if not shown:
            return
        figure.add_scatter(
            x=[axis.value(p) for p in shown],
            y=[max(p.loss, floor) for p in shown],
            mode="markers",
            marker=marker,
            name=name,
            hovertext=[p.text for p in shown],
            hoverinfo="text",
            # A click shows these beside the figure.
            customdata=[[p.candidate, *commands_of(run, p.candidate)] for p in shown],
        )

    tints = [value for p in points if (value := tint.value(p)) is not None]
    is_tinted = bool(tints) and max(tints) > 1.01 * min(tints)
    for is_beyond, name in ((False, "candidate"), (True, "candidate beyond a limit")):
        shown = [p for p in points if p.is_beyond is is_beyond]
        marker: dict[str, Any] = {"size": 9, "symbol": "circle-open" if is_beyond else "circle"}
        marker |= _tinted(shown, tint, tints) if is_tinted else {"color": ACCENT}
        add(shown, name, marker)
    best = [p for p in points if p.candidate == run.best_id]
    ring = {"size": 19, "symbol": "circle-open", "color": GOOD, "line": {"width": 3}}
    add(best, "chosen", ring)
    knee = [p for p in points if run.knee and p.candidate == run.knee]
    add(knee, f"knee {safe(run.knee)}", {"size": 14, "symbol": "star", "color": WARM})
    original = number(run.original.get(axis.key))
    if original:
        figure.add_scatter(
            x=[original],
            y=[floor],
            mode="markers",
            marker={"size": 13, "symbol": "diamond", "color": BEFORE},
            name="original (loss 0)",
            hovertext=[f"original: {axis.show(original)}"],
            hoverinfo="text",
        )
    limit = run.limit(axis.name).limit
    values = [value for p in points if (value := axis.value(p))]
    values += [value for value in (original, limit) if value]
    show = size_tick if axis is _SIZE else latency_tick
    log_axis("x", figure, f"predicted {axis.name}", values, show)
    losses = [floor, *(max(p.loss, floor) for p in points)]
    log_axis("y", figure, "predicted loss, lower is better", losses)
    if limit:
        limit_line(figure, "x", limit, f"limit {axis.show(limit)}")
    return figure


def _tinted(points: Sequence[FrontPoint], tint: _Axis, tints: Sequence[float]) -> dict[str, Any]:
    ends = [min(tints), max(tints)]
    return {
        "color": [tint.value(p) for p in points],
        "colorscale": LATENCY_SCALE,
        "cmin": ends[0],
        "cmax": ends[1],
        "colorbar": {
            "title": {"text": f"{tint.name}<br> "},
            "thickness": 12,
            "outlinewidth": 0,
            "tickvals": ends,
            "ticktext": [tint.show(value) for value in ends],
        },
    }
