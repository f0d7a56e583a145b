"""The joint between the prices and what runs a model: opening it, and looking at what really runs.

A runtime is one file that keeps `Runtime`, and a line in `catalogue.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from autocompress.compression.treated import Treated
from autocompress.hardware.timing import Clock

Values = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Program:
    """One computation in the two forms that runtimes take.

    Args:
        proto: As an ONNX model; also gives names and types of the inputs.
        module: Makes it as a torch module, asked only by runtimes that take modules; None where
            there is no such form.
    """

    proto: onnx.ModelProto
    module: Callable[[], nn.Module] | None = None


class Runner(Protocol):
    """An opened model: input name to array, to its outputs in order."""

    def __call__(self, values: Values) -> list[NDArray[np.generic]]: ...


class Runtime(Protocol):
    """What runs models on a device.

    Attributes:
        package: Name of the package, as `pip` knows it.
        reads_onnx: Whether it takes the ONNX file that ships; one that does not runs the module.
        is_exact: Whether float layers compute in float32, so that the torch module is what runs
            but for the order of sums.
        clock: Nanoseconds that a run takes are its difference: of the process where the processor
            computes, on the wall where something else does.
    """

    package: str
    reads_onnx: bool
    is_exact: bool
    clock: Clock

    def missing(self) -> str:
        """Why it cannot run here, with the command that helps; empty when it can."""
        ...

    def version(self) -> str:
        """Version of the package.

        Raises:
            DeviceError: If it is not installed.
        """
        ...

    def open(self, program: Program, threads: int | None = None) -> Runner:
        """Prepare a model to run.

        Args:
            program: What to run.
            threads: Threads inside one operator; None takes what the ONNX model asks for.

        Raises:
            DeviceError: If the runtime is not installed or cannot take the program.
        """
        ...

    def check(self, proto: onnx.ModelProto, treated: Mapping[str, Treated]) -> dict[str, str]:
        """Make sure that layers run as they were priced: int8 ones on int8 operators, no other.

        Args:
            proto: A candidate written by `assemble`.
            treated: Layer name to what is stored; other layers are dense float32.

        Returns:
            Name of each step of each layer (`<layer>/step0`) to the operator that runs it.

        Raises:
            DeviceError: Naming the layer and the operator.
        """
        ...


def input_names(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Names of a model's inputs, in order."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    return tuple(value.name for value in proto.graph.input if value.name not in stored)


def batch_of(proto: onnx.ModelProto) -> int:
    """Rows that a model is bound to; 0 when it takes any."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    return int(dims[0].dim_value) if dims else 0


def made_up(proto: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Inputs for a model whose shapes are all fixed: times do not depend on the values."""
    values: dict[str, NDArray[np.generic]] = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [int(dim.dim_value) for dim in kind.shape.dim]
        is_uint8 = kind.elem_type == TensorProto.UINT8
        values[value.name] = (
            np.full(shape, 130, np.uint8) if is_uint8 else np.full(shape, 0.1, np.float32)
        )
    return values
