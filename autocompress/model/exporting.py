"""The graph that `torch.export` makes of a model, for those who only want to look at it."""

from __future__ import annotations

import contextlib
import io
import warnings

import torch
from torch import fx, nn

from autocompress.model.task import Inputs


def exported_graph(model: nn.Module, example_inputs: Inputs) -> fx.Graph | None:
    """The operators of one forward pass; None when the model cannot be exported.

    Args:
        model: In evaluation mode; it is not changed.
        example_inputs: Positional inputs of one forward pass.
    """
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),  # of a model that depends on its data
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            graph: fx.Graph = torch.export.export(model, example_inputs, strict=False).graph
            return graph
    except Exception:  # noqa: BLE001 - export runs the user's code, which may raise anything
        return None
