"""How the tensors of a layer that is only stored in fewer bytes are written in ONNX: its operator
reads a float weight, which a graph of constants makes when the session loads.
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.compression.treated import Treated
from autocompress.hardware.runtimes.onnx_nodes import LayerNodes, NodeWriter
from autocompress.model.layer import Layer
from autocompress.model.matrix import stored_layout, weight_of


def stored_nodes(
    layer: Layer,
    module: nn.Module,
    treated: Treated,
    format: str,
    part: str,
    target: str,
) -> LayerNodes:
    """Write a tensor of a layer that is only stored in fewer bytes.

    Args:
        layer: What the trace says of it.
        module: The dense module; gives the layout of the weight.
        treated: What is stored.
        format: As for `layer_nodes`; in `onnx` a graph of constants makes the tensor when the
            session loads.
        part: `weight` or `bias`.
        target: Name of the tensor.
    """
    writer = NodeWriter(layer, format)
    if part == "bias":
        assert treated.bias is not None
        _constant(writer, target, treated.bias.float())
    elif format == "archive" or (len(treated.weights) == 1 and treated.weights[0].bits == 32):
        has_floats = not treated.is_int8 and not treated.is_dynamic
        if layer.is_operator and has_floats and len(treated.weights) == 1:
            writer.node("Identity", [writer.shared("weight0")], target)  # what the layer reads
        else:
            _constant(writer, target, weight_of(module, treated.matrix()))
    else:
        _unfolded(writer, module, treated, target)
    return writer.result


def _constant(writer: NodeWriter, target: str, values: Tensor) -> None:
    """A tensor as it stands, under the name that the graph has for it."""
    array = np.asarray(values.detach().numpy(), order="C")
    writer.result.initializers.append(numpy_helper.from_array(array, target))


def _unfolded(writer: NodeWriter, module: nn.Module, treated: Treated, target: str) -> None:
    """The weight from its stored tensors, in the layout that its operator reads."""
    value = ""
    is_tied = writer.layer.is_operator  # its own nodes hold the codes already
    for index, stored in enumerate(treated.weights):
        rows, columns = stored.codes.shape
        factor = writer.float_weight(index, stored, (rows, columns), "tied" * is_tied)
        inputs = [factor, value]
        value = (
            writer.node("MatMul", inputs, writer.shared(f"product{index}")) if value else factor
        )
    first, order, last = stored_layout(module)
    if order:
        shape = writer.tensor("layout", np.asarray(first, np.int64))
        value = writer.node("Reshape", [value, shape], writer.shared("parts"))
        value = writer.node("Transpose", [value], writer.shared("order"), perm=order)
    shape = writer.tensor("shape", np.asarray(last, np.int64))
    writer.node("Reshape", [value, shape], target)
