"""The heat map of the layers: what was done to each of them and what that saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from autocompress.report.data import Row, RunData
from autocompress.report.drawing import STRENGTH_SCALE, hover, rows_figure, safe
from autocompress.report.units import (
    latency_text,
    number,
    plain_text,
    short_share_text,
    size_text,
)

COLUMNS = ("bits", "zeros", "rank", "inputs", "outputs", "kernels", "bytes left", "time left")
NONE = "·"


class Treatment(NamedTuple):
    """One layer of the heat map: a strength in [0, 1] and a text for each of `COLUMNS`."""

    name: str
    strengths: tuple[float, ...]
    texts: tuple[str, ...]
    hover: str


def treatments(layers: Sequence[Row]) -> list[Treatment]:
    """One entry per layer, in the model's order."""
    return [_treatment(row) for row in layers]


def heat_figure(run: RunData) -> go.Figure | None:
    """What was done to every layer; strong colour is strong compression."""
    rows = treatments(run.layers)
    if not rows:
        return None
    figure = rows_figure([row.name for row in rows], foot=12)
    figure.add_heatmap(
        z=[[round(strength, 3) for strength in row.strengths] for row in rows],
        x=list(COLUMNS),
        y=list(range(len(rows))),
        text=[row.texts for row in rows],
        texttemplate="%{text}",
        textfont={"size": 11},
        # A text for every cell: short, or a deep network would not fit into a page.
        customdata=[[row.hover] * len(COLUMNS) for row in rows],
        hovertemplate="%{customdata}: %{x} %{text}<extra></extra>",
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


def layer_hover(row: Row) -> str:
    """A layer in a few lines."""
    bytes_ = size_text(row.get("bytes_before")), size_text(row.get("bytes_after"))
    times = latency_text(row.get("latency_before_ms")), latency_text(row.get("latency_after_ms"))
    option = str(row.get("option") or "")
    return hover(
        [
            f"<b>{safe(row.get('name', ''))}</b>",
            safe(f"{row.get('kind', '')} {option}"),
            f"{bytes_[0]} → {bytes_[1]}",
            f"{times[0]} → {times[1]}",
            f"loss alone {plain_text(row.get('loss_alone'), 3)}",
            safe(row.get("reason") or ""),
        ]
    )


def _treatment(row: Row) -> Treatment:
    bits = number(row.get("bits")) or 32.0
    zeros = number(row.get("sparsity")) or 0.0
    rank, core = _share(row, "rank"), _share(row, "tucker")
    factor = min(rank, core)
    inputs, outputs = _share(row, "inputs"), _share(row, "outputs")
    activations = row.get("activations")
    is_integer = activations in ("int8", "dynamic")
    sizes = _left(row, "bytes_before", "bytes_after")
    times = _left(row, "latency_before_ms", "latency_after_ms")
    texts = (
        f"{bits:g}",
        short_share_text(zeros) if zeros else NONE,
        f"{short_share_text(factor)}{' core' if core < rank else ''}" if factor < 1 else NONE,
        short_share_text(inputs) if inputs < 1 else NONE,
        short_share_text(outputs) if outputs < 1 else NONE,
        str(activations) if is_integer else NONE,
        NONE if sizes is None else _percent(sizes),
        NONE if times is None else _percent(times),
    )
    left = tuple(1.0 if share is None else min(1.0, share) for share in (sizes, times))
    strengths = (
        1 - bits / 32,
        zeros,
        1 - factor,
        1 - inputs,
        1 - outputs,
        0.5 if is_integer else 0.0,
        *(1 - share for share in left),
    )
    name = str(row.get("name", ""))
    return Treatment(name, strengths, texts, safe(name))


def _share(row: Row, key: str) -> float:
    share = number(row.get(key))
    return 1.0 if share is None else share


def _left(row: Row, before: str, after: str) -> float | None:
    first, last = number(row.get(before)), number(row.get(after))
    return last / first if first and last is not None else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"
