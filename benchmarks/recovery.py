"""What recovery is worth: quality before and after at equal size of the file, and its minutes.

    python benchmarks/recovery.py --study lenet300_mnist --json recovery.json

A study is searched once, without training, under a limit on size; the candidate that is confirmed
is then trained in each way under the size that its file has, and a larger one is squeezed to it.
Images of the test split judge what each ends with.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from house_format import run_options, study_folder, write_figures
from rich.console import Console
from rich.table import Table

from autocompress.hardware.device import get_device
from autocompress.report.progress import Display
from autocompress.study.config import load_study
from autocompress.study.run import run_study

PACKAGES = ("autocompress", "numpy", "torch")
METHODS: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "blocks": {"method": "blocks"},
    "distil": {"method": "distil"},
    "distil, features": {"method": "distil", "features": 0.3},
    "distil, attention": {"method": "distil", "attention": 30.0},
    "squeeze": {"method": "squeeze"},  # from a larger candidate to the bytes of the others
}
# Sizes at which post-training alone loses something; passes over the training images.
STUDIES = {
    "lenet300_mnist": ("1.5%", 10),
    "lenet5_full_mnist": ("1%", 4),
    "vgg_small_fashion": ("2.5%", 2),
}


def measure(
    study: str, limit: str, epochs: int, methods: Sequence[str], root: Path, console: Console
) -> list[Any]:
    """A row for each way."""
    rows: list[dict[str, Any]] = []
    for name in methods:
        overrides = {"recovery": {**METHODS[name], "epochs": epochs}}
        size = f"{rows[0]['size_bytes']} B" if rows else limit
        budget = [f"size={size}", "latency=100%", "quality=-20pt"]
        loaded = load_study(study_folder(study), overrides, budget)
        with Display(console) as display:
            result = run_study(loaded, root / study, display).result
        trained = result["recovery"][0] if result["recovery"] else None
        rows.append(
            {
                "study": study,
                "method": name,
                "candidate": result["best"]["candidate"],
                "original": result["original"]["quality"],
                "quality": result["best"]["quality"],
                "size_bytes": result["best"]["size_bytes"],
                "loss_before": trained and trained["loss_before"],
                "loss_after": trained and trained["loss_after"],
                "minutes": trained["seconds"] / 60 if trained else 0.0,
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title="Trained in different ways, at no more bytes; quality on test images")
    for name in ("study", "method", "original", "quality", "bytes", "KL", "minutes"):
        shown.add_column(name, justify="left" if name in ("study", "method") else "right")
    for row in rows:
        same = [other for other in rows if other["study"] == row["study"]]
        before = next((o["loss_before"] for o in same if o["loss_before"] is not None), None)
        loss = before if row["loss_after"] is None else row["loss_after"]
        shown.add_row(
            row["study"],
            row["method"],
            f"{row['original']:.2f}",
            f"{row['quality']:.2f}",
            f"{row['size_bytes']:,}",
            "" if loss is None else f"{loss:.4f}",
            f"{row['minutes']:.1f}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", action="append", choices=STUDIES, help="may be repeated")
    parser.add_argument("--method", action="append", choices=METHODS, help="may be repeated")
    run_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for study in options.study or STUDIES:
            limit, epochs = STUDIES[study]
            root = options.out or Path(scratch)
            methods = list(dict.fromkeys(["none", *(options.method or METHODS)]))
            rows += measure(study, limit, options.epochs or epochs, methods, root, console)
    Console().print(table(rows))
    if options.json:
        gains: dict[str, dict[str, float]] = {}
        for row in rows:
            plain = next(r for r in rows if r["study"] == row["study"] and r["method"] == "none")
            gain = round(row["quality"] - plain["quality"], 3)
            gains.setdefault(row["study"], {})[row["method"]] = gain
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "recovery", device, PACKAGES, rows, {"gain_points": gains})


if __name__ == "__main__":
    main()
