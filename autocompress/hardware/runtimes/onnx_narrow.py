"""The float graph of a narrower model, made from that of the original where the graph allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.hardware.runtimes.onnx_float import FloatGraph, export_float
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.model.layer import Layer
from autocompress.model.task import Inputs
from autocompress.model.trace import run

TOLERANCE = 1e-4  # of the largest output, by which the graph may differ from torch


def narrow_graph(
    graph: FloatGraph,
    model: nn.Module,
    small: nn.Module,
    layers: Sequence[Layer],
    example_inputs: Inputs,
) -> FloatGraph:
    """The graph of a narrower model; a new export only where the old graph cannot hold it.

    What fixes a width in the old graph (reshapes into heads, constants that several nodes share)
    is not searched for: the graph is run on the example inputs and compared with torch.

    Args:
        graph: Of the model in full width.
        model: In full width.
        small: The narrower model, in evaluation mode, with layers of the same names.
        layers: Records of the narrower model's layers, as `narrow_layer` or a trace gives them.
        example_inputs: Positional inputs of one forward pass.

    Raises:
        TaskError: If the narrower model fails, or cannot be exported.
    """
    filled = fill_narrow(graph, model, small, layers)
    if filled is not None and _agrees(filled, small, example_inputs):
        return filled
    return export_float(small, layers, example_inputs)


def fill_narrow(
    graph: FloatGraph, model: nn.Module, small: nn.Module, layers: Sequence[Layer]
) -> FloatGraph | None:
    """The old graph with narrower layers and slices of what lies between; not yet compared.

    Args:
        graph: Of the model in full width.
        model: In full width.
        small: The narrower model.
        layers: Records of its layers.

    Returns:
        None where a module that was sliced is not found in the graph as it is in the model.
    """
    records = {layer.name: layer for layer in layers}
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    if not _slice_between(proto, graph, model, small):
        return None
    return replace(
        graph,
        proto=proto,
        layers=tuple(records[layer.name] for layer in graph.layers),
        modules={name: small.get_submodule(name) for name in graph.modules},
    )


def _slice_between(
    proto: onnx.ModelProto, graph: FloatGraph, model: nn.Module, small: nn.Module
) -> bool:
    """Puts the tensors of sliced modules that are no layers into the graph, in place."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    wide, narrow = model.state_dict(), small.state_dict()
    for name, values in narrow.items():
        module, _, _ = name.rpartition(".")
        if module in graph.modules or values.shape == wide[name].shape:
            continue
        # The optimiser folds some modules into others and merges tensors of equal content.
        found = stored.get(name)
        if found is None or len(readers.get(name, [])) != 1 or not _same(found, wide[name]):
            return False
        found.CopyFrom(numpy_helper.from_array(values.detach().numpy(), name))
        _set_groups(readers[name][0], small.get_submodule(module))
    return True


def _same(stored: onnx.TensorProto, values: Tensor) -> bool:
    return np.array_equal(numpy_helper.to_array(stored), values.detach().numpy())


def _set_groups(node: onnx.NodeProto, module: nn.Module) -> None:
    for attribute in node.attribute:
        if attribute.name == "group":
            attribute.i = int(module.groups)  # type: ignore[arg-type]
        elif attribute.name == "num_groups":
            attribute.i = int(module.num_groups)  # type: ignore[arg-type]


def _agrees(graph: FloatGraph, small: nn.Module, inputs: Inputs) -> bool:
    """Whether the graph computes what torch does, for one batch and, if it may, for two."""
    names = [value.name for value in graph.proto.graph.input]
    batches = [inputs]
    if not graph.static_batch:
        batches.append(tuple(torch.cat([x, x]) for x in inputs))
    try:
        session = open_session(assemble(graph, {}))
        for batch in batches:
            feeds = {name: x.numpy() for name, x in zip(names, batch, strict=True)}
            found = torch.from_numpy(session.run(None, feeds)[0])
            wanted = run(small, batch)
            if found.shape != wanted.shape:
                return False
            bound = TOLERANCE * float(wanted.abs().max())
            if not float((found - wanted).abs().max()) <= bound:
                return False
    except Exception:  # noqa: BLE001 - the runtime's errors have no common class
        return False
    return True
