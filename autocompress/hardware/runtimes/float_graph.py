"""The record of a model as an ONNX graph with a hole for each layer, and its sketch where a model
has no graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx
from onnx import helper
from torch import Tensor, nn

from autocompress.model.layer import Layer
from autocompress.model.sums import Sum

OPSET = 21  # the first with int4 tensors
HOLE = "autocompress.Layer"
STORED_HOLE = "autocompress.Weight"  # in the place of a tensor of a layer that is only stored
DOMAIN = "autocompress"

Dimension: TypeAlias = tuple[int, int]  # number of an input, and of one of its dimensions


@dataclass(frozen=True)
class FloatGraph:
    """A model without its layers.

    Args:
        proto: Optimised graph in which each call of a layer is one node `autocompress.Layer` that
            bears the layer's name; the layers' weights are not in it.  Weight and bias of a layer
            that is only stored are nodes `autocompress.Weight`.
        layers: The layers that are holes, in model order.
        modules: Their dense modules, and those of `stored`.
        static_batch: Batch size that the graph is bound to; 0 when it takes any.
        sums: Additions that may be rounded; each is an `Add` node that bears its name.
        stored: Treated layers that run on no other kernels than the dense ones.
        is_exported: Whether it computes the model; else it is a `sketch`.
        is_dynamic: Whether other dimensions than the batch are free, such as the length of a text.
    """

    proto: onnx.ModelProto
    layers: tuple[Layer, ...]
    modules: dict[str, nn.Module]
    static_batch: int
    sums: Mapping[str, Sum] = field(default_factory=dict)
    stored: tuple[Layer, ...] = ()
    is_exported: bool = True
    is_dynamic: bool = False

    def layer(self, name: str) -> Layer:
        """A layer of either sort."""
        return next(layer for layer in (*self.layers, *self.stored) if layer.name == name)

    def holes(self) -> dict[str, list[onnx.NodeProto]]:
        """Layer name to its nodes: one a call, or one a tensor of a layer that is only stored."""
        layers = (*self.layers, *self.stored)
        found: dict[str, list[onnx.NodeProto]] = {layer.name: [] for layer in layers}
        for node in self.proto.graph.node:
            if node.op_type in (HOLE, STORED_HOLE):
                found[node.name].append(node)
        return found


def sketch(
    model: nn.Module, layers: Sequence[Layer], example_inputs: tuple[Tensor, ...]
) -> FloatGraph:
    """The layers of a model that cannot be exported, in running order and with nothing between:
    it counts and prices them, and cannot be run.

    Args:
        model: Module in evaluation mode.
        layers: What the trace found.
        example_inputs: Positional inputs of one forward pass.
    """
    treated = tuple(layer for layer in layers if layer.is_treated)
    nodes = []
    for layer in treated:
        for call in range(layer.calls if layer.is_operator else 1):
            name = f"{layer.name}/{call}"
            if layer.is_operator:
                hole = helper.make_node(HOLE, [f"{name}/in"], [f"{name}/out"], domain=DOMAIN)
            else:
                hole = helper.make_node(STORED_HOLE, [], [name], domain=DOMAIN, part="weight")
            hole.name = layer.name
            nodes.append(hole)
    inputs = [
        helper.make_tensor_value_info(
            f"input_{index}",
            helper.np_dtype_to_tensor_dtype(value.numpy().dtype),
            [None, *value.shape[1:]],
        )
        for index, value in enumerate(example_inputs)
    ]
    graph = helper.make_graph(nodes, "sketch", inputs, [])
    return FloatGraph(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]),
        tuple(layer for layer in treated if layer.is_operator),
        {layer.name: model.get_submodule(layer.name) for layer in treated},
        0,
        {},
        tuple(layer for layer in treated if not layer.is_operator),
        is_exported=False,
    )
