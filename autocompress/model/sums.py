"""Residual additions as modules, so that a candidate can round them.

Where every layer that gives or reads a sum runs on integers, the runtime can add integers as well,
if the sum itself lies on a grid.  For that an addition must be something that can be swapped, as a
layer can: here the model is traced with `torch.fx`, and such additions become modules.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from autocompress.errors import TaskError
from autocompress.model.gates import Recurrent
from autocompress.model.memory import shared_copy
from autocompress.model.task import Inputs
from autocompress.model.tied import TiedEmbedding
from autocompress.model.trace import run

FOLDER = "sums"
_FUNCTIONS = {operator.add, operator.iadd, torch.add}
_METHODS = {"add", "add_"}
_RELU_FUNCTIONS = {torch.relu, torch.relu_, nn.functional.relu}
_RELU_METHODS = {"relu", "relu_"}


@dataclass(frozen=True)
class Around:
    """What gives and reads a sum.

    Args:
        operands: Names of the layers and of the other sums that are added up.
        readers: Names of the layers that read the sum, in running order; at least one.
        layers: All layers that must run on integers before the sum can: operands and readers, and
            those of the sums among the operands.
        is_rectified: Whether a ReLU alone reads the sum; `readers` are then the ReLU's.
    """

    operands: tuple[str, ...]
    readers: tuple[str, ...]
    layers: tuple[str, ...]
    is_rectified: bool


class Sum(nn.Module):
    """`x + y`.

    Args:
        around: What gives and reads it.
    """

    def __init__(self, around: Around) -> None:
        super().__init__()
        self.around = around

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class SumTracer(fx.Tracer):
    """Traces a model whose sums stay modules, as do those that look at what they consist of."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, Sum | TiedEmbedding | Recurrent)
        return whole or super().is_leaf_module(m, module_qualified_name)


def sums_of(model: nn.Module) -> dict[str, Sum]:
    """The sums of a model by name, in running order; none before `expose_sums`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Sum)}


def expose_sums(model: nn.Module, example_inputs: Inputs | None = None) -> nn.Module:
    """A copy of a model, which shares its tensors, in which additions between layers are modules.

    Args:
        model: In evaluation mode; it is not changed.
        example_inputs: On these the copy must give the same outputs bit by bit; not checked
            without them.

    Returns:
        A copy of the same class and with the same state; the model itself where it has no such
        additions, cannot be traced, or gives other outputs when it is.
    """
    exposed = shared_copy(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = SumTracer().trace(exposed)
            found = _Additions(exposed, graph).around
            if not found:
                return model
            _put_modules(exposed, graph, found)
        if example_inputs is not None and not _agree(model, exposed, example_inputs):
            return model
    except Exception:  # noqa: BLE001 - runs the user's forward on stand-ins
        return model
    return exposed


def _put_modules(model: nn.Module, graph: fx.Graph, found: Mapping[fx.Node, Around]) -> None:
    """Makes modules of additions, and the traced graph the model's way forward."""
    model.add_module(_folder(model), nn.ModuleList(Sum(around) for around in found.values()))
    for index, node in enumerate(found):
        with graph.inserting_before(node):
            called = graph.call_module(f"{_folder(model)}.{index}", node.args)
        node.replace_all_uses_with(called)
        graph.erase_node(node)
    own = type(model)
    forward = type(fx.GraphModule(model, graph)).forward
    # A class of its own: what else the user's class has, such as attributes that `evaluate` reads,
    # stays as it is.
    members = {"forward": forward, "__module__": own.__module__, "__doc__": own.__doc__}
    model.__class__ = type(own.__name__, (own,), members)


def _folder(model: nn.Module) -> str:
    """Name of the list of sums: one that the model does not use itself."""
    name = FOLDER
    while hasattr(model, name) and not _holds_sums(getattr(model, name)):
        name += "_"
    return name


def _holds_sums(value: object) -> bool:
    return isinstance(value, nn.ModuleList) and all(isinstance(part, Sum) for part in value)


class _Additions:
    """Finds the additions of a traced model that an integer kernel could compute."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model = model
        calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
        self.folder = _folder(model)
        self.once = {name for name in calls if calls.count(name) == 1}
        self.around: dict[fx.Node, Around] = {}
        self.names: dict[fx.Node, str] = {}
        for node in graph.nodes:
            if found := self._look(node):
                self.names[node] = f"{self.folder}.{len(self.names)}"
                self.around[node] = found

    def _look(self, node: fx.Node) -> Around | None:
        """What is around an addition; None for any other node."""
        is_function = node.op == "call_function" and node.target in _FUNCTIONS
        if not (is_function or (node.op == "call_method" and node.target in _METHODS)):
            return None
        if len(node.args) != 2 or node.kwargs:
            return None
        operands = [self._origin(value) for value in node.args]
        if any(not name for name, _ in operands):
            return None
        value = self._rectified(node)
        readers = [user.target for user in self._readers(value) if self._is_layer(user)]
        if not readers:
            return None
        layers = [name for name, around in operands if around is None] + [str(r) for r in readers]
        for _, around in operands:
            layers += around.layers if around else ()
        return Around(
            tuple(name for name, _ in operands),
            tuple(map(str, readers)),
            tuple(dict.fromkeys(layers)),
            value is not node,
        )

    def _origin(self, value: object) -> tuple[str, Around | None]:
        """Name of the layer or sum that gives a value, what is around the sum; else empty."""
        node = value
        while isinstance(node, fx.Node) and self._is_idle(node):
            node = node.args[0]
        if not isinstance(node, fx.Node):
            return "", None
        if self._is_relu(node):
            (before,) = node.args[:1]
            while isinstance(before, fx.Node) and self._is_idle(before) and len(before.users) == 1:
                before = before.args[0]
            if not isinstance(before, fx.Node) or len(before.users) > 1:
                return "", None
            node = before
        elif node in self.around and self.around[node].is_rectified:
            return "", None
        if self._is_layer(node):
            return str(node.target), None
        if node in self.around:
            return self.names[node], self.around[node]
        return "", None

    def _rectified(self, node: fx.Node) -> fx.Node:
        """The ReLU that alone reads a node, or else the node."""
        readers = list(self._readers(node))
        return readers[0] if len(readers) == 1 and self._is_relu(readers[0]) else node

    def _is_layer(self, node: fx.Node) -> bool:
        if node.op != "call_module" or node.target not in self.once:
            return False
        return type(self.model.get_submodule(str(node.target))) in (nn.Conv2d, nn.Linear)

    def _is_relu(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.model.get_submodule(str(node.target)), nn.ReLU)
        if node.op == "call_method":
            return node.target in _RELU_METHODS
        return node.op == "call_function" and node.target in _RELU_FUNCTIONS

    def _is_idle(self, node: fx.Node) -> bool:
        """Whether a node gives back what it reads, in evaluation mode."""
        idle = nn.Identity | nn.Dropout
        target = str(node.target)
        return node.op == "call_module" and isinstance(self.model.get_submodule(target), idle)

    def _readers(self, node: fx.Node) -> Iterator[fx.Node]:
        """The readers of a node; those of a module that does nothing in its place."""
        for user in node.users:
            if self._is_idle(user):
                yield from self._readers(user)
            else:
                yield user


def _agree(model: nn.Module, exposed: nn.Module, inputs: Inputs) -> bool:
    try:
        before, after = run(model, inputs), run(exposed, inputs)
    except TaskError:
        return False
    return isinstance(before, Tensor) and torch.equal(before, after)
