"""How well the latency of a mixed candidate is predicted, beside a model that knows only FLOPs.

Candidates mix float and int8 layers and ranks at random; the figures are of candidates that the fit
has not seen.  Run it on an idle machine:

    python benchmarks/latency.py --study lenet5_mnist --json latency.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from autocompress.hardware.device import get_device, machine_fingerprint
from autocompress.hardware.fit import Fit
from autocompress.hardware.profile import fit_latency
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.table import cache_path
from autocompress.model.task import load_task
from autocompress.model.trace import trace
from autocompress.search_space.option import Option

STUDIES = Path(__file__).parents[1] / "studies"
RANKS = (0.125, 0.25, 0.5)
MENUS = {
    "int8": [Option(bits=8, activations="int8")],
    "int8_and_ranks": [
        Option(bits=bits, rank=rank, activations=activations)
        for bits, activations in ((32, "float32"), (8, "int8"))
        for rank in (1.0, *RANKS)
    ],
}
PACKAGES = ("autocompress", "numpy", "onnx", "onnxruntime", "scipy", "torch")


def measure(study: str, candidates: int, seed: int) -> dict[str, Fit]:
    """The fit of each family of candidates of one study."""
    folder = Path(study) if Path(study).is_dir() else STUDIES / study
    task = load_task(folder)
    model, inputs = task.model(), task.example_inputs()
    layers = trace(model, inputs)
    graph = export_float(model, layers, inputs)
    fits = {}
    for family, menu in MENUS.items():
        menus = {layer.name: menu for layer in graph.layers}
        # Small models have few int8 mixtures: what is left out of the fit comes first.
        count = min(candidates, 2 ** len(menus) - 8) if family == "int8" else candidates
        if count < 2:
            continue
        profile = fit_latency(
            model,
            layers,
            inputs,
            menus,
            np.random.default_rng(seed),
            graph=graph,
            held_out=count,
        )
        fits[f"{folder.name}/{family}"] = profile.fit
    return fits


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
    table.add_column("family")
    table.add_column("candidates", justify="right")
    for key in next(iter(rows.values())):
        table.add_column(key.replace("_", " "), justify="right")
    for name, row in rows.items():
        count = sum(point.held_out for point in fits[name].points)
        table.add_row(name, str(count), *(f"{value:.3g}" for value in row.values()))
    Console(width=140).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="lenet5_mnist", help="name or folder of a study")
    parser.add_argument("--candidates", type=int, default=20, help="held-out candidates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="measure the table anew")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = get_device("onnxruntime-cpu")
    if options.fresh:
        cache_path(device).unlink(missing_ok=True)
    fits = measure(options.study, options.candidates, options.seed)
    show(fits)
    if options.json:
        content = {
            "name": "latency",
            "machine": {**machine_fingerprint(device), "python": platform.python_version()},
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "rows": [
                {"family": name, **asdict(point)}
                for name, fit in fits.items()
                for point in fit.points
            ],
            "summary": {"families": {name: summary(fit) for name, fit in fits.items()}},
        }
        options.json.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
