"""The common look of all figures: one palette on a transparent ground, for light and dark.

Text, grid and axis colours are set by the page's style sheet, so that they follow the reader's
theme and print; only the marks have colours of their own, all of middle lightness.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
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
        margin={"l": 64, "r": 24, "t": 34, "b": 52},
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
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": BEFORE, "activecolor": ACCENT},
        **layout,
    )
    figure.update_xaxes(zeroline=False, showline=True, ticks="outside", automargin=True)
    figure.update_yaxes(zeroline=False, showgrid=True, automargin=True, title_standoff=14)
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


def size_axis(axis: str, figure: go.Figure, title: str) -> None:
    """Turns `x` or `y` into an axis of bytes with decimal prefixes."""
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(title_text=title, tickformat="~s", ticksuffix="B")


def size_tick(value: float) -> str:
    """Text of a tick at a round number of bytes, such as `50 kB`."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} B"


def log_axis(
    axis: str,
    figure: go.Figure,
    title: str,
    values: Sequence[float],
    show: Callable[[float], str] = "{:g}".format,
) -> None:
    """Turns `x` or `y` into a logarithmic axis over `values` with readable ticks.

    Args:
        axis: `x` or `y`.
        figure: Changed in place.
        title: Title of the axis.
        values: Positive numbers that must be in view.
        show: Text of a tick.
    """
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.06 * (high - low), 0.05)
    decades = range(math.floor(low - room), math.ceil(high + room) + 1)
    steps = (1,) if high - low > 3 else (1, 2, 5) if high - low > 0.5 else range(1, 10)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(
        title_text=title,
        type="log",
        range=[low - room, high + room],
        tickmode="array",
        tickvals=ticks,
        ticktext=[show(tick) for tick in ticks],
    )


def limit_line(figure: go.Figure, axis: str, value: float, text: str) -> None:
    """A dashed line at a limit, with its text; call it after `log_axis`."""
    _line(figure, axis, value, text, {"color": BAD, "width": 1.5, "dash": "dash"})


def original_line(figure: go.Figure, value: float, text: str) -> None:
    """A dotted horizontal line at the original's value."""
    _line(figure, "y", value, text, {"color": BEFORE, "width": 1.5, "dash": "dot"})


def _line(figure: go.Figure, axis: str, value: float, text: str, line: dict[str, Any]) -> None:
    common = {"text": safe(text), "showarrow": False, "font": {"size": 11}}
    if axis == "x":
        # Shapes take the value, annotations its logarithm.
        is_log = figure.layout.xaxis.type == "log"
        figure.add_shape(type="line", x0=value, x1=value, y0=0, y1=1, yref="paper", line=line)
        place = {"x": math.log10(value) if is_log else value, "y": 0, "yref": "paper"}
        figure.add_annotation(**common, **place, textangle=-90, xanchor="right", yanchor="bottom")
    else:
        figure.add_shape(type="line", y0=value, y1=value, x0=0, x1=1, xref="paper", line=line)
        place = {"x": 1, "xref": "paper", "y": value}
        figure.add_annotation(**common, **place, xanchor="right", yanchor="bottom")
