"""What int8 and fewer channels buy on each runtime that is installed, whole models with made-up
weights: every layer in float32 or, where there are such kernels, int8, at full width, with half of
the attention heads, with the hidden channels of blocks halved, and with all channel groups halved.
All are timed in turn.  Run it on an idle machine:

    python benchmarks/runtimes.py --study resnet20_fashion --family all --json runtimes.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from families import FAMILIES
from house_format import write_figures
from latency import subjects
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from autocompress.compression.channels import usable
from autocompress.hardware.clock import feeds, time_models
from autocompress.hardware.device import DEVICES, Device
from autocompress.hardware.profile import candidate_program
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.model.canonical import canonical
from autocompress.model.channels import ChannelGroup
from autocompress.model.grouping import find_groups
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.search_space.option import Option
from autocompress.search_space.widths import share_widths

PACKAGES = ("autocompress", "numpy", "onnx", "onnxruntime", "openvino", "torch")
WIDTHS = ("full", "heads halved", "hidden halved", "all halved")
INT8 = Option(bits=7, activations="int8")


def candidates(
    layers: Mapping[str, Layer],
    groups: list[ChannelGroup],
    step: int,
    precisions: Sequence[str] = ("float32", "int8"),
) -> dict[tuple[str, str], dict[str, Option]]:
    """Candidates by type of activations and width, without those that a model has no groups for.

    A group whose pieces have several channels is one of heads; of the others, one with one
    producer is hidden in a block, and the rest are streams that blocks add to.
    """
    heads = [group for group in groups if group.width > 1]
    hidden = [group for group in groups if group.width == 1 and len(group.producers) == 1]
    made = {}
    for name, halved in zip(WIDTHS, ([], heads, hidden, groups), strict=True):
        if name == "heads halved" and not heads:
            continue
        shares: dict[str, dict[str, float]] = {}
        for width in share_widths(halved, layers, [0.5], step):
            for side in ("inputs", "outputs"):
                for layer, levels in getattr(width, side).items():
                    shares.setdefault(layer, {})[side] = levels[-1]
        for kind in ("float32", "int8"):
            if kind not in precisions:
                continue
            made[kind, name] = {
                layer: Option(
                    bits=INT8.bits if kind == "int8" else 32,
                    activations=kind,
                    **shares.get(layer, {}),
                )
                for layer in layers
            }
    return made


def measure(model: nn.Module, inputs: tuple[Tensor, ...], device: Device) -> list[dict[str, Any]]:
    """One row a candidate, in milliseconds and as a share of the dense float model."""
    dense = canonical(model, inputs).model
    every = trace(dense, inputs)
    layers = {layer.name: layer for layer in every if layer.is_treated}
    groups = usable(find_groups(dense, every, inputs), layers)
    graph = export_float(dense, every, inputs)
    made = candidates(layers, groups, device.channel_step, device.precisions)
    programs = {
        " ".join(key): candidate_program(dense, graph, candidate, device, groups)
        for key, candidate in made.items()
    }
    timings = time_models(programs, feeds(graph, inputs), runtime=device.engine)
    whole = timings["float32 full"].p20_ms
    return [
        {
            "runtime": device.runtime,
            "activations": kind,
            "width": width,
            "latency_ms": timings[f"{kind} {width}"].p20_ms,
            "latency_percent": 100 * (timings[f"{kind} {width}"].p20_ms / whole),
        }
        for kind, width in made
    ]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Latency as a share of the dense float32 model in the same runtime, %")
    for name in ("model", "runtime", "float32 ms"):
        table.add_column(name, no_wrap=True)
    for kind in ("float32", "int8"):
        for width in WIDTHS:
            table.add_column(f"{kind}, {width}", justify="right")
    for model, runtime in dict.fromkeys((row["model"], row["runtime"]) for row in rows):
        own = [row for row in rows if (row["model"], row["runtime"]) == (model, runtime)]
        share = {(row["activations"], row["width"]): row["latency_percent"] for row in own}
        keys = [(kind, width) for kind in ("float32", "int8") for width in WIDTHS]
        cells = [f"{share[key]:.1f}" if key in share else "" for key in keys]
        table.add_row(model, runtime, f"{own[0]['latency_ms']:.3f}", *cells)
    Console(width=140).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", action="append", help="name or folder; may be repeated")
    parser.add_argument(
        "--family", action="append", choices=[*FAMILIES, "all"], help="may be repeated"
    )
    parser.add_argument("--device", action="append", choices=DEVICES, help="may be repeated")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    devices = [d for d in DEVICES.values() if not d.missing()]
    devices = [d for d in devices if d.name in (options.device or DEVICES)]
    studies, families = options.study or [], options.family or []
    if not studies and not families:
        studies = ["lenet5_mnist"]
    rows = []
    for name, model, inputs in subjects(studies, families):
        for device in devices:
            Console(stderr=True).print(f"{name}: {device.runtime}")
            rows += [{"model": name, **row} for row in measure(model, inputs, device)]
    show(rows)
    if options.json:
        figures: dict[str, dict[str, dict[str, float]]] = {}
        for row in rows:
            own = figures.setdefault(row["model"], {}).setdefault(row["runtime"], {})
            own[f"{row['activations']}, {row['width']}"] = round(row["latency_percent"], 2)
        write_figures(options.json, "runtimes", devices[0], PACKAGES, rows, {"percent": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
