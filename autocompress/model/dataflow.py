"""How values run from layer to layer: which ReLU follows one, whose output reaches the next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from autocompress.model.exporting import exported_graph

_RELU = {"relu", "relu_"}
_RELU6 = {"relu6", "relu6_"}
_BOUNDED = {"hardtanh", "hardtanh_"}  # ReLU6 where the bounds are 0 and 6
# Operations whose outputs lie in the range of their first input.
_KEEPS_RANGE = _RELU | {
    "_unsafe_view",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "dropout",
    "dropout_",
    "feature_dropout",
    "flatten",
    "max_pool2d",
    "permute",
    "reshape",
    "squeeze",
    "squeeze_",
    "transpose",
    "unflatten",
    "unsqueeze",
    "view",
}


@dataclass(frozen=True)
class Flow:
    """What surrounds a layer.

    Args:
        activation: `relu` or `relu6` when such a node is the only reader of the layer's output,
            else empty.
        source: Layer whose output arrives through operations that keep the range of values
            (ReLU, ReLU6, max pooling, reshapes), or empty.
    """

    activation: str
    source: str


def dataflow(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, Flow]:
    """The `Flow` of every `Conv2d` and `Linear` that the example inputs reach.

    Args:
        model: Module in evaluation mode; it is not changed.
        example_inputs: Positional inputs of one forward pass.

    Returns:
        Layer name to `Flow`; empty when the model cannot be exported, which means that nothing is
        known.  A layer that runs more than once, or under more than one name, has an empty `Flow`.
    """
    layers = {
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    graph = exported_graph(model, example_inputs)
    if graph is None:
        return {}
    calls = _calls(graph, layers)
    runs = Counter(id(model.get_submodule(name)) for name in calls for _ in calls[name])
    single = {name for name in calls if runs[id(model.get_submodule(name))] == 1}
    owners = {calls[name][0]: name for name in single}
    flows = dict.fromkeys(calls, Flow("", ""))
    for name in single:
        node = calls[name][0]
        flows[name] = Flow(_activation(node), _source(node, owners))
    return flows


def _calls(graph: fx.Graph, layers: set[str]) -> dict[str, list[fx.Node]]:
    """Layer name to the nodes that compute it, in running order."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op != "call_function" or _operator(node) not in ("conv2d", "linear"):
            continue
        stack = node.meta.get("nn_module_stack") or {}
        # A repeated call is marked by a suffix `@1` on the module's path.
        paths = [path.split("@")[0] for path, _ in stack.values()]
        if paths and paths[-1] in layers:
            calls.setdefault(paths[-1], []).append(node)
    return calls


def _operator(node: fx.Node) -> str:
    """`relu` for `aten.relu.default`; empty for anything that is no tensor operator."""
    target = node.target
    return target._opname if isinstance(target, torch._ops.OpOverload) else ""


def _activation(node: fx.Node) -> str:
    readers = list(node.users)
    return _rectifier(readers[0]) if len(readers) == 1 else ""


def _rectifier(node: fx.Node) -> str:
    """`relu`, `relu6` or empty."""
    operator = _operator(node)
    if operator in _RELU:
        return "relu"
    bounds = [*node.args[1:3], node.kwargs.get("min_val"), node.kwargs.get("max_val")]
    bounded = operator in _BOUNDED and [value for value in bounds if value is not None] == [0, 6]
    return "relu6" if operator in _RELU6 or bounded else ""


def _pads_zeros(node: fx.Node) -> bool:
    """Whether it sets zeros around its input, which every grid holds."""
    mode, *value = [*node.args[2:], node.kwargs.get("value")] if _operator(node) == "pad" else [""]
    return mode == "constant" and not any(value)


def _source(node: fx.Node, owners: dict[fx.Node, str]) -> str:
    tail = node.args[0]
    while isinstance(tail, fx.Node):
        if tail in owners:
            return owners[tail]
        keeps = _operator(tail) in _KEEPS_RANGE or _rectifier(tail) or _pads_zeros(tail)
        if tail.op != "call_function" or not keeps:
            return ""
        tail = tail.args[0]
    return ""
