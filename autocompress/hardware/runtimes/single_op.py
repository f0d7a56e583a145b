"""ONNX models of one operation each, to be timed alone: a treated layer, or a boundary."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autocompress.hardware.runtimes.float_graph import OPSET
from autocompress.hardware.runtimes.onnx_layer import convolution_attributes, layer_nodes
from autocompress.hardware.runtimes.stand_in import stand_in
from autocompress.model.layer import Layer
from autocompress.search_space.factors import factor_shapes
from autocompress.search_space.option import Option

IR_VERSION = 10


def layer_signature(layer: Layer, module: nn.Module, option: Option) -> str:
    """Everything that the time of a layer under a kernel class depends on."""
    whole, layer = layer, _narrowed(layer, option)
    parts = [layer.kind, _shape(layer.input_shape), "by", _shape(layer.weight_shape)]
    if isinstance(module, nn.Conv2d):
        attributes = convolution_attributes(module)
        parts += [f"{key}={_shape(attributes[key])}" for key in ("strides", "pads", "dilations")]
        parts += [f"groups={layer.groups}"] if module.groups > 1 else []
    if getattr(module, "bias", None) is not None:
        parts.append("bias")
    if layer.activation:
        parts.append(layer.activation)
    if option.is_factored:
        shapes = factor_shapes(whole, option)
        name = "rank" if len(shapes) == 2 else "core"
        parts.append(f"{name}={_shape([rows for rows, _ in shapes[:-1]])}")
    parts.append(option.activations)
    if option.activations == "dynamic":
        parts.append(f"bits={option.bits} run={option.scales}{' zero' * option.affine}")
    return " ".join(parts)


def layer_model(layer: Layer, module: nn.Module, option: Option) -> onnx.ModelProto:
    """One layer alone.  An int8 layer reads and gives uint8: no boundary is in its time."""
    is_int8 = option.activations == "int8"
    treated = stand_in(layer, module, option)
    part = layer_nodes(layer, module, treated, activation=layer.activation)
    kind = TensorProto.UINT8 if is_int8 else TensorProto.FLOAT
    nodes, tensor_in, tensor_out = part.nodes, "input", "output"
    if is_int8:
        first = next(index for index, node in enumerate(nodes) if node.op_type == "QuantizeLinear")
        last = max(index for index, node in enumerate(nodes) if node.op_type == "DequantizeLinear")
        nodes, tensor_in, tensor_out = _without_boundary(nodes, first, last)
    layer = _narrowed(layer, option)
    return _model(
        nodes,
        part.initializers,
        (tensor_in, kind, layer.input_shape),
        (tensor_out, kind, layer.output_shape),
    )


def _narrowed(layer: Layer, option: Option) -> Layer:
    """The record of the layer with the channels that an option keeps."""
    return layer.narrowed(*layer.widths(option.inputs, option.outputs))


def boundary_model(operator: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    """`QuantizeLinear` or `DequantizeLinear` of a tensor of that shape."""
    kinds = (TensorProto.FLOAT, TensorProto.UINT8)
    kind_in, kind_out = kinds if operator == "QuantizeLinear" else kinds[::-1]
    node = helper.make_node(operator, ["input", "scale", "zero"], ["output"])
    tensors = [
        numpy_helper.from_array(np.asarray(0.05, np.float32), "scale"),
        numpy_helper.from_array(np.asarray(128, np.uint8), "zero"),
    ]
    return _model([node], tensors, ("input", kind_in, shape), ("output", kind_out, shape))


def boundary_signature(operator: str, shape: tuple[int, ...]) -> str:
    return f"{operator} {_shape(shape)}"


def _without_boundary(
    nodes: list[onnx.NodeProto], first: int, last: int
) -> tuple[list[onnx.NodeProto], str, str]:
    """Take off the quantise node at the front and the dequantise node at the end.

    A reshape beyond them moves onto the integer side, where onnxruntime puts it as well.
    """
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    front, back = kept[first], kept[last]
    value = front.input[0]
    for node in kept:
        for index, name in enumerate(node.input):
            if name == front.output[0]:
                node.input[index] = value
            elif name == back.output[0]:
                node.input[index] = back.input[0]
    tensor_out = "output" if back.output[0] != "output" else back.input[0]
    return [n for i, n in enumerate(kept) if i not in (first, last)], "input", tensor_out


def _model(
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    value_in: tuple[str, int, tuple[int, ...]],
    value_out: tuple[str, int, tuple[int, ...]],
) -> onnx.ModelProto:
    domains = dict.fromkeys(node.domain for node in nodes)
    graph = helper.make_graph(
        nodes,
        "operation",
        [helper.make_tensor_value_info(*value_in)],
        [helper.make_tensor_value_info(*value_out)],
        tensors,
    )
    return helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid(name, 1 if name else OPSET) for name in {"": 0, **domains}
        ],
        ir_version=IR_VERSION,
    )


def _shape(sizes: tuple[int, ...] | list[int]) -> str:
    return "x".join(map(str, sizes)) or "scalar"
