"""Measures what the cost model needs: single operations for the table, whole candidates for the fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.compression.treated import Treated
from autocompress.errors import DeviceError
from autocompress.hardware.cost_model import Candidate, Edge, LatencyPrices, fit_prices
from autocompress.hardware.device import Device, get_device, kernel_class
from autocompress.hardware.fit import Fit, Point, judge
from autocompress.hardware.runtimes.onnx_float import FloatGraph, export_float
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.hardware.runtimes.single_op import (
    boundary_model,
    boundary_signature,
    layer_model,
    layer_signature,
)
from autocompress.hardware.runtimes.stand_in import output_zero, stand_in
from autocompress.hardware.table import Entry, LatencyTable, cache_path, cached_table
from autocompress.hardware.timing import Timing, interleaved
from autocompress.model.layer import Layer, matrix_shape
from autocompress.search_space.option import Option

Menus = Mapping[str, Sequence[Option]]
Progress = Callable[[str, float], None]

BLOCKS, BLOCK_MS = 25, 3.0
TABLE_BLOCKS, TABLE_BLOCK_MS = 15, 2.0
# Sessions of all candidates are open at once, to be timed in turn.
OPEN_BYTES = 1_500_000_000


@dataclass(frozen=True)
class Profile:
    """What a device costs for one model.

    Args:
        device: Name of the device.
        prices: For the search.
        fit: How far to trust them.
    """

    device: str
    prices: LatencyPrices
    fit: Fit


def fit_latency(
    model: nn.Module,
    layers: Sequence[Layer],
    example_inputs: tuple[Tensor, ...],
    menus: Menus,
    generator: np.random.Generator,
    *,
    device: Device | None = None,
    graph: FloatGraph | None = None,
    held_out: int = 8,
    seconds: float = 60.0,
    progress: Progress | None = None,
) -> Profile:
    """Measure single operations that are not in the cached table, run whole candidates, fit.

    Args:
        model: The dense model, in evaluation mode.
        layers: What the trace found.
        example_inputs: Inputs of the timed forward pass; their batch size is the one timed.
        menus: Layer name to its options; the identity is always added.  Layers without a menu stay
            dense and belong to the constant.
        generator: Draws the candidates.
        device: `onnxruntime-cpu` by default.
        graph: The exported model, where the caller has it already.
        held_out: Candidates kept from the fit, to judge it.
        seconds: CPU time that whole-model runs may take, about.
        progress: Called with what is being done and the share that is done.

    Returns:
        Prices for every option of the menus, and their error on candidates the fit did not see.

    Raises:
        DeviceError: If nothing can be treated.
    """
    device = device or get_device("onnxruntime-cpu")
    say = progress or (lambda stage, share: None)
    graph = graph or export_float(model, layers, example_inputs)
    treated = {layer.name: layer for layer in graph.layers if menus.get(layer.name)}
    if not treated:
        raise DeviceError("no layer has options: there is no latency to predict")
    classes = {name: _classes(menus[name]) for name in treated}

    start = time.process_time()
    table = measure_table(graph, classes, device, say)
    isolated = isolated_prices(graph, classes, table)
    table_seconds = time.process_time() - start

    start = time.process_time()
    values = feeds(graph, example_inputs)
    runs = _run_count(graph, classes, values, held_out, seconds)
    candidates = draw_candidates(classes, runs + held_out, generator)
    models = {
        str(index): assemble(graph, stand_ins(graph, candidate), threads=device.threads)
        for index, candidate in enumerate(candidates)
    }
    timings = list(time_models(models, values, progress=say).values())
    measured = np.array([timing.p20_ms for timing in timings])
    fit_seconds = time.process_time() - start

    # The first ones hold the extremes (all float, all int8): the fit must see them.
    prices = fit_prices(isolated, candidates[:runs], measured[:runs])
    points = [
        Point(
            name=" ".join(f"{layer}={option.id}" for layer, option in candidate.items()),
            predicted_ms=prices.predict(candidate),
            measured_ms=float(measured[index]),
            macs=candidate_macs(graph.layers, candidate),
            held_out=index >= runs,
        )
        for index, candidate in enumerate(candidates)
    ]
    fit = judge(points, timings, table_seconds, fit_seconds)
    return Profile(device.name, _for_menus(prices, menus), fit)


def measure_table(
    graph: FloatGraph,
    classes: Menus,
    device: Device,
    progress: Progress | None = None,
) -> LatencyTable:
    """This machine's cached table with every operation that `classes` need; saves what it adds.

    Args:
        graph: The exported model; gives layers and modules.
        classes: Layer name to kernel classes.
        device: Where it runs.
        progress: Called with what is being done and the share that is done.
    """
    table = cached_table(device)
    wanted: dict[str, Callable[[], onnx.ModelProto]] = {}
    for layer in graph.layers:
        module = graph.modules[layer.name]
        for option in classes.get(layer.name, ()):
            signature = layer_signature(layer, module, option)
            wanted[signature] = lambda a=layer, b=module, c=option: layer_model(a, b, c)
        for operator, shape in _boundaries(layer):
            signature = boundary_signature(operator, shape)
            wanted[signature] = lambda a=operator, b=shape: boundary_model(a, b)
    missing = {name: make for name, make in wanted.items() if name not in table.entries}
    entries = {}
    for index, (signature, make) in enumerate(missing.items()):
        if progress:
            progress("timing operations", index / len(missing))
        session = open_session(make(), threads=device.threads)
        values = {value.name: _zeros(value.shape, value.type) for value in session.get_inputs()}
        timing = interleaved(
            {"op": lambda: session.run(None, values)},  # noqa: B023
            TABLE_BLOCKS,
            TABLE_BLOCK_MS,
        )["op"]
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entries[signature] = Entry(timing.p20_ms, timing.spread, timing.blocks, now)
    if entries:
        table = table.with_entries(entries)
        table.save(cache_path(device))
    return table


def isolated_prices(graph: FloatGraph, classes: Menus, table: LatencyTable) -> LatencyPrices:
    """Times of single operations, arranged as prices.

    Raises:
        DeviceError: If one is not in the table.
    """
    layers = [layer for layer in graph.layers if layer.name in classes]
    units = {
        layer.name: {
            option.id: table.p20_ms(layer_signature(layer, graph.modules[layer.name], option))
            for option in classes[layer.name]
        }
        for layer in layers
    }
    names = {layer.name for layer in layers}
    times = {
        (layer.name, operator): table.p20_ms(boundary_signature(operator, shape))
        for layer in layers
        for operator, shape in _boundaries(layer)
    }
    edges = [
        Edge(
            layer.source if layer.source in names else None,
            layer.name,
            times[layer.name, "QuantizeLinear"],
            times[layer.source if layer.source in names else layer.name, "DequantizeLinear"],
        )
        for layer in layers
    ]
    read = {edge.tail for edge in edges}
    edges += [
        Edge(layer.name, None, 0.0, times[layer.name, "DequantizeLinear"])
        for layer in layers
        if layer.name not in read
    ]
    return LatencyPrices(0.0, units, tuple(edges))


def draw_candidates(
    classes: Menus, count: int, generator: np.random.Generator
) -> list[dict[str, Option]]:
    """Distinct candidates of kernel classes: all dense, all int8, then random mixtures.

    The share of int8 layers differs from one to the next, so that every amount of mixing occurs.
    Fewer than `count` come back when there are no more.
    """
    int8 = {
        name: next((option for option in menu if option.activations == "int8"), menu[0])
        for name, menu in classes.items()
    }
    drawn = [{name: menu[0] for name, menu in classes.items()}]
    if int8 != drawn[0]:
        drawn.append(int8)
    tries = 0
    while len(drawn) < count and tries < 50 * count:
        tries += 1
        share = generator.random()
        candidate = {}
        for name, menu in classes.items():
            wanted = "int8" if generator.random() < share else "float32"
            options = [option for option in menu if option.activations == wanted] or list(menu)
            candidate[name] = options[int(generator.integers(len(options)))]
        if candidate not in drawn:
            drawn.append(candidate)
    return drawn


def stand_ins(graph: FloatGraph, candidate: Candidate) -> dict[str, Treated]:
    """Made-up treatments with the kernels of a candidate; grids of neighbours agree."""
    zeros = {layer.name: output_zero(layer) for layer in graph.layers}
    return {
        layer.name: stand_in(
            layer,
            graph.modules[layer.name],
            kernel_class(candidate[layer.name]),
            zeros.get(layer.source, 128),
        )
        for layer in graph.layers
        if not kernel_class(candidate.get(layer.name, Option())).is_identity
    }


def time_models(
    models: Mapping[str, onnx.ModelProto],
    values: Mapping[str, NDArray[np.float32]],
    blocks: int = BLOCKS,
    block_ms: float = BLOCK_MS,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time whole models in turn, each under the loader settings that it carries.

    Args:
        models: By name.
        values: Input name to array.
        blocks: Rounds.
        block_ms: CPU time of a block.
        progress: Called with what is being done and the share that is done.
    """
    runs: dict[str, Callable[[], object]] = {}
    for index, (name, proto) in enumerate(models.items()):
        if progress:
            progress("opening candidates", index / len(models))
        session = open_session(proto)
        runs[name] = lambda session=session: session.run(None, values)
    if progress:
        progress("timing candidates", 0.0)
    return interleaved(runs, blocks, block_ms)


def feeds(graph: FloatGraph, inputs: tuple[Tensor, ...]) -> dict[str, NDArray[np.float32]]:
    """Input name to array, in the order of the model's arguments."""
    names = [value.name for value in graph.proto.graph.input]
    return {name: value.detach().numpy() for name, value in zip(names, inputs, strict=True)}


def candidate_macs(layers: Sequence[Layer], candidate: Candidate) -> float:
    """Multiply-adds of a candidate's treated layers for the example inputs."""
    total = 0.0
    for layer in layers:
        option = candidate.get(layer.name, Option())
        share = 1.0
        if option.is_factored:
            rows, columns = matrix_shape(layer.weight_shape)
            share = layer.rank(option.rank) * (rows + columns) / (rows * columns)
        total += share * layer.macs
    return total


def _classes(menu: Sequence[Option]) -> tuple[Option, ...]:
    """Kernel classes of a menu; the identity comes first."""
    return tuple(dict.fromkeys([Option(), *(kernel_class(option) for option in menu)]))


def _for_menus(prices: LatencyPrices, menus: Menus) -> LatencyPrices:
    """Prices by option instead of by kernel class."""
    units = {
        name: {
            option.id: prices.unit(name, option) for option in dict.fromkeys([Option(), *menus[name]])
        }
        for name in prices.unit_ms
    }
    return LatencyPrices(prices.constant_ms, units, prices.edges)


def _run_count(
    graph: FloatGraph,
    classes: Menus,
    values: Mapping[str, NDArray[np.float32]],
    held_out: int,
    seconds: float,
) -> int:
    """How many candidates to calibrate on: ten, and more for the prices where time allows."""
    dense = assemble(graph, {})
    once = time_models({"dense": dense}, values, blocks=3)["dense"].p20_ms
    affordable = int(1000 * seconds / (BLOCKS * max(BLOCK_MS, once)))
    openable = OPEN_BYTES // max(1, dense.ByteSize())
    wanted = 10 + 2 * sum(map(len, classes.values()))
    return max(10, min(wanted, 90, affordable - held_out, openable - held_out))


def _boundaries(layer: Layer) -> list[tuple[str, tuple[int, ...]]]:
    return [("QuantizeLinear", layer.input_shape), ("DequantizeLinear", layer.output_shape)]


def _zeros(shape: Sequence[int], kind: str) -> NDArray[np.generic]:
    if kind == "tensor(uint8)":
        return np.full(shape, 130, np.uint8)
    return np.full(shape, 0.1, np.float32)
