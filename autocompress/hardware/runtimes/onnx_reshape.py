"""Reshapes that take any number of channels, so that a graph can be filled with narrow layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

Dimension = int | str


def free_reshapes(proto: onnx.ModelProto) -> None:
    """Lets every flatten whose target names its features count them itself, in place.

    The exporter writes the size of the features as a number, such as `[-1, 400]` for
    `(batch, 16, 5, 5)`.  It becomes `[0, -1]`: the first dimension as it comes, the rest together,
    which is the same for every batch.  Where the shapes do not show that it is the same, as where
    features are split into heads, the reshape stays.

    Args:
        proto: A graph with the shapes of its values.
    """
    graph = proto.graph
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = numpy_helper.to_array(constants[node.input[1]]).tolist()
        free = _free(shapes.get(node.input[0], ()), target)
        if free is None:
            continue
        name = "autocompress.shape" + "".join(f"/{size}" for size in free)
        if name not in constants:
            tensor = numpy_helper.from_array(np.asarray(free, np.int64), name)
            constants[name] = tensor
            graph.initializer.append(tensor)
        node.input[1] = name
        kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _free(source: Sequence[Dimension], target: Sequence[int]) -> list[int] | None:
    """The same target without the number of its last dimension; None if that is not sure."""
    kept = len(target) - 1
    if kept < 1 or kept > len(source) or target[-1] <= 0:
        return None
    for one, other in zip(source, target[:kept], strict=False):
        # A free batch is the only dimension that the exporter leaves to be counted.
        if not (one == other or (other == -1 and isinstance(one, str))):
            return None
    rest = [size for size in source[kept:] if isinstance(size, int) and size > 0]
    if len(rest) != len(source) - kept or prod(rest) != target[-1] or not rest:
        return None
    if list(target[:kept]).count(-1) > 1 or any(size == 0 for size in source[:kept]):
        return None
    return [0] * kept + [-1]


def _shape(value: onnx.ValueInfoProto) -> tuple[Dimension, ...]:
    """Sizes, names of free dimensions, and 0 for what is not known."""
    return tuple(dim.dim_param or int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
