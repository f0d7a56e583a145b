"""How well the latency of a mixed candidate is predicted, beside a model that knows only FLOPs.

Candidates mix float and int8 layers and ranks at random; the figures are of candidates that the
fit has not seen.  Run it on an idle machine:

    python benchmarks/latency.py --study lenet5_mnist --json latency.json
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from house_format import study_folder, write_figures
from rich.console import Console
from rich.table import Table

from autocompress.hardware.device import get_device
from autocompress.hardware.fit import Fit
from autocompress.hardware.profile import fit_latency
from autocompress.hardware.table import cache_path
from autocompress.model.task import load_task
from autocompress.model.trace import trace
from autocompress.search_space.option import Option

MENU = [
    Option(bits=bits, rank=rank, activations=activations)
    for bits, activations in ((32, "float32"), (8, "int8"))
    for rank in (1.0, 0.5, 0.25, 0.125)
]
PACKAGES = ("autocompress", "numpy", "onnx", "onnxruntime", "scipy", "torch")


def measure(folder: Path, candidates: int, seed: int) -> Fit:
    """The fit of one study's model under `MENU`."""
    task = load_task(folder)
    model, inputs = task.model(), task.example_inputs()
    layers = trace(model, inputs)
    menus = {layer.name: MENU for layer in layers if layer.is_treated}
    generator = np.random.default_rng(seed)
    return fit_latency(model, layers, inputs, menus, generator, held_out=candidates).fit


def summary(fit: Fit) -> dict[str, float]:
    keys = (
        "mape_percent",
        "worst_percent",
        "spearman",
        "bias",
        "noise_floor_percent",
        "flops_spearman",
        "flops_mape_percent",
        "table_seconds",
        "fit_seconds",
    )
    content = asdict(fit)
    return {key: round(content[key], 4) for key in keys}


def show(fits: dict[str, Fit]) -> None:
    table = Table(title="Predicted against measured latency, held-out candidates")
    rows = {name: summary(fit) for name, fit in fits.items()}
    table.add_column("family", no_wrap=True)
    table.add_column("candidates", justify="right")
    for key in next(iter(rows.values())):
        table.add_column(key.replace("_", " "), justify="right")
    for name, row in rows.items():
        count = sum(point.held_out for point in fits[name].points)
        table.add_row(name, str(count), *(f"{value:.3g}" for value in row.values()))
    Console(width=140).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", action="append", help="name or folder; may be repeated")
    parser.add_argument("--candidates", type=int, default=20, help="held-out candidates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="measure the table anew")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = get_device("onnxruntime-cpu")
    if options.fresh:
        cache_path(device).unlink(missing_ok=True)
    fits = {}
    for study in options.study or ["lenet5_mnist"]:
        folder = study_folder(study)
        fits[folder.name] = measure(folder, options.candidates, options.seed)
    show(fits)
    if options.json:
        rows = [
            {"family": name, **asdict(point)} for name, fit in fits.items() for point in fit.points
        ]
        figures = {"families": {name: summary(fit) for name, fit in fits.items()}}
        write_figures(options.json, "latency", device, PACKAGES, rows, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
