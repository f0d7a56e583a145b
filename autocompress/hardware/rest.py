"""What is in a model beside its treated layers: shapes of tensors, and the work between them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from torch import Tensor

from autocompress.hardware.candidates import stand_ins
from autocompress.hardware.clock import feeds
from autocompress.hardware.runtimes.float_graph import HOLE, STORED_HOLE, FloatGraph
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.hardware.work import Work
from autocompress.search_space.option import Option

Shapes = Mapping[str, tuple[int, ...]]
# Operators that give another view of the same values: no bytes move.
VIEWS = ("Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Dropout")


def tensor_shapes(
    graph: FloatGraph,
    example_inputs: tuple[Tensor, ...],
    narrow: Mapping[str, Option] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Shapes of all float tensors between the nodes of the graph, seen in one run.

    Args:
        graph: The exported model.
        example_inputs: Inputs of the forward pass.
        narrow: Layers that have fewer channels, to float options that say so.
    """
    proto = assemble(graph, stand_ins(graph, narrow or {}))
    values = feeds(graph, example_inputs)
    nodes = [node for node in graph.proto.graph.node if node.op_type != STORED_HOLE]
    names = list(dict.fromkeys(name for node in nodes for name in node.output))
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n and n not in known)
    session = open_session(proto)
    told = [value.name for value in session.get_outputs()]
    seen = dict(zip(told, session.run(None, values), strict=True)) | values
    return {name: tuple(value.shape) for name, value in seen.items() if value.dtype.kind == "f"}


def rest_work(graph: FloatGraph, shapes: Shapes) -> list[Work]:
    """The operators outside treated layers, all of them in float32."""
    stored = {t.name: tuple(t.dims) for t in graph.proto.graph.initializer}
    work = []
    for node in graph.proto.graph.node:
        inputs = [shapes[name] for name in node.input if name in shapes]
        outputs = [shapes[name] for name in node.output if name in shapes]
        if node.op_type in (HOLE, *VIEWS) or not inputs or not outputs:
            continue
        weights = [stored[name] for name in node.input if name in stored]
        moved = [4.0 * sum(map(math.prod, group)) for group in (inputs, outputs, weights)]
        work.append(Work("float32", _macs(node.op_type, inputs, outputs, weights), *moved))
    return work


def _macs(
    operator: str,
    inputs: list[tuple[int, ...]],
    outputs: list[tuple[int, ...]],
    weights: list[tuple[int, ...]],
) -> float:
    """Multiply-adds of a product; other operators count as bytes alone."""
    if operator == "Conv" and weights:
        return float(math.prod(outputs[0]) * math.prod(weights[0][1:]))
    if operator in ("Gemm", "MatMul") and inputs[0]:
        return float(math.prod(outputs[0]) * inputs[0][-1])
    return 0.0
