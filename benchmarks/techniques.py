"""Ways to store a layer at equal coded bytes: how the front of each technique stands against that
of plain options (sparsity x bits), in relative output error on inputs that none was fitted to.

    python benchmarks/techniques.py --study lenet5_mnist --layer conv2 --layer fc1 --json out.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from house_format import study_folder, write_figures
from rich.console import Console
from rich.table import Table

from autocompress.compression.coding import coded_bytes
from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import collect
from autocompress.hardware.device import get_device
from autocompress.model.canonical import canonical
from autocompress.model.task import load_task
from autocompress.model.trace import trace
from autocompress.search_space.option import Option

PACKAGES = ("autocompress", "numpy", "torch")
PLAIN_BITS = (2, 3, 4, 6, 8)
PLAIN_ZEROS = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97)
RATES = (0.003, 0.01, 0.03, 0.1)
NONE = ""


@dataclass(frozen=True)
class Point:
    """One option of one layer.

    Args:
        option: What it is.
        size_bytes: Coded bytes of the weights.
        error: Relative output error on inputs that it was not fitted to.
        seconds: Processor seconds to make it, shared alike by options that are made together.
    """

    option: Option
    size_bytes: int
    error: float
    seconds: float


def families() -> dict[str, list[Option]]:
    """Options by technique; `plain` is what the others are held against."""
    zeros = (0, 0.8, 0.9, 0.95)
    return {
        "plain": [Option(bits, share) for bits, share in product(PLAIN_BITS, PLAIN_ZEROS)],
        "rate": [Option(bits, rate=rate) for bits, rate in product((3, 4), RATES)],
        "rate + sparsity": [
            Option(4, share, rate=rate) for share, rate in product((0.8, 0.9), RATES)
        ],
        "rate, tensor scale": [
            Option(bits, rate=rate, scales="tensor") for bits, rate in product((4,), RATES)
        ],
        "rate + codebook": [
            Option(codebook=levels, rate=rate) for levels, rate in product((16,), RATES)
        ],
        "codebook": [
            Option(codebook=levels, sparsity=share) for levels, share in product((4, 8, 16), zeros)
        ],
        "tensor scale": [
            Option(bits, share, scales="tensor") for bits, share in product((2, 3, 4), zeros)
        ],
        "runs of 32": [
            Option(bits, share, scales="32") for bits, share in product((2, 3, 4), zeros)
        ],
        "binary": [Option(1, share) for share in zeros],
        "affine": [Option(bits, affine=True) for bits in (2, 3, 4, 6)],
        "pattern": [Option(bits, pattern="2:4") for bits in (2, 3, 4, 6)],
    }


def measure(folder: Path, names: Sequence[str]) -> dict[str, dict[str, list[Point]]]:
    """Layer to technique to its points."""
    task = load_task(folder)
    inputs = task.calibration()
    model = canonical(task.model(), task.example_inputs()).model
    cut = 3 * len(inputs[0]) // 4
    layers = [layer for layer in trace(model, task.example_inputs()) if layer.name in names]
    missing = set(names) - {layer.name for layer in layers}
    if missing:
        raise SystemExit(f"{folder}: no layer {', '.join(sorted(missing))}")
    fitted = collect(model, layers, tuple(tensor[:cut] for tensor in inputs))
    fresh = collect(model, layers, tuple(tensor[cut:] for tensor in inputs))
    found: dict[str, dict[str, list[Point]]] = {}
    for layer in layers:
        module = model.get_submodule(layer.name)
        weight = module.weight.detach().flatten(1).double()  # type: ignore[operator]
        moment = fresh[layer.name].second_moment
        whole = float(((weight @ moment) * weight).sum())
        for name, options in families().items():
            start, points = process_time(), []
            for option, treated, _ in compress_layer(layer, module, fitted[layer.name], options):
                change = treated.matrix().double() - weight
                error = float(((change @ moment) * change).sum()) / whole
                size = sum(coded_bytes(stored) for stored in treated.weights)
                points.append((option, size, error))
            seconds = (process_time() - start) / len(points)
            made = [Point(*point, seconds) for point in points]
            found.setdefault(layer.name, {})[name] = made
            print(f"{layer.name} {name}: {seconds:.2f} s an option", file=sys.stderr)
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other is smaller and better than, the smallest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.size_bytes, point.error)):
        if not best or point.error < best[-1].error:
            best.append(point)
    return best


def error_at(points: Sequence[Point], size_bytes: float) -> float | None:
    """The error of a front at so many bytes, a straight line in logarithms; None outside."""
    sizes = [point.size_bytes for point in points]
    if len(sizes) < 2 or not sizes[0] <= size_bytes <= sizes[-1]:
        return None
    errors = np.log([point.error for point in points])
    return float(np.exp(np.interp(np.log(size_bytes), np.log(sizes), errors)))


def compare(found: dict[str, list[Point]]) -> dict[str, dict[str, Any]]:
    """Technique to how its front stands against the plain one at the same bytes."""
    plain = front(found["plain"])
    compared = {}
    for name, points in found.items():
        if name == "plain":
            continue
        own = front(points)
        ratios = [
            point.error / other
            for point in own
            if (other := error_at(plain, point.size_bytes)) is not None
        ]
        compared[name] = {
            "error_ratio_median": float(np.median(ratios)) if ratios else None,
            "error_ratio_best": min(ratios, default=None),
            "compared": len(ratios),
            "seconds": points[0].seconds,
        }
    return compared


def show(layer: str, found: dict[str, list[Point]], compared: dict[str, dict[str, Any]]) -> None:
    plain = front(found["plain"])
    table = Table(title=f"{layer}: error of each technique's front over the plain one's")
    for column in ("technique", "median", "best", "points", "s an option"):
        table.add_column(column, justify="left" if column == "technique" else "right")
    for name, row in compared.items():
        median, best = row["error_ratio_median"], row["error_ratio_best"]
        texts = [NONE if value is None else f"{value:.2f}" for value in (median, best)]
        table.add_row(name, *texts, str(row["compared"]), f"{row['seconds']:.2f}")
    Console(width=120).print(table)
    table = Table(title=f"{layer}: options at about equal bytes")
    columns = ("bytes", "plain", "error", *(f"{name}" for name in ("rate", "error ")))
    for column in columns:
        table.add_column(column, justify="right")
    rated = front([point for name, of in found.items() if "rate" in name for point in of])
    for point in plain:
        near = [other for other in rated if other.size_bytes <= point.size_bytes]
        if near:
            other = near[-1]
            table.add_row(
                f"{point.size_bytes}",
                point.option.id,
                f"{point.error:.5f}",
                f"{other.option.id} ({other.size_bytes} B)",
                f"{other.error:.5f}",
            )
    Console(width=120).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="lenet5_mnist", help="name or folder")
    parser.add_argument("--layer", action="append", help="may be repeated; conv2 and fc1")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(study_folder(options.study), options.layer or ["conv2", "fc1"])
    compared = {layer: compare(of) for layer, of in found.items()}
    for layer, of in found.items():
        show(layer, of, compared[layer])
    if options.json:
        rows = [
            {
                "layer": layer,
                "technique": name,
                "option": point.option.id,
                "size_bytes": point.size_bytes,
                "error": point.error,
            }
            for layer, of in found.items()
            for name, points in of.items()
            for point in points
        ]
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "techniques", device, PACKAGES, rows, compared)
    return 0


if __name__ == "__main__":
    sys.exit(main())
