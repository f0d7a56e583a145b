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
from autocompress.report.finalist_figures import measured_figure, measured_speed_figure
from autocompress.report.front_figures import front_figure, speed_figure
from autocompress.report.heat_figures import heat_figure
from autocompress.report.layer_figures import bytes_figure, shares_figure, times_figure
from autocompress.report.search_figures import hypervolume_figure, progress_figure
from autocompress.report.sensitivity_figures import sensitivity_figure


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
        is_optional: Whether it is left out, rather than excused, without data.
        least_width: Pixels below which it scrolls instead of shrinking.
    """

    key: str
    title: str
    caption: str
    needs: str
    draw: Callable[[RunData], Any]
    is_wide: bool = False
    is_optional: bool = False
    least_width: int = 0


FIGURES = {
    figure.key: figure
    for figure in (
        Figure(
            "front",
            "Loss against size",
            "Each point is a candidate: a whole model. Left is smaller, down is closer to the "
            "original, colour is its latency. Hover for its options, click for how to write it "
            "as a file.",
            "front.csv",
            front_figure,
            is_wide=True,
        ),
        Figure(
            "speed",
            "Loss against latency",
            "The same candidates: left is faster, colour is the size.",
            "front.csv",
            speed_figure,
            is_wide=True,
            is_optional=True,
        ),
        Figure(
            "measured",
            "Quality and size, measured",
            "Up is better, left is smaller. A cross breaks a limit.",
            "finalists in details.json",
            measured_figure,
        ),
        Figure(
            "measured-speed",
            "Quality and latency, measured",
            "Up is better, left is faster. A cross breaks a limit.",
            "finalists in details.json",
            measured_speed_figure,
            is_optional=True,
        ),
        Figure(
            "heat",
            "What was done to each layer",
            "The stronger the colour, the more was taken away. Bits of a weight, out of 32; share "
            "of weights that are zero; rank, inputs and outputs that were kept; kernels that "
            "compute in int8 (dynamic: on packed weights); bytes and predicted time that are "
            "left. A dot: nothing was done.",
            "layers in details.json",
            heat_figure,
            is_wide=True,
            least_width=640,
        ),
        Figure(
            "sensitivity",
            "How much each layer minds",
            "Each point is one option for one layer, with all other layers as they were: the "
            "further right, the more it hurts. Stars were chosen. Layers whose points lie far "
            "right are the sensitive ones; what is blue leaves few bytes. The dashed line is "
            "what all chosen options cost together.",
            "prices.json",
            sensitivity_figure,
            is_wide=True,
        ),
        Figure(
            "bytes",
            "Bytes before and after",
            "Logarithmic scale: the longer the line, the larger the saving.",
            "layers in details.json",
            bytes_figure,
        ),
        Figure(
            "times",
            "Time before and after",
            "By the cost model; logarithmic scale. Layers that take no time of their own are "
            "left out.",
            "layers in details.json",
            times_figure,
            is_optional=True,
        ),
        Figure(
            "shares",
            "Where bytes and milliseconds go",
            "Each bar is the whole model, each colour a layer. The original's layers are counted "
            "as the packed format would hold them unchanged; milliseconds are the cost model's.",
            "layers in details.json",
            shares_figure,
            is_wide=True,
            least_width=560,
        ),
        Figure(
            "latency",
            "Latency, predicted and measured",
            "On the dotted line the prediction is exact. Points held out were not used to fit "
            "the cost model, so they judge it fairly.",
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
            "Every candidate that was tried",
            "From left to right in time; down is better. Colour tells which move proposed it; "
            "grey ones were dropped early or broke a limit.",
            "history in details.json",
            progress_figure,
        ),
        Figure(
            "hypervolume",
            "How the front grew",
            "The hypervolume, which is what the front has conquered: a flat end means that more "
            "evaluations bring little. The star is the knee of the front, where it was found.",
            "history in details.json",
            hypervolume_figure,
        ),
        Figure(
            "proxy",
            "Does the loss stand for the quality?",
            "The search minimises the loss and never asks for the quality: the more steadily the "
            "points fall (or rise), the better it was guided.",
            "audit in details.json",
            proxy_figure,
        ),
        Figure(
            "model",
            "Does the cost model rank rightly?",
            "1 is the same order as the clock's, 0 is chance; beside it what counting "
            "multiply-adds would have said.",
            "audit in details.json",
            model_figure,
        ),
    )
}
