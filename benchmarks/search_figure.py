"""The search benchmark as a figure: losses and hypervolume against passes and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from contest import Contest
from plotly.subplots import make_subplots
from score import LEAST_KL, Curve, Scored

from autocompress.report.drawing import SERIES

POINTS = 160  # of a drawn curve


def write_figure(path: Path, studies: Sequence[tuple[Contest, Sequence[Scored]]]) -> None:
    """Writes one self-contained page with a figure for each study."""
    parts = [
        draw(contest, scored).to_html(full_html=False, include_plotlyjs=number == 0)
        for number, (contest, scored) in enumerate(studies)
    ]
    page = ['<!doctype html><meta charset="utf-8"><title>Search benchmark</title>', *parts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(page), encoding="utf-8")


def draw(contest: Contest, scored: Sequence[Scored]) -> go.Figure:
    """A row for each budget and one for the hypervolume; passes on the left, seconds on the
    right."""
    budgets = list(contest.budgets)
    titles = [*(f"KL within {budget}, nats" for budget in budgets), "hypervolume"]
    figure = make_subplots(
        rows=len(titles),
        cols=2,
        vertical_spacing=0.035,
        horizontal_spacing=0.08,
        subplot_titles=[
            f"{title} against {axis}"
            for title in titles
            for axis in ("search passes", "seconds (search alone)")
        ],
    )
    names = list(dict.fromkeys(item.name for item in scored))
    for place, name in enumerate(names):
        runs = [item for item in scored if item.name == name]
        colour = SERIES[place % len(SERIES)]
        for row in range(1, len(titles) + 1):
            curves = [
                item.volume if row > len(budgets) else item.losses[budgets[row - 1]]
                for item in runs
            ]
            for column, against in ((1, "passes"), (2, "seconds")):
                ends = [
                    item.outcome.spent if against == "passes" else item.outcome.total_s
                    for item in runs
                ]
                for line in _lines(name, colour, curves, ends, against, row == column == 1):
                    figure.add_trace(line, row=row, col=column)
    figure.update_xaxes(type="log")
    for row in range(1, len(budgets) + 1):
        figure.update_yaxes(type="log", row=row)
    figure.update_layout(
        title=f"{contest.study}: median over the seeds, and their range",
        height=300 * len(titles),
        width=1200,
        template="plotly_white",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    return figure


def _lines(
    name: str,
    colour: str,
    curves: Sequence[Curve],
    ends: Sequence[float],
    against: str,
    listed: bool,
) -> list[go.Scatter]:
    """Median and range of some curves; drawn from where every seed has found something."""
    places = [getattr(curve, against) for curve in curves]
    if not all(len(place) for place in places):
        return []
    first = max(max(float(place[0]) for place in places), 1e-3)
    grid = np.unique(np.geomspace(first, max(float(np.median(ends)), first), POINTS))
    table = np.array(
        [
            curve.values[np.searchsorted(place, grid * (1 + 1e-12), side="right") - 1]
            for curve, place in zip(curves, places, strict=True)
        ]
    )
    table = np.maximum(table, LEAST_KL) if math.isinf(curves[0].start) else table
    shared = {"x": grid, "legendgroup": name, "line_shape": "hv", "hoverinfo": "skip"}
    band = {"mode": "lines", "line_width": 0, "showlegend": False}
    lines = [
        go.Scatter(y=table.min(axis=0), **shared, **band),
        go.Scatter(y=table.max(axis=0), **shared, **band, fill="tonexty", opacity=0.3),
    ]
    lines[1].fillcolor = _faint(colour)
    middle = go.Scatter(
        x=grid,
        y=np.median(table, axis=0),
        name=name,
        legendgroup=name,
        showlegend=listed,
        mode="lines+markers" if len(grid) == 1 else "lines",
        line={"color": colour, "shape": "hv", "width": 2},
    )
    return [*lines, middle]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
