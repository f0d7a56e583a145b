"""What kernels of packed weights buy: one linear layer on onnxruntime, for few and many rows at a
time, beside the float32 layer and its int8 kernel; all are timed in turn.  Run it on an idle
machine:

    python benchmarks/packed.py --json packed.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import onnx
import torch
from house_format import write_figures
from rich.console import Console
from rich.table import Table
from torch import nn

from autocompress.hardware.clock import bound
from autocompress.hardware.device import get_device
from autocompress.hardware.runtimes.runtime import Program, made_up
from autocompress.hardware.runtimes.single_op import layer_model
from autocompress.hardware.timing import interleaved
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.search_space.option import DYNAMIC_RUNS, Option

PACKAGES = ("autocompress", "numpy", "onnx", "onnxruntime", "torch")
SHAPES = ((384, 1536), (1536, 384), (1024, 4096))  # inputs and outputs
ROWS = (1, 8, 64)
FLOAT = "float32"


def variants(layer: Layer, module: nn.Module) -> dict[str, onnx.ModelProto]:
    """The layer in every way, by name."""
    made = {FLOAT: layer_model(layer, module, Option())}
    made["int8"] = layer_model(layer, module, Option(bits=7, activations="int8"))
    for bits in (4, 8):
        for run in (*DYNAMIC_RUNS, "channel"):
            option = Option(bits=bits, scales=str(run), activations="dynamic")
            made[option.id] = layer_model(layer, module, option)
    # In float arithmetic: what the same operator does below accuracy level 4.
    for bits in (4, 8):
        plain = onnx.ModelProto()
        plain.CopyFrom(made[f"w{bits}-g32-d8"])
        (node,) = [node for node in plain.graph.node if node.op_type == "MatMulNBits"]
        next(part for part in node.attribute if part.name == "accuracy_level").i = 0
        made[f"w{bits}-g32, level 0"] = plain
    return made


def measure(inputs: int, outputs: int, rows: int) -> list[dict[str, Any]]:
    """One row a variant: milliseconds, and the share of float32."""
    module = nn.Linear(inputs, outputs)
    (layer,) = trace(nn.Sequential(module), (torch.zeros(rows, inputs),))
    device = get_device("onnxruntime-cpu")
    runs = {
        name: bound(device.engine.open(Program(proto), device.threads), made_up(proto))
        for name, proto in variants(layer, module).items()
    }
    timings = interleaved(runs, 40, 3.0)
    return [
        {
            "inputs": inputs,
            "outputs": outputs,
            "rows": rows,
            "variant": name,
            "latency_ms": timing.p20_ms,
            "latency_percent": 100 * timing.p20_ms / timings[FLOAT].p20_ms,
        }
        for name, timing in timings.items()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="One linear layer, percent of float32 in the same measurement")
    table.add_column("stored and computed as", no_wrap=True)
    cases = list(dict.fromkeys((row["inputs"], row["outputs"], row["rows"]) for row in rows))
    for inputs, outputs, count in cases:
        table.add_column(f"{inputs} x {outputs}, {count} rows", justify="right")
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells = [row for row in rows if row["variant"] == variant]
        table.add_row(variant, *(f"{cell['latency_percent']:.0f}" for cell in cells))
    Console(width=160).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row for shape in SHAPES for count in ROWS for row in measure(shape[0], shape[1], count)
    ]
    show(rows)
    if options.json:
        percent: dict[str, dict[str, float]] = {}
        for row in rows:
            case = f"{row['inputs']}x{row['outputs']}, {row['rows']} rows"
            percent.setdefault(case, {})[row["variant"]] = round(row["latency_percent"], 1)
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "packed", device, PACKAGES, rows, {"percent": percent})
    return 0


if __name__ == "__main__":
    sys.exit(main())
