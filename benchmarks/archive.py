"""How close the packed archive comes to the order-0 entropy of what it holds, and to zstd: a
study's model with one option for all layers, written by both coders.

    python benchmarks/archive.py --study lenet5_mnist --study resnet20_fashion --json archive.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from house_format import study_folder, write_figures
from rich.console import Console
from rich.table import Table

from autocompress.compression.compress import compress_layer
from autocompress.compression.entropy import CODERS
from autocompress.deploy.archive import write_archive
from autocompress.deploy.inspect import inspect_archive
from autocompress.hardware.device import get_device
from autocompress.search_space.option import Option
from autocompress.study.config import load_study
from autocompress.study.subject import Model, trace_model

OPTIONS = (
    Option(bits=2),
    Option(bits=3),
    Option(bits=4),
    Option(bits=6),
    Option(bits=8),
    Option(bits=4, sparsity=0.5),
    Option(bits=3, sparsity=0.7),
    Option(bits=4, sparsity=0.9),
    Option(bits=3, sparsity=0.97),
    Option(bits=4, rank=0.25),
)
PACKAGES = ("autocompress", "constriction", "numpy", "torch", "zstandard")


def measure(study: str, model: Model, options: Sequence[Option]) -> list[dict[str, Any]]:
    """One row an option: bytes of the file under each coder, codes against their entropy."""
    layers = [layer for layer in model.layers if layer.is_treated]
    made = {
        layer.name: {
            option: treated
            for option, treated, _ in compress_layer(
                layer,
                model.dense.get_submodule(layer.name),
                model.statistics[layer.name],
                options,
            )
        }
        for layer in layers
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.acz"
        for option in options:
            treated = {name: menu[option] for name, menu in made.items() if option in menu}
            ids = dict.fromkeys(treated, option.id)
            size = {
                coder: write_archive(
                    path, treated, ids, model.rest(treated), {"study": study}, coder
                )
                for coder in reversed(CODERS)
            }
            content = inspect_archive(path)  # the entropy coder's, which was written last
            rows.append(
                {
                    "study": study,
                    "option": option.id,
                    "size_bytes": size["entropy"],
                    "zstd_bytes": size["zstd"],
                    "entropy_bytes": content.entropy_bytes,
                    "coded_bytes": content.coded_bytes,
                    "coded_to_entropy": content.coded_bytes / content.entropy_bytes,
                    "float32_to_size": content.float32_bytes / content.size_bytes,
                    "bytes": content.bytes,
                }
            )
    return rows


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The worst ratio to the entropy, and what zstd costs more over all files."""
    size = sum(row["size_bytes"] for row in rows)
    return {
        "worst_coded_to_entropy": max(row["coded_to_entropy"] for row in rows),
        "zstd_to_entropy_coder": sum(row["zstd_bytes"] for row in rows) / size,
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="One option for all layers")
    for name in ("study", "option"):
        table.add_column(name, no_wrap=True)
    for name in ("bytes", "times smaller", "order-0 entropy", "coded", "coded/entropy", "zstd"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["study"],
            row["option"],
            str(row["size_bytes"]),
            f"{row['float32_to_size']:.1f}",
            f"{row['entropy_bytes']:.0f}",
            str(row["coded_bytes"]),
            f"{row['coded_to_entropy']:.4f}",
            f"{row['zstd_bytes']} ({100 * row['zstd_bytes'] / row['size_bytes'] - 100:+.1f} %)",
        )
    Console(width=120).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", action="append", required=True, help="may be repeated")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in arguments.study:
        study = load_study(study_folder(name), {})
        print(f"{study.name}: compressing", file=sys.stderr)
        rows += measure(study.name, trace_model(study), OPTIONS)
    show(rows)
    summary = summary_of(rows)
    print(
        f"worst coded / order-0 entropy: {summary['worst_coded_to_entropy']:.4f};"
        f" zstd: {summary['zstd_to_entropy_coder']:.3f} of the entropy coder's bytes"
    )
    if arguments.json:
        device = get_device("onnxruntime-cpu")
        write_figures(arguments.json, "archive", device, PACKAGES, rows, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
