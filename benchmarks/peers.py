"""Other tools and ours on the same model, data and budgets, scored by one function.

Each tool gets its own virtual environment under `runs/peers/environments`, with pinned packages.
All calibrate on the study's calibration inputs, none trains, and all are scored on inputs of the
test split.  Run it on an idle machine:

    python benchmarks/peers.py --study lenet5_mnist --json runs/peers.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from house_format import study_folder, write_figures
from rich.console import Console
from rich.table import Table
from rivals.attempt import Effort, attempts, row
from rivals.entries import Entry, chosen
from rivals.environment import ToolError, installed, make_environment
from rivals.problem import Budget, make_problem, parse_budgets

from autocompress.hardware.device import get_device

BUDGETS = ("size=25%", "size=12.5%", "latency=50%")
PACKAGES = ("autocompress", "numpy", "onnx", "onnxruntime", "torch")


def environment_of(
    entry: Entry, folder: Path, extra: Sequence[str]
) -> tuple[Path, dict[str, str]]:
    """The interpreter of a tool and the versions of its packages.

    Args:
        entry: The tool; ours runs in this interpreter.
        folder: Of all environments.
        extra: Packages that the study's `task.py` imports, in the versions installed here.

    Raises:
        ToolError: If they cannot be installed.
    """
    if not entry.script:
        return Path(sys.executable), {name: importlib.metadata.version(name) for name in PACKAGES}
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in extra]
    requirements = [*entry.requirements, *(pins if entry.needs_task else ())]
    python = make_environment(folder / entry.environment, requirements)
    return python, installed(python, entry.packages)


def contest(
    study: Path, out: Path, entries: Sequence[Entry], budgets: Sequence[Budget], options: Any
) -> list[dict[str, Any]]:
    """Every tool's rows on one study."""
    say = Console(stderr=True).print
    problem = make_problem(study, out / study.name, options.images)
    effort = Effort(options.evaluations, options.trials, options.seconds, options.seed)
    rows = []
    for entry in entries:
        try:
            python, versions = environment_of(entry, out / "environments", options.package)
        except ToolError as error:
            rows += [row(entry.name, budget, 0.0, error=str(error)) for budget in budgets]
            continue
        say(f"{study.name}: {entry.name} ({' '.join(f'{k} {v}' for k, v in versions.items())})")
        for found in attempts(entry, problem, budgets, python, effort):
            rows.append({"study": study.name, **found, "versions": versions})
    return rows


def show(study: str, rows: Sequence[dict[str, Any]]) -> None:
    count = rows[0]["inputs"] if rows and "inputs" in rows[0] else ""
    table = Table(title=f"{study} {count}".strip())
    keys = ("agreement", "kl", "bytes_percent", "latency_percent", "seconds")
    for key in ("tool", "budget", "met"):
        table.add_column(key, no_wrap=True)
    for key in keys:
        table.add_column(key.replace("_percent", " %"), justify="right")
    for item in rows:
        cells = ["-" if item[key] is None else f"{item[key]:.4g}" for key in keys]
        table.add_row(item["tool"], item["budget"], "yes" if item["met"] else "no", *cells)
    Console(width=120).print(table)
    for item in rows:
        if item["error"]:
            print(f"{item['tool']}, {item['budget']}: {item['error']}")


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Study to budget to tool: met, agreement and divergence."""
    found: dict[str, Any] = {}
    for item in rows:
        place = found.setdefault(item["study"], {}).setdefault(item["budget"], {})
        place[item["tool"]] = {key: item[key] for key in ("met", "agreement", "kl")}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", action="append", help="name or folder; may be repeated")
    parser.add_argument("--budget", action="append", help="size=25%% or latency=50%%; repeated")
    parser.add_argument("--tool", action="append", help="only these; may be repeated")
    parser.add_argument("--images", type=int, default=2000, help="inputs that are scored, at most")
    parser.add_argument("--evaluations", type=int, default=100, help="passes of our search")
    parser.add_argument("--trials", type=int, default=200, help="of the hand-written search")
    parser.add_argument("--seconds", type=float, default=3600, help="the most a tool may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--package", action="append", default=[], help="that task.py imports, besides safetensors"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        budgets, entries = parse_budgets(options.budget or BUDGETS), chosen(options.tool)
    except ValueError as error:
        parser.error(str(error))
    rows = []
    for study in options.study or ["lenet5_mnist"]:
        folder = study_folder(study)
        found = contest(folder, options.out, entries, budgets, options)
        show(folder.name, found)
        rows += found
    if options.json:
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "peers", device, PACKAGES, rows, summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
