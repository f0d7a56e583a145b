"""Makes the ONNX graph of a model with a hole for each layer: exported once, filled often."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor, nn

from autocompress.errors import TaskError
from autocompress.hardware.runtimes.float_graph import (
    DOMAIN,
    HOLE,
    STORED_HOLE,
    Dimension,
    FloatGraph,
)
from autocompress.hardware.runtimes.onnx_export import export_onnx, quiet
from autocompress.hardware.runtimes.onnx_reshape import free_reshapes
from autocompress.model.layer import Layer
from autocompress.model.sums import Sum, sums_of

_OPERATORS = {"relu": "Relu", "relu6": "Clip"}
_SCOPES = "pkg.torch.onnx.name_scopes"


def export_float(
    model: nn.Module,
    layers: Sequence[Layer],
    example_inputs: tuple[Tensor, ...],
    dynamic: Sequence[Dimension] = (),
) -> FloatGraph:
    """Export a model once.

    Args:
        model: Module in evaluation mode; it is not changed.
        layers: What the trace found; layers with a `reason` stay ordinary nodes.
        example_inputs: Positional inputs of one forward pass.
        dynamic: Further dimensions that are to be free; those that are equally long in the example
            stay equally long.

    Returns:
        The graph, with a free batch dimension where the model allows it.  Batch norms next to a
        layer are kept as nodes, so that each layer holds exactly the weights of its module.

    Raises:
        TaskError: If the model cannot be exported, or a treated layer is not found in the graph.
    """
    proto, static_batch = export_onnx(model, example_inputs, dynamic)
    treated = tuple(layer for layer in layers if layer.is_treated and layer.is_operator)
    stored = tuple(layer for layer in layers if layer.is_treated and not layer.is_operator)
    modules = {layer.name: model.get_submodule(layer.name) for layer in (*treated, *stored)}
    sums = sums_of(model)
    _name_sums(proto.graph, sums)
    _dig_holes(proto, treated, _aliases(model))
    # An embedding may read the weight of a layer that is a hole.
    _take_out(proto, (*stored, *(layer for layer in treated if layer.tied)), model)
    found = {node.name for node in proto.graph.node if node.op_type in (HOLE, STORED_HOLE)}
    for layer in (*treated, *stored):
        if layer.name not in found:
            raise TaskError(
                f"layer {layer.name!r} was not found in the exported ONNX graph; "
                "exclude it in the search space"
            )
    proto = _tidy(proto, sums)
    _absorb_pads(proto.graph, {layer.name for layer in treated if layer.kind == "Conv2d"})
    return FloatGraph(
        proto, treated, modules, static_batch, sums, stored, is_dynamic=bool(dynamic)
    )


def _aliases(model: nn.Module) -> dict[str, str]:
    """Every further name of a module to its first."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(module), name)
        for name, module in model.named_modules(remove_duplicate=False)
    }


def _take_out(proto: onnx.ModelProto, layers: Sequence[Layer], model: nn.Module) -> None:
    """Replace the tensors of layers that are only stored by nodes without inputs."""
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    gone: set[str] = set()
    for layer in layers:
        for part, own in model.get_submodule(layer.name)._parameters.items():
            here = [name for name in names.get(id(own), ()) if name in tensors]
            for name in here:
                hole = helper.make_node(
                    STORED_HOLE, [], [name], name=layer.name, domain=DOMAIN, part=part
                )
                hole.attribute.append(helper.make_attribute("layer", layer.name))
                graph.node.insert(0, hole)
                shape = helper.make_tensor_value_info(
                    name, tensors[name].data_type, list(tensors[name].dims)
                )
                graph.value_info.append(shape)
                gone.add(name)
    kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _dig_holes(
    proto: onnx.ModelProto, layers: Sequence[Layer], aliases: Mapping[str, str]
) -> None:
    """Replace the nodes of each call of a layer by one hole, and drop the weights it held."""
    graph = proto.graph
    names = {layer.name: layer for layer in layers}
    groups: dict[tuple[str, ...], list[onnx.NodeProto]] = {}
    for node in graph.node:
        found = tuple(_scopes(node))
        if len(found) > 1 and aliases.get(found[-2], "") in names:
            groups.setdefault(found, []).append(node)
    holes: dict[int, onnx.NodeProto] = {}
    inside: set[int] = set()
    for scopes, nodes in groups.items():
        name = aliases[scopes[-2]]
        arithmetic = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
        if not arithmetic:
            continue  # such as the padding in front of a convolution
        value = arithmetic[0].input[0]
        made = {name for node in nodes for name in node.output}
        if len(arithmetic) > 1 or value in made:
            kinds = ", ".join(node.op_type for node in nodes)
            raise TaskError(f"layer {name!r} is exported in a way not known: {kinds}")
        last = nodes[-1]
        # The weights are gone: only the attribute tells two layers that read the same value apart,
        # or the optimiser would merge them.
        hole = helper.make_node(
            HOLE, [value], list(last.output), name=name, domain=DOMAIN, layer=name
        )
        holes[id(last)] = hole
        inside |= {id(node) for node in nodes}
    outputs = {value.name for value in graph.output}
    read = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        # A constant inside a group may serve nodes of others as well.
        if id(node) in holes or id(node) not in inside or read & set(node.output):
            kept.insert(0, holes.get(id(node), node))
            read |= set(kept[0].input)
    kept = _absorb_activations(kept, names, outputs)
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)
    proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _name_sums(graph: onnx.GraphProto, sums: Mapping[str, Sum]) -> None:
    """Let each addition that is a module bear the module's name, and no other node."""
    for node in graph.node:
        found = (*_scopes(node), "")
        is_sum = node.op_type == "Add" and len(found) > 2 and found[-3] in sums
        node.name = found[-3] if is_sum else ""


def _absorb_activations(
    nodes: list[onnx.NodeProto], layers: dict[str, Layer], outputs: set[str]
) -> list[onnx.NodeProto]:
    """Let a hole take in the ReLU or ReLU6 that alone reads it, so that rounding comes after."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    gone: set[int] = set()
    for node in nodes:
        if node.op_type != HOLE or not layers[node.name].activation:
            continue
        activation = layers[node.name].activation
        found = readers.get(node.output[0], [])
        # The bounds of a ReLU6 are cast to the type of the value that it reads.
        casts = [reader for reader in found if reader.op_type == "CastLike"]
        after = [reader for reader in found if reader not in casts]
        if (
            len(after) == 1
            and after[0].op_type == _OPERATORS[activation]
            and node.output[0] not in outputs
            and all(readers[cast.output[0]] == after for cast in casts)
        ):
            node.output[0] = after[0].output[0]
            node.attribute.append(helper.make_attribute("activation", activation))
            gone |= {id(reader) for reader in (*after, *casts)}
    return [node for node in nodes if id(node) not in gone]


def _absorb_pads(graph: onnx.GraphProto, convolutions: Collection[str]) -> None:
    """Let a convolution's hole take in the zeros that are set around its input for it alone."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    reads = Counter(name for node in graph.node for name in node.input)
    for node in list(graph.node):
        pad = makers.get(node.input[0]) if node.name in convolutions else None
        if pad is None or reads[pad.output[0]] > 1 or len(pad.input) > 3:
            continue
        modes = [attribute.s for attribute in pad.attribute if attribute.name == "mode"]
        sizes, value = stored.get(pad.input[1]), stored.get((*pad.input, "")[2], np.zeros(1))
        if sizes is None or sizes.size != 8 or value.any() or modes not in ([], [b"constant"]):
            continue
        if sizes[[0, 1, 4, 5]].any() or sizes.min() < 0:
            continue
        node.attribute.append(helper.make_attribute("pads", sizes[[2, 3, 6, 7]].tolist()))
        node.input[0] = pad.input[0]
        graph.node.remove(pad)


def _scopes(node: onnx.NodeProto) -> list[str]:
    """Names of the modules around a node, and its own, which tells the calls of one apart."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)
            return [str(scope).split("@")[0] for scope in scopes[:-1]] + [str(scopes[-1])]
    return []


def _tidy(proto: onnx.ModelProto, sums: Collection[str]) -> onnx.ModelProto:
    """Fold constants around the holes; drop the exporter's notes, which can outweigh the model."""
    from onnxscript import optimizer, rewriter

    with quiet():
        proto = rewriter.rewrite(optimizer.optimize(proto))
        proto = optimizer.optimize(proto)
    free_reshapes(proto)
    del proto.metadata_props[:], proto.graph.value_info[:], proto.graph.metadata_props[:]
    proto.graph.doc_string = proto.doc_string = ""
    proto.producer_name, proto.producer_version = "autocompress", ""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        if node.op_type in (HOLE, STORED_HOLE):
            # Optimisers give the second node of a name another one.
            node.name = next(a.s.decode() for a in node.attribute if a.name == "layer")
        elif not (node.op_type == "Add" and node.name in sums):
            node.name = ""
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    return proto
