"""Reshapes that take any number of channels, so that a graph can be filled with narrow layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

Dimension = int | str


def free_reshapes(proto: onnx.ModelProto) -> None:
    """Lets every reshape that names a number of channels count it itself, in place.

    The exporter writes sizes as numbers.  A flatten such as `[-1, 400]` for `(batch, 16, 5, 5)`
    becomes `[0, -1]`: the first dimension as it comes, the rest together.  A split into heads such
    as `[-1, 128, 12, 32]` for `(batch, 128, 384)` becomes `[0, 0, -1, 32]`: any number of heads of
    32 channels.  Both are the same for every batch.  Where the shapes do not show that, the
    reshape stays.

    Args:
        proto: A graph with the shapes of its values.
    """
    graph = proto.graph
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        source = shapes.get(node.input[0], ())
        target = numpy_helper.to_array(constants[node.input[1]]).tolist()
        free = _joined(source, target)
        if free is None:
            free = _parted(source, target, _picked(node, len(target), readers, constants))
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


def _joined(source: Sequence[Dimension], target: Sequence[int]) -> list[int] | None:
    """The same target without the number of its last dimension; None if that is not sure."""
    kept = len(target) - 1
    if kept < 1 or kept > len(source) or target[-1] <= 0:
        return None
    if _common(source, target) < kept or list(target[:kept]).count(-1) > 1:
        return None
    rest = [size for size in source[kept:] if isinstance(size, int) and size > 0]
    if len(rest) != len(source) - kept or prod(rest) != target[-1] or not rest:
        return None
    return [0] * kept + [-1]


def _parted(
    source: Sequence[Dimension], target: Sequence[int], held: Collection[int]
) -> list[int] | None:
    """The same target without the number of the first part of the dimension that is taken apart.

    Heads lie one after another, so that theirs is the first of the parts that are free to change.
    Where a model has it otherwise, the graph does not hold its narrower layers: whoever narrows
    them has to look.

    Args:
        source: Sizes that arrive.
        target: Sizes wanted.
        held: Dimensions of the target whose sizes must stay.

    Returns:
        None if no single dimension is taken apart, or if that is not sure.
    """
    for kept in range(min(_common(source, target), len(source) - 1), -1, -1):
        after = len(source) - kept - 1
        parts, last = list(target[kept : len(target) - after]), target[len(target) - after :]
        if len(parts) < 2 or min(parts) <= 0 or prod(parts) != source[kept]:
            continue
        if list(last) != list(source[kept + 1 :]) or list(target[:kept]).count(-1) > 1:
            continue
        for place, size in enumerate(parts):
            if size > 1 and kept + place not in held:
                parts[place] = -1
                return [0] * kept + parts + list(last)
    return None


def _picked(
    node: onnx.NodeProto,
    rank: int,
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    constants: Mapping[str, onnx.TensorProto],
) -> set[int]:
    """Dimensions of a reshape's output from which parts are picked by number, such as that of
    queries, keys and values."""
    found: set[int] = set()
    waiting = [(node.output[0], list(range(rank)))]
    while waiting:
        value, places = waiting.pop()
        for reader in readers.get(value, ()):
            attributes = {a.name: helper.get_attribute_value(a) for a in reader.attribute}
            if reader.input[0] != value:
                continue
            if reader.op_type == "Transpose":
                moved = attributes.get("perm", range(len(places))[::-1])
                waiting.append((reader.output[0], [places[place] for place in moved]))
            elif reader.op_type in ("Split", "Gather"):
                found.add(places[attributes.get("axis", 0)])
            elif reader.op_type == "Slice":
                axes = constants.get((*reader.input, "", "")[3])
                numbers = range(len(places)) if axes is None else numpy_helper.to_array(axes)
                found |= {places[int(axis)] for axis in numbers}
    return found


def _common(source: Sequence[Dimension], target: Sequence[int]) -> int:
    """How many dimensions at the front stay as they are."""
    count = 0
    for one, other in zip(source, target, strict=False):
        # A free batch is the only dimension that the exporter leaves to be counted.
        if one == 0 or not (one == other or (other == -1 and isinstance(one, str))):
            break
        count += 1
    return count


def _shape(value: onnx.ValueInfoProto) -> tuple[Dimension, ...]:
    """Sizes, names of free dimensions, and 0 for what is not known."""
    return tuple(dim.dim_param or int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
