"""The common look of all figures: one palette on a transparent ground, for light and dark.

Text, grid and axis colours are set by the page's style sheet, so that they follow the reader's
theme and print; only the marks have colours of their own, all of middle lightness.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from autocompress.report.units import printable, shortened

ACCENT = "#2f7dd1"
BEFORE = "#93a1b0"
GOOD = "#2e9e6b"
BAD = "#d1495b"
WARM = "#d98a1f"
BAND = "rgba(47,125,209,0.10)"
FAINT = "rgba(140,150,162,0.55)"
# Blue to amber: differs in hue for colour-blind readers too, and stays clear of both grounds.
LATENCY_SCALE = [[0.0, "#2f7dd1"], [0.5, "#8f8fa6"], [1.0, "#d98a1f"]]
# Transparent to blue: the ink of the page stays readable on every cell.
STRENGTH_SCALE = [[0.0, "rgba(47,125,209,0.03)"], [1.0, "rgba(47,125,209,0.55)"]]
SERIES = (
    "#2f7dd1",
    "#d98a1f",
    "#2e9e6b",
    "#9b6cc3",
    "#d1495b",
    "#2aa3b5",
    "#a37b4f",
    "#c86fa8",
    "#93a1b0",
)
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_LABEL_WIDTH = 30


def blank(height: int = 380, **layout: Any) -> go.Figure:
    """An empty figure in the house look."""
    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        margin={"l": 64, "r": 24, "t": 28, "b": 52},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 12},
        hoverlabel={
            "bgcolor": "#1f2933",
            "bordercolor": "#1f2933",
            "font": {"color": "#f5f7fa", "family": _FONT, "size": 12},
            "align": "left",
        },
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        **layout,
    )
    figure.update_xaxes(zeroline=False, showline=True, ticks="outside", automargin=True)
    figure.update_yaxes(zeroline=False, showgrid=True, automargin=True)
    return figure


def safe(text: Any) -> str:
    """`text` as plotly must get it: its labels and hovers read a subset of HTML."""
    return html.escape(printable(text), quote=False)


def label(name: Any, width: int = _LABEL_WIDTH) -> str:
    """A layer's name short enough for an axis."""
    return safe(shortened(name, width))


def hover(lines: Sequence[str]) -> str:
    """Lines of a hover box; the caller escapes what the user named."""
    return "<br>".join(line for line in lines if line)


def size_axis(axis: str, figure: go.Figure, title: str, is_log: bool = False) -> None:
    """Turns `x` or `y` into an axis of bytes with decimal prefixes."""
    kind = "log" if is_log else "linear"
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(title_text=title, type=kind, tickformat="~s", ticksuffix="B")
    if is_log:
        update(dtick="D2")


def limit_line(figure: go.Figure, axis: str, value: float, text: str) -> None:
    """A dashed line at a limit, with its text."""
    line = {"color": BAD, "width": 1.5, "dash": "dash"}
    if axis == "x":
        figure.add_vline(
            x=value,
            line=line,
            annotation={"text": safe(text), "textangle": -90, "yanchor": "top", "y": 1},
            annotation_position="top left",
        )
    else:
        figure.add_hline(y=value, line=line, annotation_text=safe(text))
