"""Peak memory of activations, from the graph: what is alive while each operator runs.

Operators run in the order of the file, each reads whole inputs and writes a whole output beside
them; a tensor is kept until its last reader is done.  Weights and workspaces are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from autocompress.hardware.rest import VIEWS, Shapes
from autocompress.hardware.runtimes.float_graph import HOLE, FloatGraph
from autocompress.hardware.work import layer_work
from autocompress.search_space.option import Option

Candidate = Mapping[str, Option]


def peak_bytes(graph: FloatGraph, shapes: Shapes, candidate: Candidate) -> int:
    """The most bytes of activations that are alive at a time.

    Args:
        graph: The exported model.
        shapes: Of its tensors, as `tensor_shapes` gives them.
        candidate: Layer name to option; others are dense float32.  A tensor that an int8 layer
            writes, or that int8 layers alone read, has one byte a value.
    """
    nodes = graph.proto.graph.node
    root = _roots(graph)
    int8 = {name for name, option in candidate.items() if option.activations == "int8"}
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            if name in shapes and node.op_type not in VIEWS:
                readers.setdefault(root.get(name, name), []).append(index)
    made_by = {name: node for node in nodes for name in node.output}
    outputs = {root.get(value.name, value.name) for value in graph.proto.graph.output}

    def size(tensor: str) -> int:
        maker = made_by.get(tensor)
        is_written = maker is not None and maker.op_type == HOLE and maker.name in int8
        ends = [nodes[index] for index in readers.get(tensor, [])]
        is_read = bool(ends) and all(end.op_type == HOLE and end.name in int8 for end in ends)
        return math.prod(shapes[tensor]) * (1 if is_written or is_read else 4)

    layers = {layer.name: layer for layer in graph.layers}
    alive = {value.name for value in graph.proto.graph.input if value.name in shapes}
    peak = sum(map(size, alive))
    for index, node in enumerate(nodes):
        if node.op_type in VIEWS:
            continue
        made = {name for name in node.output if name in shapes}
        done = {
            tensor
            for tensor in alive | made
            if tensor not in outputs and max(readers.get(tensor, [-1])) <= index
        }
        now = sum(map(size, alive | made))
        option = candidate.get(node.name, Option()) if node.op_type == HOLE else Option()
        if option.is_factored:
            parts = layer_work(layers[node.name], option)
            middle = [int(part.written_bytes) for part in parts[:-1]]
            # The first factor fills the middle; then its input may go before the output comes.
            before, after = sum(map(size, alive)), sum(map(size, (alive - done) | made))
            between = sum(map(size, alive - done)) + max(map(sum, pairwise(middle)), default=0)
            now = max(before + middle[0], between, middle[-1] + after)
        peak = max(peak, now)
        alive = (alive | made) - done
    return peak


def _roots(graph: FloatGraph) -> dict[str, str]:
    """Tensor to the one that it is a view of."""
    root: dict[str, str] = {}
    for node in graph.proto.graph.node:
        if node.op_type in VIEWS:
            root[node.output[0]] = root.get(node.input[0], node.input[0])
    return root
