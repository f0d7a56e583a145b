"""How well the latency of a mixed candidate is predicted, beside a model that knows only FLOPs.

Candidates mix float and int8 layers, ranks and channel widths at random; the figures are of
candidates that the fit has not seen.  The model is a study's or one of four families.  Run it on
an idle machine:

    python benchmarks/latency.py --family all --json latency.json
    python benchmarks/latency.py --study lenet5_mnist
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from families import FAMILIES, make_family
from house_format import study_folder, write_figures
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from autocompress.compression.channels import usable
from autocompress.hardware.device import get_device, reject
from autocompress.hardware.fit import Fit
from autocompress.hardware.profile import fit_latency
from autocompress.hardware.table import cache_path
from autocompress.model.canonical import canonical
from autocompress.model.grouping import find_groups
from autocompress.model.layer import Layer
from autocompress.model.task import load_task
from autocompress.model.trace import trace
from autocompress.search_space.preset import SpacePreset
from autocompress.search_space.space import Space, build_space
from autocompress.search_space.widths import share_widths

DEVICE = "onnxruntime-cpu"
OPTIONS = SpacePreset(
    schema_=1,
    bits=[8, 32],
    rank=[1.0, 0.5, 0.25, 0.125],
    channels=[1.0, 0.5],
    activations=["float32", "int8"],
)
SECONDS = 120.0  # for whole models, those that judge the fit included
PACKAGES = ("autocompress", "numpy", "onnx", "onnxruntime", "scipy", "torch")


def space_of(model: nn.Module, inputs: tuple[Tensor, ...], layers: Sequence[Layer]) -> Space:
    """`OPTIONS` for a model on the default device, as a study offers them."""
    device = get_device(DEVICE)
    treated = {layer.name: layer for layer in layers if layer.is_treated}
    groups = list(usable(find_groups(model, layers, inputs), treated))
    shares = share_widths(groups, treated, OPTIONS.channels, device.channel_step)
    refused = partial(reject, device=device)
    space = build_space(layers, OPTIONS, refused, suited=device.suited, widths=shares)
    # Without int8 or ranks there is little to predict, and every model looks good.
    found = [option for menu in space.units.values() for option in menu]
    assert any(option.activations == "int8" for option in found)
    assert any(option.is_factored for option in found)
    return space


def measure(model: nn.Module, inputs: tuple[Tensor, ...], candidates: int, seed: int) -> Fit:
    """The fit of one model under `OPTIONS`, in the form that a study compresses."""
    dense = canonical(model, inputs).model
    layers = trace(dense, inputs)
    space = space_of(dense, inputs, layers)
    generator = np.random.default_rng(seed)
    say = Console(stderr=True).print
    said: set[str] = set()

    def progress(stage: str, share: float) -> None:
        if stage not in said:
            said.add(stage)
            say(f"  {stage}")

    fit = fit_latency(
        dense,
        layers,
        inputs,
        space.units,
        generator,
        held_out=candidates,
        seconds=SECONDS,
        widths=space.widths,
        progress=progress,
    ).fit
    assert fit is not None  # this device is measured
    return fit


def subjects(
    studies: Sequence[str], families: Sequence[str]
) -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """Name, model and inputs of every study and family asked for."""
    for study in studies:
        folder = study_folder(study)
        task = load_task(folder)
        yield folder.name, task.model(), task.example_inputs()
    for family in FAMILIES if "all" in families else families:
        yield family, *make_family(family)


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
    parser.add_argument(
        "--family", action="append", choices=[*FAMILIES, "all"], help="may be repeated"
    )
    parser.add_argument("--candidates", type=int, default=30, help="held-out candidates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="measure the table anew")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = get_device(DEVICE)
    if options.fresh:
        cache_path(device).unlink(missing_ok=True)
    fits = {}
    studies, chosen = options.study or [], options.family or []
    if not studies and not chosen:
        studies = ["lenet5_mnist"]
    for name, model, inputs in subjects(studies, chosen):
        Console(stderr=True).print(name)
        fits[name] = measure(model, inputs, options.candidates, options.seed)
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
