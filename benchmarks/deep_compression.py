"""Deep Compression's table and later records, beside what a study comes to: bytes of the actual
file, biases, steps, tables, names and shapes included, and the error on test images.

    python benchmarks/deep_compression.py --net lenet300 --net lenet5 --json deep_compression.json

Each row of ours is a run of a study: a search for four times the limit on size, then a squeeze to
it, taught by the original on the training images without labels.  Candidates are chosen on held
out training images; the test images are touched once by each run.  `--post-training` adds runs
without any training.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from house_format import run_options, study_folder, write_figures
from rich.console import Console
from rich.table import Table

from autocompress.errors import AutocompressError
from autocompress.hardware.device import get_device
from autocompress.report.progress import Display
from autocompress.study.config import load_study
from autocompress.study.run import run_study

PACKAGES = ("autocompress", "constriction", "numpy", "torch")


@dataclass(frozen=True)
class Net:
    """A network of the table.

    Args:
        study: Its study.
        limits: Sizes that are asked for, as shares of the float32 weights.
        epochs: Passes over the training images while it is squeezed.
        post_training: Size asked for without training.
    """

    study: str
    limits: tuple[str, ...]
    epochs: int
    post_training: str = "10%"


NETS = {
    "lenet300": Net("lenet300_mnist", ("1.5%", "0.6%"), 30),
    "lenet5": Net("lenet5_full_mnist", ("0.3%", "0.17%"), 14),
    "vgg": Net("vgg_small_fashion", ("2.04%",), 40),
    "resnet20": Net("resnet20_fashion", (), 0),
}

# Ratio, bytes where they were published, test error in percent, and where that is written.
PUBLISHED: dict[str, tuple[tuple[str, float, int | None, float, str], ...]] = {
    "lenet300": (
        ("dense, Deep Compression", 1, 1_070_000, 1.64, "1510.00149, table 1"),
        ("Deep Compression", 40, 27_000, 1.58, "1510.00149, table 1"),
        ("Soft Weight-Sharing", 64, None, 1.94, "1702.04008"),
        ("Sparse VD, weights alone", 68, None, 1.92, "1701.05369, README"),
        ("Entropy-Penalised Reparam.", 124, 8_560, 1.9, "1906.06624, tutorial"),
    ),
    "lenet5": (
        ("dense, Deep Compression", 1, 1_720_000, 0.80, "1510.00149, table 1"),
        ("Deep Compression", 39, 44_000, 0.74, "1510.00149, table 1"),
        ("Soft Weight-Sharing", 162, None, 0.97, "1702.04008"),
        ("Weightless", 382, 4_520, 1.0, "1711.04686"),
        ("Entropy-Penalised Reparam.", 606, 2_840, 1.0, "1906.06624"),
        ("Bayesian Compression, most", 771, 2_300, 1.0, "1705.08665, in 1810.00440 table 1"),
        ("MIRACLE", 555, 3_030, 0.69, "1810.00440, table 1"),
        ("MIRACLE", 1110, 1_520, 0.96, "1810.00440, table 1"),
    ),
    "vgg": (("Deep Compression, VGG-16 ImageNet", 49, 11_300_000, 10.91, "1510.00149, table 1"),),
    "resnet20": (),
}


def published(net: str) -> list[dict[str, Any]]:
    """Rows of others for a network."""
    return [
        {
            "net": net,
            "method": method,
            "ratio": ratio,
            "bytes": size,
            "error_percent": error,
            "seconds": None,
            "source": source,
        }
        for method, ratio, size, error, source in PUBLISHED[net]
    ]


def ours(
    net: str, limit: str, epochs: int, trained: bool, folder: Path, console: Console
) -> list[dict[str, Any]]:
    """Rows of one run: the original, and what it was compressed to."""
    recovery = {"method": "squeeze", "epochs": epochs} if trained else {"method": "none"}
    overrides: dict[str, Any] = {"recovery": recovery}
    if trained:
        overrides |= {"space": "squeeze", "evaluations": 24}
    study = load_study(
        study_folder(NETS[net].study), overrides, [f"size={limit}", "latency=100%", "quality=-5pt"]
    )
    started = time.perf_counter()
    with Display(console) as display:
        outcome = run_study(study, folder, display)
    seconds = time.perf_counter() - started
    result = outcome.result
    weights = result["original"]["size_bytes"]
    size = result["best"]["size_bytes"]
    method = "autocompress, squeezed" if trained else "autocompress, post-training"
    base = {"net": net, "source": "this run"}
    dense = {
        **base,
        "method": "dense, ours",
        "ratio": 1,
        "bytes": weights,
        "error_percent": 100 - result["original"]["quality"],
        "seconds": None,
    }
    found = {
        **base,
        "method": method,
        "ratio": weights / size,
        "bytes": size,
        "error_percent": 100 - result["best"]["quality"],
        "seconds": seconds,
        "trained_seconds": sum(row["seconds"] for row in result["recovery"]),
        "asked": limit,
    }
    return [dense, found]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title="Bytes of the file, and error on test images")
    for name in ("net", "method", "ratio", "bytes", "error", "minutes", "source"):
        shown.add_column(name, justify="left" if name in ("net", "method", "source") else "right")
    for row in rows:
        shown.add_row(
            row["net"],
            row["method"],
            f"{row['ratio']:.0f}",
            "" if row["bytes"] is None else f"{row['bytes']:,}",
            f"{row['error_percent']:.2f} %",
            "" if row["seconds"] is None else f"{row['seconds'] / 60:.1f}",
            row["source"],
        )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", action="append", choices=NETS, help="may be repeated")
    parser.add_argument("--limit", action="append", help="sizes in place of the net's own")
    parser.add_argument("--post-training", action="store_true", help="runs without training too")
    run_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        root = options.out or Path(scratch)
        for name in options.net or NETS:
            net = NETS[name]
            found: list[dict[str, Any]] = []
            asked = [(limit, True) for limit in options.limit or net.limits]
            asked += [(net.post_training, False)] if options.post_training else []
            try:
                for limit, trained in asked:
                    folder = root / name / ("squeeze" if trained else "post-training")
                    epochs = options.epochs or net.epochs
                    found += ours(name, limit, epochs, trained, folder, console)
            except AutocompressError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
            unique = {(row["method"], row["bytes"]): row for row in found}
            rows += [*published(name), *unique.values()]
    Console().print(table(rows))
    if options.json:
        best: dict[str, Any] = {}
        for row in rows:
            if row["source"] == "this run" and row["ratio"] > 1:
                kept = best.setdefault(row["net"], [])
                kept.append([round(row["ratio"], 1), round(row["error_percent"], 2)])
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "deep_compression", device, PACKAGES, rows, {"ours": best})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
