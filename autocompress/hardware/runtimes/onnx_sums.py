"""How rounded sums are written in ONNX: so that the runtime adds integers."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

from autocompress.compression.treated import Grid
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_layer import grid_arrays
from autocompress.hardware.runtimes.onnx_nodes import LayerNodes


@dataclass(frozen=True)
class SumNodes:
    """One sum of a float graph.

    Args:
        name: Its name.
        add: The node that adds.
        relu: The ReLU that alone reads it, if there is one.
    """

    name: str
    add: onnx.NodeProto
    relu: onnx.NodeProto | None

    @property
    def value(self) -> str:
        """The tensor that others read."""
        return str((self.relu or self.add).output[0])

    def rounded(self, grid: Grid) -> LayerNodes:
        """What is written where the sum is rounded: both operands are on grids, and so is the sum,
        which makes a `QLinearAdd`.  A grid that begins at zero cuts off what the ReLU would."""
        named = [(f"{self.name}/{part}", array) for part, array in grid_arrays(grid)]
        stored = [numpy_helper.from_array(array, name) for name, array in named]
        scale, zero = (name for name, _ in named)
        total, codes = f"{self.name}/sum", f"{self.name}/codes"
        nodes = [helper.make_node("Add", self.add.input, [total])]
        if self.relu is not None and grid.zero_point:
            nodes.append(helper.make_node("Relu", [total], [f"{self.name}/relu"]))
        nodes += [
            helper.make_node("QuantizeLinear", [nodes[-1].output[0], scale, zero], [codes]),
            helper.make_node("DequantizeLinear", [codes, scale, zero], [self.value]),
        ]
        return LayerNodes(nodes, stored)


def sum_nodes(graph: FloatGraph) -> dict[str, SumNodes]:
    """The sums of a graph by name."""
    adds = {
        node.output[0]: node
        for node in graph.proto.graph.node
        if node.op_type == "Add" and node.name in graph.sums
    }
    relus = {
        adds[node.input[0]].name: node
        for node in graph.proto.graph.node
        if node.op_type == "Relu" and node.input[0] in adds
    }
    return {
        add.name: SumNodes(
            add.name,
            add,
            relus.get(add.name) if graph.sums[add.name].around.is_rectified else None,
        )
        for add in adds.values()
    }
