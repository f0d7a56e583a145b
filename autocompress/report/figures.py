"""Every figure of the report in reading order, each a function of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autocompress.report.audit_figures import (
    latency_figure,
    model_figure,
    proxy_figure,
    size_figure,
)
from autocompress.report.data import RunData
from autocompress.report.front_figures import front_figure, measured_figure
from autocompress.report.layer_figures import bytes_figure, choice_figure, shares_figure
from autocompress.report.search_figures import hypervolume_figure, progress_figure


@dataclass(frozen=True)
class Figure:
    """A figure's place in the report.

    Args:
        key: Short stable name, the id of its element.
        title: Heading above it.
        caption: How to read it.
        needs: What must be in the run directory for it.
        draw: Makes the plotly figure, or None where the run has no data for it.
        is_wide: Whether it takes the whole width of the page.
    """

    key: str
    title: str
    caption: str
    needs: str
    draw: Callable[[RunData], Any]
    is_wide: bool = False


FIGURES = {
    figure.key: figure
    for figure in (
        Figure(
            "front",
            "The front",
            "Each point is a model that no other beats in loss, size and latency at once. "
            "Hover for its id and options; down and left is better.",
            "front.csv",
            front_figure,
            is_wide=True,
        ),
        Figure(
            "measured",
            "Finalists as measured",
            "Quality by the user's metric, size of the file. A cross breaks a limit.",
            "finalists in details.json",
            measured_figure,
            is_wide=True,
        ),
        Figure(
            "choice",
            "What was chosen",
            "The stronger the colour, the more strongly compressed.",
            "layers in details.json",
            choice_figure,
        ),
        Figure(
            "bytes",
            "Bytes before and after",
            "Logarithmic scale.",
            "layers in details.json",
            bytes_figure,
        ),
        Figure(
            "shares",
            "Where bytes and milliseconds go",
            "Share of each layer; latencies are the cost model's.",
            "layers in details.json",
            shares_figure,
            is_wide=True,
        ),
        Figure(
            "latency",
            "Latency, predicted and measured",
            "On the dotted line the prediction is exact.",
            "audit or finalists in details.json",
            latency_figure,
        ),
        Figure(
            "size",
            "Size, predicted and measured",
            "On the dotted line the prediction is exact.",
            "finalists in details.json",
            size_figure,
        ),
        Figure(
            "progress",
            "Loss by evaluation",
            "Colour tells where a candidate came from.",
            "history in details.json",
            progress_figure,
        ),
        Figure(
            "hypervolume",
            "Hypervolume",
            "What the front dominates; a flat end means that more evaluations bring little. "
            "The star is the knee of the front, where it was found.",
            "history in details.json",
            hypervolume_figure,
        ),
        Figure(
            "proxy",
            "Proxy loss against quality",
            "The search minimises the loss; this shows how well it stands for the quality.",
            "audit in details.json",
            proxy_figure,
        ),
        Figure(
            "model",
            "Does the cost model rank rightly?",
            "1 is the same order as the clock.",
            "audit in details.json",
            model_figure,
        ),
    )
}
