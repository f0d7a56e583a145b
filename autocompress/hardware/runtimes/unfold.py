"""Stored weights of float layers as float32, for a runtime that would not unfold them itself.

A float layer whose weights are stored in few bits is written as a cast and a product.  OpenVINO
keeps such weights packed, and on some processors rounds the activations of every call to go with
them: that is not what was priced and measured.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def unfolded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same computation; casts and products of stored tensors are stored themselves.

    Args:
        proto: A model written by `assemble`.
    """
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    made: dict[str, NDArray[np.generic]] = {}
    kept = []
    for node in proto.graph.node:
        values = [_value(name, stored, made) for name in node.input]
        if node.op_type not in ("Cast", "Mul") or any(value is None for value in values):
            kept.append(node)
        elif node.op_type == "Cast":
            made[node.output[0]] = np.asarray(values[0]).astype(_type(node))
        else:
            made[node.output[0]] = np.asarray(values[0]) * np.asarray(values[1])
    if not made:
        return proto
    read = {name for node in kept for name in node.input}
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(kept)
    result.graph.initializer.extend(t for name, t in stored.items() if name in read)
    result.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in made.items()
        if name in read
    )
    return result


def _value(
    name: str, stored: dict[str, onnx.TensorProto], made: dict[str, NDArray[np.generic]]
) -> NDArray[np.generic] | None:
    return numpy_helper.to_array(stored[name]) if name in stored else made.get(name)


def _type(node: onnx.NodeProto) -> np.dtype:
    kind = next(entry.i for entry in node.attribute if entry.name == "to")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
