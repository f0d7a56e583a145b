"""The operations that a model needs prices of: each with signature, work and programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from autocompress.compression.moments import activate
from autocompress.compression.treated import build_module
from autocompress.hardware.candidates import Menus
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.runtime import Program
from autocompress.hardware.runtimes.single_op import (
    boundary_model,
    boundary_signature,
    layer_model,
    layer_signature,
)
from autocompress.hardware.runtimes.stand_in import stand_in
from autocompress.hardware.work import Work, boundary_work, layer_work
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option


@dataclass(frozen=True)
class Operation:
    """One operation, to be timed alone or estimated.

    Args:
        signature: Everything that its time depends on; its key in a table.
        work: What each of its operators has to do.
        program: Makes it in the forms that runtimes take.
    """

    signature: str
    work: tuple[Work, ...]
    program: Callable[[], Program]


def operations_of(
    graph: FloatGraph, classes: Menus, precisions: tuple[str, ...] = ("float32", "int8")
) -> dict[str, Operation]:
    """All operations that the layers under some kernel classes, and the changes of precision
    around them, come to, by signature.

    Args:
        graph: The exported model; gives layers and modules.
        classes: Layer name to kernel classes.
        precisions: Of the device; without `int8` precision never changes.
    """
    found: dict[str, Operation] = {}
    for layer in graph.layers:
        module = graph.modules[layer.name]
        for option in classes.get(layer.name, ()):
            signature = layer_signature(layer, module, option)
            program = partial(_layer_program, layer, module, option)
            found[signature] = Operation(signature, layer_work(layer, option), program)
        for operator, shape in boundaries(layer) if "int8" in precisions else ():
            signature = boundary_signature(operator, shape)
            work = (boundary_work(operator, shape),)
            found[signature] = Operation(
                signature, work, partial(_boundary_program, operator, shape)
            )
    return found


def boundaries(layer: Layer) -> list[tuple[str, tuple[int, ...]]]:
    """The changes of precision that there may be before and after a layer."""
    return [("QuantizeLinear", layer.input_shape), ("DequantizeLinear", layer.output_shape)]


def _layer_program(layer: Layer, module: nn.Module, option: Option) -> Program:
    def make() -> nn.Module:
        alone = build_module(module, stand_in(layer, module, option))
        return _Rectified(alone, layer.activation) if layer.activation else alone

    return Program(layer_model(layer, module, option), make)


def _boundary_program(operator: str, shape: tuple[int, ...]) -> Program:
    return Program(boundary_model(operator, shape))


class _Rectified(nn.Module):
    """A layer and the rectifier that alone reads it, as functions are called in most models."""

    def __init__(self, layer: nn.Module, activation: str) -> None:
        super().__init__()
        self.layer = layer
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.layer(x), self.activation)
