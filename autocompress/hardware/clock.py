"""Times whole ONNX models against each other on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from autocompress.hardware.runtimes.catalogue import DEFAULT
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.runtime import Program, Runner, Runtime, Values
from autocompress.hardware.timing import Timing, interleaved

Progress = Callable[[str, float], None]
Models = Mapping[str, onnx.ModelProto | Program]


def time_models(
    models: Models,
    values: Values,
    blocks: int = 25,
    block_ms: float = 3.0,
    progress: Progress | None = None,
    runtime: Runtime = DEFAULT,
) -> dict[str, Timing]:
    """Time whole models in turn, each under the loader settings that it carries.

    Args:
        models: By name.
        values: Input name to array.
        blocks: Rounds.
        block_ms: CPU time of a block.
        progress: Called with what is being done and the share that is done.
        runtime: What runs them.
    """
    runs: dict[str, Callable[[], object]] = {}
    for index, (name, model) in enumerate(models.items()):
        if progress:
            progress("opening candidates", index / len(models))
        program = model if isinstance(model, Program) else Program(model)
        runs[name] = bound(runtime.open(program), values)
    if progress:
        progress("timing candidates", 0.0)
    return interleaved(runs, blocks, block_ms, clock=runtime.clock)


def time_when_calm(
    models: Models,
    values: Values,
    reference: str,
    expected_ms: float,
    seconds: float = 30.0,
    progress: Progress | None = None,
    runtime: Runtime = DEFAULT,
) -> dict[str, Timing]:
    """Time whole models, again and again while the machine is slower than when it was profiled.

    Args:
        models: By name.
        values: Input name to array.
        reference: Name of the model whose latency is known, such as the dense one.
        expected_ms: That latency, such as `prices.predict({})`.
        seconds: Wall time after which the quickest attempt is taken as it is.
        progress: Called with what is being done and the share that is done.
        runtime: What runs them.

    Returns:
        The timings of the attempt in which the reference was quickest.
    """
    start = time.monotonic()
    best = time_models(models, values, progress=progress, runtime=runtime)
    while best[reference].p20_ms > 1.05 * expected_ms and time.monotonic() - start < seconds:
        time.sleep(0.5)
        again = time_models(models, values, runtime=runtime)
        best = min(best, again, key=lambda timings: timings[reference].p20_ms)
    return best


def feeds(graph: FloatGraph, inputs: tuple[Tensor, ...]) -> dict[str, NDArray[np.generic]]:
    """Input name to array, in the order of the model's arguments."""
    names = [value.name for value in graph.proto.graph.input]
    return {name: value.detach().numpy() for name, value in zip(names, inputs, strict=True)}


def bound(runner: Runner, values: Values) -> Callable[[], object]:
    """One forward pass as a function without arguments."""
    return lambda: runner(values)
