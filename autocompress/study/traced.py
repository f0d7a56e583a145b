"""`trace.onnx` of a run directory: what tracing and exporting the user's model gave, so that a
later command need not do it again.

It is found by what it was made from: weights, inputs, the source files of the model's classes and
our own code.  A change that these do not show is caught by running the graph: it must give what
the model gives.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Treated
from autocompress.deploy.onnx_file import OnnxModule, write_onnx
from autocompress.hardware.runtimes import float_graph, onnx_export, onnx_float, onnx_reshape
from autocompress.hardware.runtimes.float_graph import Dimension, FloatGraph
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.model import dataflow, layer, lower, matrix, sums, tied, trace
from autocompress.model.layer import Layer
from autocompress.model.sums import sums_of
from autocompress.model.task import Inputs
from autocompress.model.trace import run

NAME = "trace.onnx"
_FACTS = "autocompress.trace"
CLOSE = 1e-3  # share of the largest output by which graph and model may differ


def trace_key(
    model: nn.Module, content: str, example_inputs: Inputs, dynamic: Sequence[Dimension] = ()
) -> str:
    """Hash of what a trace depends on; empty where the source of a class cannot be read.

    Args:
        model: The user's model.
        content: Hash of its weights.
        example_inputs: What it is traced with.
        dynamic: Dimensions that are free in the exported graph.
    """
    digest = hashlib.sha256(content.encode())
    own = {type(module) for module in model.modules()}
    parts = (
        *(dataflow, layer, lower, matrix, sums, tied, trace),
        *(float_graph, onnx_export, onnx_float, onnx_reshape),
    )
    files = {inspect.getsourcefile(part) for part in parts}
    try:
        files |= {
            inspect.getsourcefile(kind) for kind in own if not kind.__module__.startswith("torch.")
        }
        for file in sorted(str(file) for file in files):
            digest.update(Path(file).read_bytes())
    except (TypeError, OSError):  # a class of a notebook or of an extension has no file
        return ""
    shapes = [[list(tensor.shape), str(tensor.dtype)] for tensor in example_inputs]
    versions = [version(name) for name in ("torch", "onnx", "onnxscript")]
    parts_of_text = [repr(model), shapes, versions, *([list(dynamic)] if dynamic else [])]
    digest.update(json.dumps(parts_of_text).encode())
    return digest.hexdigest()


def read_trace(
    path: Path, model: nn.Module, key: str, example_inputs: Inputs
) -> tuple[tuple[Layer, ...], FloatGraph] | None:
    """Layers and graph that were written under a key.

    Returns:
        None where there are none, or where the graph does not give what the model gives.
    """
    if not key or not path.is_file():
        return None
    try:
        proto = onnx.load(path)
        facts = json.loads(next(p.value for p in proto.metadata_props if p.key == _FACTS))
        if facts["key"] != key:
            return None
        del proto.metadata_props[:]
        layers = tuple(_layer(row) for row in facts["layers"])
        treated = tuple(item for item in layers if item.is_treated)
        holes = tuple(item for item in treated if item.is_operator)
        stored = tuple(item for item in treated if not item.is_operator)
        modules = {item.name: model.get_submodule(item.name) for item in treated}
        sums = sums_of(model)
        graph = FloatGraph(
            proto,
            holes,
            modules,
            facts["static_batch"],
            sums,
            stored,
            is_dynamic=facts.get("is_dynamic", False),
        )
        return (layers, graph) if is_faithful(graph, model, example_inputs) else None
    except Exception:  # a damaged file makes protobuf and the runtime raise what they like
        return None


def is_faithful(
    graph: FloatGraph,
    model: nn.Module,
    example_inputs: Inputs,
    treated: Mapping[str, Treated] | None = None,
) -> bool:
    """Whether the graph gives the model's outputs on the example inputs.

    Args:
        graph: The exported model.
        model: The dense model.
        example_inputs: Positional inputs of one forward pass.
        treated: What takes the place of dense layers, in both.
    """
    found = OnnxModule(assemble(graph, treated or {}))(*example_inputs)
    wanted = run(stitched(model, treated) if treated else model, example_inputs)
    room = CLOSE * float(wanted.abs().max())
    return found.shape == wanted.shape and float((found - wanted).abs().max()) <= room


def write_trace(path: Path, key: str, layers: Sequence[Layer], graph: FloatGraph) -> None:
    """Writes layers and graph for `read_trace`; nothing without a key.

    Raises:
        StorageError: If the file cannot be written.
    """
    if not key:
        return
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    facts = {
        "key": key,
        "layers": [asdict(item) for item in layers],
        "static_batch": graph.static_batch,
        "is_dynamic": graph.is_dynamic,
    }
    proto.metadata_props.add(key=_FACTS, value=json.dumps(facts))
    write_onnx(path, proto)


def _layer(row: dict[str, Any]) -> Layer:
    """A layer from its JSON, whose lists were tuples."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    return Layer(**values)
