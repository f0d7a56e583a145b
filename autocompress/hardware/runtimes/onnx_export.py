"""Calls torch's exporter: with a free batch and other free dimensions, where a model has them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from torch import Tensor, nn

from autocompress.errors import TaskError
from autocompress.hardware.runtimes.float_graph import OPSET, Dimension


def export_onnx(
    model: nn.Module, inputs: tuple[Tensor, ...], dynamic: Sequence[Dimension]
) -> tuple[onnx.ModelProto, int]:
    """The unoptimised model, and the batch size it is bound to."""
    batch = torch.export.Dim("batch")
    free: list[dict[int, torch.export.Dim]] = [{} for _ in inputs]
    for index, dimension in dynamic:
        length = inputs[index].shape[dimension]
        free[index][dimension] = torch.export.Dim(f"length_{length}")
    attempts: list[tuple[dict[int, torch.export.Dim], ...] | None] = [
        tuple(free) if dynamic else None
    ]
    if all(value.dim() for value in inputs) and len({len(value) for value in inputs}) == 1:
        attempts.insert(0, tuple({0: batch, **dims} for dims in free))
    failure = ""
    for shapes in attempts:
        try:
            with quiet(), torch.no_grad():
                program = torch.onnx.export(
                    model,
                    inputs,
                    dynamo=True,
                    dynamic_shapes=shapes,
                    optimize=False,
                    opset_version=OPSET,
                    verbose=False,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            failure = str(error).strip().splitlines()[0]
            continue
        assert program is not None
        proto = program.model_proto
        # A batch that the model binds comes back fixed, although it was asked for as free.
        dims = proto.graph.input[0].type.tensor_type.shape.dim
        return proto, int(dims[0].dim_value) if dims else 1
    lengths = " with free lengths" * bool(dynamic)
    raise TaskError(f"the model cannot be exported to ONNX{lengths}: {failure}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporter's advice to its own authors away from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
