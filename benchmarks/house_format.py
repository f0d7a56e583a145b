"""What every benchmark writes: its figures, with the machine and the versions behind them."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.hardware.device import Device, machine_fingerprint

STUDIES = Path(__file__).parents[1] / "studies"


def study_folder(text: str) -> Path:
    """A folder as given, or the committed study of that name."""
    return Path(text) if Path(text).is_dir() else STUDIES / text


def write_figures(
    path: Path,
    name: str,
    device: Device,
    packages: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> None:
    """Writes `{"name", "machine", "versions", "rows", "summary"}` as JSON.

    Args:
        path: The file; its folder is made.
        name: Of the benchmark.
        device: Whose machine is described.
        packages: Whose versions are recorded.
        rows: Every single figure.
        summary: The few that are quoted.
    """
    content = {
        "name": name,
        "machine": {**machine_fingerprint(device), "python": platform.python_version()},
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "rows": list(rows),
        "summary": dict(summary),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def run_options(parser: argparse.ArgumentParser) -> None:
    """Adds what benchmarks that run whole studies with training take besides."""
    parser.add_argument("--epochs", type=int, help="in place of the benchmark's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keeps the runs, which go on where they were")
    parser.add_argument("--json", type=Path, help="where to write the figures")
