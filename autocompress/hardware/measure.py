"""Measures single operations: the entries of a table, and the prices that they make alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from autocompress.hardware.candidates import Menus
from autocompress.hardware.clock import Progress, runner
from autocompress.hardware.cost_model import Edge, LatencyPrices
from autocompress.hardware.device import Device
from autocompress.hardware.runtimes.onnx_float import FloatGraph
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.hardware.runtimes.single_op import (
    boundary_model,
    boundary_signature,
    layer_model,
    layer_signature,
)
from autocompress.hardware.table import Entry, LatencyTable, cache_path, cached_table
from autocompress.hardware.timing import interleaved
from autocompress.model.layer import Layer

BLOCKS, BLOCK_MS = 15, 2.0


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
            wanted[signature] = partial(layer_model, layer, module, option)
        for operator, shape in _boundaries(layer):
            signature = boundary_signature(operator, shape)
            wanted[signature] = partial(boundary_model, operator, shape)
    missing = {name: make for name, make in wanted.items() if name not in table.entries}
    entries = {}
    for index, (signature, make) in enumerate(missing.items()):
        if progress:
            progress("timing operations", index / len(missing))
        session = open_session(make(), threads=device.threads)
        values = {value.name: _zeros(value.shape, value.type) for value in session.get_inputs()}
        timing = interleaved({"op": runner(session, values)}, BLOCKS, BLOCK_MS)["op"]
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


def _boundaries(layer: Layer) -> list[tuple[str, tuple[int, ...]]]:
    return [("QuantizeLinear", layer.input_shape), ("DequantizeLinear", layer.output_shape)]


def _zeros(shape: Sequence[int], kind: str) -> NDArray[np.generic]:
    if kind == "tensor(uint8)":
        return np.full(shape, 130, np.uint8)
    return np.full(shape, 0.1, np.float32)
