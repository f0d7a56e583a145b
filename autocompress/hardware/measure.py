"""Measures single operations: the entries of a table, and the prices that they make alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timezone

from autocompress.hardware.candidates import Menus
from autocompress.hardware.clock import Progress, bound
from autocompress.hardware.cost_model import Edge, IntegerSum, LatencyPrices
from autocompress.hardware.device import Device
from autocompress.hardware.imported import sheet_table
from autocompress.hardware.operations import boundaries, operations_of
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.runtime import made_up
from autocompress.hardware.runtimes.single_op import boundary_signature, layer_signature
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
    """A table with every operation that `classes` need.

    On a device that is measured it is this machine's cached table; what is missing is measured and
    saved.  One that is known from a data sheet has estimates where nothing was imported.

    Args:
        graph: The exported model; gives layers and modules.
        classes: Layer name to kernel classes.
        device: Where it runs.
        progress: Called with what is being done and the share that is done.
    """
    wanted = operations_of(graph, classes, device.precisions)
    if device.sheet is not None:
        return sheet_table(wanted, device)
    table = cached_table(device)
    missing = [wanted[name] for name in wanted if name not in table.entries]
    entries = {}
    for index, operation in enumerate(missing):
        if progress:
            progress("timing operations", index / len(missing))
        program = operation.program()
        runner = device.engine.open(program, device.threads)
        run = bound(runner, made_up(program.proto))
        timing = interleaved({"op": run}, BLOCKS, BLOCK_MS, clock=device.engine.clock)["op"]
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entries[operation.signature] = Entry(timing.p20_ms, timing.spread, timing.blocks, now)
    if entries:
        table = table.with_entries(entries)
        table.save(cache_path(device))
    return table


def isolated_prices(
    graph: FloatGraph,
    classes: Menus,
    table: LatencyTable,
    precisions: tuple[str, ...] = ("float32", "int8"),
) -> LatencyPrices:
    """Times of single operations, arranged as prices.

    Args:
        graph: The exported model.
        classes: Layer name to kernel classes.
        table: What is known.
        precisions: Of the device; without `int8` precision never changes.

    Raises:
        DeviceError: If an operation is not in the table.
    """
    layers = [layer for layer in graph.layers if layer.name in classes]
    units = {
        layer.name: {
            option.id: layer.calls
            * table.p20_ms(layer_signature(layer, graph.modules[layer.name], option))
            for option in classes[layer.name]
        }
        for layer in layers
    }
    if "int8" not in precisions:
        return LatencyPrices(0.0, units, ())
    edges = _edges(layers, table)
    return LatencyPrices(0.0, units, edges, _sums(graph, units, edges))


def _edges(layers: Sequence[Layer], table: LatencyTable) -> tuple[Edge, ...]:
    """Every way on which precision may change."""
    names = {layer.name for layer in layers}
    times = {
        (layer.name, operator): layer.calls * table.p20_ms(boundary_signature(operator, shape))
        for layer in layers
        for operator, shape in boundaries(layer)
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
    return tuple(edges)


def _sums(
    graph: FloatGraph, layers: Collection[str], edges: Sequence[Edge]
) -> tuple[IntegerSum, ...]:
    """The additions that integers may do: they spare what their operands pay to leave integers,
    and what their readers pay to come back to them."""
    down = {edge.tail: edge.down_ms for edge in edges if edge.head is None}
    up = {edge.head: edge.up_ms for edge in edges if edge.tail is None}
    sums = []
    for found in graph.sums.values():
        around = found.around
        if all(name in layers for name in around.layers):
            spared = [down[name] for name in around.operands if name in down]
            spared += [up[name] for name in around.readers if name in up]
            sums.append(IntegerSum(around.layers, sum(spared), len(spared)))
    return tuple(sums)
