"""Candidates a second on each executor with one worker and with two, and what handing one out
costs.

Every candidate of a six-layer encoder is measured on all search inputs, with nothing reused; the
workers have started and have opened what they work with.  Overhead is the time of all workers
less the time that they spend on candidates, divided by the candidates.

    python benchmarks/executors.py --json executors.json
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families.transformer import Encoder
from house_format import write_figures
from rich.console import Console
from rich.table import Table

from autocompress.model.task import Task
from autocompress.search.problem import Candidate
from autocompress.study.config import StudyFile, make_study
from autocompress.study.evaluator import Evaluator, assembly_of
from autocompress.study.events import Silent
from autocompress.study.executors.catalogue import make_executor
from autocompress.study.executors.executor import Executor
from autocompress.study.judge import Assembly
from autocompress.study.prepare import prepare
from autocompress.study.subject import look

PACKAGES = ("autocompress", "numpy", "torch", "pebble")
WIDTH, LAYERS, HEADS, TOKENS, CLASSES = 256, 6, 4, 32, 10
SPACE = """
schema = 1
description = "a few options a layer, made at once"
bits = [4, 6, 8]
methods = ["nearest"]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", action="append", choices=("local", "processes", "ray"))
    parser.add_argument("--candidates", type=int, default=96, help="of each measurement")
    parser.add_argument("--examples", type=int, default=512, help="search inputs")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        study, assembly, units = subject(Path(folder), options.examples)
        for name in options.executor or ("local", "processes", "ray"):
            for workers in (1, 2):
                settings = study.settings.model_copy(update={"executor": name, "workers": workers})
                with contextlib.closing(make_executor(replace(study, settings=settings))) as found:
                    rows.append(measure(found, assembly, units, options))
                    print(rows[-1], flush=True)
    Console().print(table_of(rows))
    summary = {
        f"{name}_speedup": speedup(rows, name)
        for name in dict.fromkeys(r["executor"] for r in rows)
    }
    if options.json:
        write_figures(options.json, "executors", study.device, PACKAGES, rows, summary)


def subject(folder: Path, examples: int) -> tuple[Any, Assembly, list[int]]:
    """A study, what candidates of it are made of, and the number of options of each unit."""
    (folder / "space.toml").write_text(SPACE, encoding="utf-8")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Encoder(WIDTH, LAYERS, HEADS, TOKENS, CLASSES).eval()
        inputs = torch.randn(examples * 4 // 3, TOKENS, WIDTH)
    task = Task(
        lambda: model, lambda: inputs, lambda: inputs[:1], lambda model: 0.0, "executors.py"
    )
    settings = StudyFile(space=str(folder / "space.toml"), device="cortex_a76")
    settings = settings.model_copy(
        update={"knobs": settings.knobs.model_copy(update={"search_share": 0.75})}
    )
    study = make_study("executors", task, settings, ["size=25%"])
    model_, space = look(study, Silent())
    prepared = prepare(study, model_, space, folder, Silent())
    parts = (prepared.model, prepared.space, prepared.bank, prepared.stitcher, prepared.proxy)
    assembly = replace(assembly_of(*parts), memory=0)  # nothing is reused: every pass is whole
    return study, assembly, [len(menu) for menu in prepared.space.units.values()]


def measure(
    executor: Executor, assembly: Assembly, units: list[int], options: argparse.Namespace
) -> dict[str, Any]:
    """One row: the fastest of some rounds after one that warms up."""
    evaluator = Evaluator(assembly, executor)
    rng = np.random.default_rng(0)
    best: dict[str, Any] = {}
    for number in range(options.repeats + 1):
        count = options.candidates if number else 4 * executor.workers
        asked: list[Candidate] = [
            tuple(int(rng.integers(size)) for size in units) for _ in range(count)
        ]
        busy, begun = evaluator.spent.busy, time.perf_counter()
        order = range(len(assembly.proxy.parts))
        losses = [m.value for m in evaluator.race(asked, [None] * count, order)]  # type: ignore[union-attr]
        seconds = time.perf_counter() - begun
        busy = evaluator.spent.busy - busy
        row = {
            "executor": executor.name,
            "workers": executor.workers,
            "candidates": len(losses),
            "seconds": seconds,
            "candidate_ms": 1000 * busy / count,
            "per_second": count / seconds,
            "overhead_ms": 1000 * (executor.workers * seconds - busy) / count,
        }
        if number and (not best or seconds < best["seconds"]):
            best = row
    return best


def speedup(rows: list[dict[str, Any]], name: str) -> float:
    one, two = (row["per_second"] for row in rows if row["executor"] == name)
    return float(two / one)


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="executors: an encoder of 6 layers, candidates measured whole")
    heads = ("executor", "workers", "candidates/s", "against 1", "candidate ms", "overhead ms")
    for head in heads:
        table.add_column(head, justify="left" if head == "executor" else "right")
    for row in rows:
        first = next(r for r in rows if r["executor"] == row["executor"])
        table.add_row(
            row["executor"],
            str(row["workers"]),
            f"{row['per_second']:.2f}",
            f"{row['per_second'] / first['per_second']:.2f}",
            f"{row['candidate_ms']:.0f}",
            f"{row['overhead_ms']:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
