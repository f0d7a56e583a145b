"""A whole candidate as one ONNX model: the float graph with its holes filled by treated layers."""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx
from onnx import helper

from autocompress.compression.rounded import rounded_sums
from autocompress.compression.treated import Grid, Treated, stored_dense
from autocompress.hardware.runtimes.float_graph import HOLE, STORED_HOLE, FloatGraph
from autocompress.hardware.runtimes.onnx_layer import layer_nodes
from autocompress.hardware.runtimes.onnx_nodes import MICROSOFT, LayerNodes, message_bytes
from autocompress.hardware.runtimes.onnx_session import LOADER_KEY, Loader
from autocompress.hardware.runtimes.onnx_stored import stored_nodes
from autocompress.hardware.runtimes.onnx_sums import sum_nodes
from autocompress.hardware.runtimes.stand_in import GRID, RECTIFIED, stand_in
from autocompress.search_space.option import Option


def assemble(
    graph: FloatGraph,
    treated: Mapping[str, Treated],
    format: str = "archive",
    threads: int = 1,
) -> onnx.ModelProto:
    """Write a candidate.

    Args:
        graph: The model with holes.
        treated: Layer name to what is stored; a layer that is missing stays dense float32.
        format: `archive` or `onnx`, see `layer_nodes`.
        threads: Threads that the file asks its loader for.

    Returns:
        A model that carries the settings its loader needs under the key `autocompress.loader`.

    Raises:
        DeviceError: If a layer cannot be written as asked.
    """
    proto = _shell(graph, threads)
    layers = {layer.name: layer for layer in graph.layers}
    calls = dict.fromkeys(layers, 0)
    rounded = rounded_sums(graph.sums, treated.get)
    sums = {name: found for name, found in sum_nodes(graph).items() if name in rounded}
    grids = {found.value: rounded[name] for name, found in sums.items()}
    dropped = [found.relu for found in sums.values()]
    for node in graph.proto.graph.node:
        if node.op_type == STORED_HOLE:
            part = _fill(graph, node, treated.get(node.name), format, 0)
        elif node.op_type == HOLE:
            layer = treated.get(node.name)
            part = _fill(graph, node, layer, format, calls[node.name], grids.get(node.input[0]))
            calls[node.name] += 1
        elif node.op_type == "Add" and node.name in sums:
            part = sums[node.name].rounded(rounded[node.name])
        else:
            part = LayerNodes([] if node in dropped else [node])
        proto.graph.node.extend(part.nodes)
        proto.graph.initializer.extend(part.initializers)
    if any(layer.is_dynamic for layer in treated.values()):
        proto.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return proto


def base_bytes(graph: FloatGraph, threads: int = 1) -> int:
    """Bytes of the file without its layers.  With every layer's `layer_bytes` they give the file's
    size to within a few bytes, which are the length field of the graph."""
    proto = _shell(graph, threads)
    kept = [node for node in graph.proto.graph.node if node.op_type not in (HOLE, STORED_HOLE)]
    return int(proto.ByteSize()) + message_bytes(kept) + 2


def layer_bytes(graph: FloatGraph, name: str, treated: Treated, format: str) -> int:
    """Bytes that layer `name` under a treatment adds to the file, all of its calls together."""
    return sum(
        _fill(graph, node, treated, format, call).size_bytes
        for call, node in enumerate(graph.holes()[name])
    )


def sum_bytes(graph: FloatGraph, name: str) -> int:
    """Bytes that the file grows by when sum `name` is rounded, besides its layers; may be less
    than zero."""
    found = sum_nodes(graph)[name]
    gone = [found.add] if found.relu is None else [found.add, found.relu]
    grid = RECTIFIED if graph.sums[name].around.is_rectified else GRID
    total = found.rounded(grid).size_bytes - message_bytes(gone)
    for reader in graph.sums[name].around.readers:
        layer = next(layer for layer in graph.layers if layer.name == reader)
        treated = stand_in(layer, graph.modules[reader], Option(bits=8, activations="int8"))
        for call, node in enumerate(graph.holes()[reader]):
            filled = [
                _fill(graph, node, treated, "onnx", call, arriving) for arriving in (GRID, None)
            ]
            total += filled[0].size_bytes - filled[1].size_bytes
    return total


def _fill(
    graph: FloatGraph,
    node: onnx.NodeProto,
    treated: Treated | None,
    format: str,
    call: int,
    arriving: Grid | None = None,
) -> LayerNodes:
    """The nodes of one call; `arriving` is the grid on which its input lies, if it does."""
    module = graph.modules[node.name]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    layer = graph.layer(node.name)
    stored = treated if treated is not None else stored_dense(module)
    if node.op_type == STORED_HOLE:
        return stored_nodes(
            layer, module, stored, format, attributes["part"].decode(), node.output[0]
        )
    return layer_nodes(
        layer,
        module,
        stored,
        format,
        tensor_in=node.input[0],
        tensor_out=node.output[0],
        activation=attributes.get("activation", b"").decode(),
        pads=tuple(attributes.get("pads", ())),
        call=call,
        on_grid=treated is not None and treated.is_int8 and treated.grids[0] == arriving,
        dynamic=graph.is_dynamic,
    )


def _shell(graph: FloatGraph, threads: int) -> onnx.ModelProto:
    """The model without any node."""
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    del proto.graph.node[:]
    domains = [entry for entry in proto.opset_import if entry.domain != "autocompress"]
    del proto.opset_import[:]
    proto.opset_import.extend(domains)
    entry = proto.metadata_props.add()
    entry.key, entry.value = LOADER_KEY, json.dumps(Loader(threads).as_dict())
    return proto


def same_work(first: onnx.ModelProto, second: onnx.ModelProto) -> bool:
    """Whether two models run the same operations on stored tensors of the same shapes and types:
    they differ in values alone, which the clock cannot tell apart."""

    def work(proto: onnx.ModelProto) -> list[object]:
        stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        return [
            (
                node.op_type,
                [attribute.SerializeToString() for attribute in node.attribute],
                [
                    (tuple(stored[name].dims), stored[name].data_type) if name in stored else name
                    for name in node.input
                ],
                list(node.output),
            )
            for node in proto.graph.node
        ]

    return work(first) == work(second)
