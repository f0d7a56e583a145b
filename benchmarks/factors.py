"""Low rank against Tucker cores, one convolution at a time: latency of the layer alone, in turn
with its rivals, and relative output error on inputs that none was fitted to.

    python benchmarks/factors.py --study vgg_small_fashion --json factors.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from house_format import study_folder, write_figures
from rich.console import Console
from rich.table import Table

from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import collect
from autocompress.hardware.clock import bound
from autocompress.hardware.device import Device, get_device, kernel_class, reject
from autocompress.hardware.operations import operations_of
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.runtime import made_up
from autocompress.hardware.runtimes.single_op import layer_signature
from autocompress.hardware.timing import interleaved
from autocompress.model.canonical import canonical
from autocompress.model.task import load_task
from autocompress.model.trace import trace
from autocompress.search_space.factors import factor_shapes
from autocompress.search_space.option import Option

PACKAGES = ("autocompress", "numpy", "onnx", "onnxruntime", "torch")
RANKS = (0.75, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05)
CORES = (0.75, 0.625, 0.5, 0.375, 0.25)
BLOCKS, BLOCK_MS = 60, 3.0
NONE = ""


@dataclass(frozen=True)
class Point:
    """One option of one layer.

    Args:
        layer: Its name.
        option: What it is.
        weights: How many numbers are stored.
        latency_ms: Of the layer alone.
        latency_percent: Of the dense float layer.
        error: Relative output error on inputs that it was not fitted to.
    """

    layer: str
    option: Option
    weights: int
    latency_ms: float
    latency_percent: float
    error: float

    def as_dict(self) -> dict[str, Any]:
        """A row of the figures."""
        return {**vars(self), "option": self.option.id}


def menu(device: Device) -> list[Option]:
    """Whole, of low rank and around a core, in float32 and on the int8 kernels."""
    ways = [Option(), device.suited(Option(8, activations="int8"))]
    factors = [{}, *({"rank": share} for share in RANKS), *({"tucker": share} for share in CORES)]
    return [
        Option(way.bits, activations=way.activations, **factor)
        for way, factor in product(ways, factors)
    ]


def measure(folder: Path, names: Sequence[str], device: Device) -> Iterator[list[Point]]:
    """The points of each layer."""
    task = load_task(folder)
    example, inputs = task.example_inputs(), task.calibration()
    model = canonical(task.model(), example)
    every = trace(model, example)
    layers = [layer for layer in every if layer.name in names]
    missing = set(names) - {layer.name for layer in layers}
    if missing:
        raise SystemExit(f"{folder}: no layer {', '.join(sorted(missing))}")
    cut = 3 * len(inputs[0]) // 4
    fitted = collect(model, layers, tuple(tensor[:cut] for tensor in inputs))
    fresh = collect(model, layers, tuple(tensor[cut:] for tensor in inputs))
    graph = export_float(model, every, example)
    for layer in layers:
        module = model.get_submodule(layer.name)
        weight = module.weight.detach().flatten(1).double()  # type: ignore[operator]
        moment = fresh[layer.name].second_moment
        whole = float(((weight @ moment) * weight).sum())
        options = [option for option in menu(device) if not reject(option, layer, device)]
        classes = tuple(dict.fromkeys(map(kernel_class, options)))
        runs = {}
        for signature, operation in operations_of(graph, {layer.name: classes}, ("",)).items():
            program = operation.program()
            runner = device.engine.open(program, device.threads)
            runs[signature] = bound(runner, made_up(program.proto))
        print(f"{layer.name}: timing {len(runs)} operations", file=sys.stderr)
        timings = interleaved(runs, BLOCKS, BLOCK_MS)
        errors = {Option(): 0.0}
        stored = [option for option in options if not option.is_identity]
        for option, treated, _ in compress_layer(layer, module, fitted[layer.name], stored):
            change = treated.matrix().double() - weight
            errors[option] = float(((change @ moment) * change).sum()) / whole
        times = {
            option: timings[layer_signature(layer, module, kernel_class(option))].p20_ms
            for option in options
        }
        yield [
            Point(
                layer.name,
                option,
                sum(rows * columns for rows, columns in factor_shapes(layer, option)),
                times[option],
                100 * times[option] / times[Option()],
                errors[option],
            )
            for option in options
        ]


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other is faster and better than, the fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency_ms, point.error)):
        if not best or point.error < best[-1].error:
            best.append(point)
    return best


def error_at(points: Sequence[Point], latency_ms: float) -> float | None:
    """The error of a front at a latency, a straight line in its logarithm; None outside."""
    times = [point.latency_ms for point in points]
    if len(times) < 2 or not times[0] <= latency_ms <= times[-1]:
        return None
    return float(np.exp(np.interp(latency_ms, times, np.log([p.error for p in points]))))


def compare(points: Sequence[Point], activations: str) -> list[dict[str, Any]]:
    """Each core beside low rank at its latency.

    There is nothing to compare with where the whole layer is as fast, or no rank is: a core that
    is faster than all of them stands alone.
    """
    same = [point for point in points if point.option.activations == activations]
    (whole,) = (point for point in same if not point.option.is_factored)
    ranks = front([point for point in same if point.option.rank < 1])
    rows = []
    for core in (point for point in same if point.option.tucker < 1):
        is_faster = core.latency_ms < whole.latency_ms
        other = error_at(ranks, core.latency_ms) if is_faster else None
        rows.append(
            {
                "option": core.option.id,
                "latency_ratio": core.latency_ms / whole.latency_ms,
                "error": core.error,
                "rank_error": other,
                "error_ratio": core.error / other if other else None,
                "is_faster": is_faster,
            }
        )
    return rows


def show(layer: str, points: Sequence[Point], compared: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"{layer}: the layer alone")
    for column in ("option", "weights", "ms", "% of float32", "relative output error"):
        table.add_column(column, justify="left" if column == "option" else "right")
    for p in points:
        table.add_row(
            p.option.id,
            str(p.weights),
            f"{p.latency_ms:.4f}",
            f"{p.latency_percent:.0f}",
            f"{p.error:.4f}",
        )
    Console(width=110).print(table)
    table = Table(title=f"{layer}: cores beside low rank at equal latency")
    for column in ("core", "latency over whole", "error", "error of rank", "ratio"):
        table.add_column(column, justify="left" if column == "core" else "right")
    for row in compared:
        optional = (row["rank_error"], row["error_ratio"])
        texts = [NONE if value is None else f"{value:.3g}" for value in optional]
        ratio = f"{row['latency_ratio']:.2f}"
        table.add_row(row["option"], ratio, f"{row['error']:.3g}", *texts)
    Console(width=110).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="vgg_small_fashion", help="name or folder")
    parser.add_argument("--layer", action="append", help="may be repeated")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = get_device("onnxruntime-cpu")
    rows: list[dict[str, Any]] = []
    summary: dict[str, list[dict[str, Any]]] = {}
    names = options.layer or ["features.4", "features.8", "features.11"]
    for points in measure(study_folder(options.study), names, device):
        layer = points[0].layer
        summary[layer] = [row for kind in ("float32", "int8") for row in compare(points, kind)]
        show(layer, points, summary[layer])
        rows += [point.as_dict() for point in points]
    if options.json:
        write_figures(options.json, "factors", device, PACKAGES, rows, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
