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
_ROW_HEIGHT = 26
_TALLEST = 4200
# Tenths of a decade's first number that may have a tick, from dense to sparse.
_STEPS: tuple[Sequence[int], ...] = (
    range(10, 100),
    range(10, 100, 2),
    range(10, 100, 5),
    range(10, 100, 10),
    (10, 15, 20, 30, 50, 70),
    (10, 20, 50),
    (10, 30),
    (10,),
)


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


def rows_figure(names: Sequence[str], foot: int = 40) -> go.Figure:
    """One line per name, top down; numbers as positions keep equal short labels apart.

    Args:
        names: Of layers.
        foot: Pixels below the rows.
    """
    figure = blank(height=min(_TALLEST, 56 + foot + _ROW_HEIGHT * len(names)))
    figure.update_layout(margin={"t": 40, "b": foot})
    figure.update_yaxes(
        tickmode="array",
        ticks="",
        tickvals=list(range(len(names))),
        ticktext=[label(name) for name in names],
        range=[len(names) - 0.5, -0.5],
    )
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


def latency_axis(axis: str, figure: go.Figure, title: str) -> None:
    """Turns `x` or `y` into an axis of milliseconds."""
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(title_text=f"{title}, ms")


def latency_tick(value: float) -> str:
    """Text of a tick at a round number of milliseconds, such as `50 µs`."""
    for factor, unit in ((1e3, "s"), (1.0, "ms"), (1e-3, "µs")):
        if value >= 0.999 * factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value * 1e6:.4g} ns"


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
    # Labels stand beside each other on a phone too, where more of them would be turned.
    ticks = _log_ticks(low - room, high + room, 4 if axis == "x" else 7)
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(
        title_text=title,
        type="log",
        range=[low - room, high + room],
        tickmode="array",
        tickvals=ticks,
        ticktext=[show(tick) for tick in ticks],
        tickangle=0,
    )


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between 10^low and 10^high: as many as fit."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    found: list[float] = []
    for steps in _STEPS:
        ticks = [step * 10.0 ** (decade - 1) for decade in decades for step in steps]
        found = [tick for tick in ticks if low <= math.log10(tick) <= high]
        logs = [math.log10(tick) for tick in found]
        gap = min((b - a for a, b in zip(logs, logs[1:], strict=False)), default=high - low)
        if len(found) <= most and gap >= (high - low) / (2 * most + 2):
            return found
    return found[:: math.ceil(len(found) / most)]


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
        place = {"x": math.log10(value) if is_log else value, "y": 1, "yref": "paper"}
        figure.add_annotation(**common, **place, textangle=-90, xanchor="right", yanchor="top")
    else:
        figure.add_shape(type="line", y0=value, y1=value, x0=0, x1=1, xref="paper", line=line)
        place = {"x": 0, "xref": "paper", "y": value}
        figure.add_annotation(**common, **place, xanchor="left", yanchor="bottom")
