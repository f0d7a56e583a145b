"""Best quality under three size limits: our sampler in 100 evaluations, Optuna's in 1 000.

All read the same bank, menus and proxy: mean KL to the original, in nats, on the search split.
The first run makes the bank, later ones reuse it:

    python benchmarks/search.py --study lenet5_mnist --json search.json
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one thread a worker

import argparse
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import (
    RIVALS,
    SIZE,
    Entry,
    Judge,
    Outcome,
    price_passes,
    run,
    size_problem,
)
from house_format import study_folder, write_figures
from rich.console import Console
from rich.table import Table

from autocompress.objective.budget import parse_limit
from autocompress.search.catalogue import DEFAULT
from autocompress.search.problem import Candidate
from autocompress.study.config import load_study
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.subject import look

PACKAGES = ("autocompress", "numpy", "optuna", "scipy", "torch")
TABLES = ("adjoint", "swap")
SHOWN = (10, 50, 100, 1000)
NEAR = 1.01  # times the best known counts as having found it
_judge: list[Judge] = []  # what a forked worker inherits


class Lines:
    """Progress as plain lines on stderr."""

    def stage(self, name: str, detail: str = "") -> None:
        print(f"{name}: {detail}" if detail else name, file=sys.stderr, flush=True)

    def progress(self, done: int, total: int, detail: str = "") -> None:
        if total >= 100 and done % (total // 10) == 0:
            print(f"  {done} of {total} {detail}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)


def entries(options: argparse.Namespace, prepared: Prepared) -> list[Entry]:
    """Every run to make; the longest first, so that the workers end together."""
    passes = price_passes(prepared, TABLES) if options.grant_price_passes else 0
    made = []
    for seed in range(options.seeds):
        for text in options.budgets.split(","):
            limit = parse_limit("size", text).bound(prepared.model.size_bytes)
            few = Entry("ours", DEFAULT, TABLES, text, limit, seed, options.evaluations)
            made += [few, replace(few, name="ours, adjoint only", tables=TABLES[:1])]
            if seed == 0:
                made += [
                    replace(few, name=f"solver, {table}", sampler="", tables=(table,))
                    for table in TABLES
                ]
            many = replace(few, evaluations=options.rival_evaluations, more=passes)
            made += [replace(many, name=name, sampler=name) for name in RIVALS]
    return sorted(made, key=lambda entry: RIVALS.index(entry.name) if entry.name in RIVALS else 9)


def outcomes(todo: Sequence[Entry], judge: Judge, workers: int) -> Iterator[Outcome]:
    """Runs all, in any order."""
    _judge[:] = [judge]
    if workers == 1:
        yield from map(_run, todo)
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(_run, todo)


def _run(entry: Entry) -> Outcome:
    torch.set_num_threads(1)
    return run(entry, _judge[0])


def best_known(
    prepared: Prepared, known: Mapping[Candidate, float], limit_bytes: float
) -> tuple[float, int]:
    """The smallest KL that any run met within a limit, and how many candidates were within it."""
    rows = np.array(list(known), dtype=np.int64)
    fits = size_problem(prepared, TABLES, limit_bytes).feasible(rows)
    values = np.array(list(known.values()))[fits]
    return (float(values.min()), len(values)) if len(values) else (math.inf, 0)


def row(prepared: Prepared, outcome: Outcome, best: tuple[float, int]) -> dict[str, Any]:
    """One line of the figures."""
    entry, candidate = outcome.entry, outcome.candidate
    chosen = prepared.space.candidate(candidate) if candidate else None
    problem = size_problem(prepared, TABLES, entry.limit_bytes)
    ours = entry.name not in RIVALS
    return {
        "budget": entry.budget,
        "limit_bytes": round(entry.limit_bytes),
        "entry": entry.name,
        "seed": entry.seed,
        "kl": _finite(outcome.kl),
        "kl_after": {count: _finite(kl) for count, kl in outcome.kl_after.items()},
        "near_best_after": next((n for n, kl in outcome.better if kl <= NEAR * best[0]), None),
        "over_best_known": _finite(outcome.kl / best[0]),
        "best_known": _finite(best[0]),
        "known_within_limit": best[1],
        "evaluations": outcome.evaluations,
        "within_limit": outcome.within,
        "price_passes": price_passes(prepared, entry.tables) if ours else 0,
        "ask_tell_ms": round(outcome.ask_tell_ms, 3),
        "size_bytes": round(problem.cost(SIZE, candidate)) if candidate else None,
        "candidate": chosen.as_dict() if chosen else None,
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median KL over the seeds, and over the budgets the least of the best other's over ours."""
    kl: dict[str, dict[str, float | None]] = {}
    ratios = []
    for budget in dict.fromkeys(line["budget"] for line in rows):
        values = {
            name: _median(_lines(rows, budget, name), lambda line: line["kl"])
            for name in ("ours", *RIVALS)
        }
        kl[budget] = {name: _finite(value) for name, value in values.items()}
        ratios.append(min(values[name] for name in RIVALS) / max(values["ours"], 1e-300))
    return {"kl": kl, "worst_ratio": _finite(round(min(ratios), 4))}


def _lines(rows: Sequence[Mapping[str, Any]], budget: str, name: str) -> list[Mapping[str, Any]]:
    return [line for line in rows if (line["budget"], line["entry"]) == (budget, name)]


def _median(
    lines: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float | None]
) -> float:
    """Median over seeds; a run that found nothing within the limit counts as infinite."""
    values = [value(line) for line in lines]
    return statistics.median(math.inf if item is None else item for item in values)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _after(count: int, line: Mapping[str, Any]) -> float | None:
    """KL after at most so many evaluations."""
    counts = [number for number in line["kl_after"] if number <= count]
    return line["kl_after"][max(counts)] if counts else None


def show(rows: Sequence[Mapping[str, Any]], seeds: int) -> None:
    """One table; medians over the seeds."""
    title = "KL to the original within a size limit, in 1e-3 nats"
    table = Table(title=title + (f"; medians of {seeds} seeds" if seeds > 1 else ""))
    table.add_column("size", no_wrap=True)
    table.add_column("sampler", no_wrap=True)
    heads = ("trials", "within limit", "price passes", *(f"KL after {n}" for n in SHOWN))
    for head in (*heads, "KL", "over ours", "over best", "near best after", "ms a trial"):
        table.add_column(head, justify="right", no_wrap=head == "KL")
    for budget in dict.fromkeys(line["budget"] for line in rows):
        ours = _median(_lines(rows, budget, "ours"), lambda line: line["kl"])
        names = dict.fromkeys(line["entry"] for line in rows)
        for number, name in enumerate(sorted(names, key=_place)):
            lines = _lines(rows, budget, name)
            kl = _median(lines, lambda line: line["kl"])
            reached = max(line["evaluations"] for line in lines)
            after = [_median(lines, partial(_after, n)) if n <= reached else None for n in SHOWN]
            table.add_row(
                "" if number else budget,
                name,
                str(reached),
                f"{_median(lines, lambda line: line['within_limit']):.0f}",
                str(lines[0]["price_passes"]),
                *("" if value is None else _milli(value) for value in after),
                _range([line["kl"] for line in lines]),
                f"{kl / ours:.2f}",
                f"{kl / lines[0]['best_known']:.2f}",
                _count(_median(lines, lambda line: line["near_best_after"])),
                f"{_median(lines, lambda line: line['ask_tell_ms']):.1f}",
            )
        table.add_section()
    Console(width=150).print(table)
    for budget in dict.fromkeys(line["budget"] for line in rows):
        line = _lines(rows, budget, "ours")[0]
        print(
            f"{budget}: best known {_milli(line['best_known'])} among"
            f" {line['known_within_limit']} measured within the limit"
        )


def _place(name: str) -> int:
    order = ("ours", "ours, adjoint only", "solver, swap", "solver, adjoint", *RIVALS)
    return order.index(name)


def _count(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"


def _milli(value: float) -> str:
    return f"{1000 * value:.3f}" if math.isfinite(value) else "none"


def _range(values: Sequence[float | None]) -> str:
    known = [math.inf if value is None else value for value in values]
    middle = _milli(statistics.median(known))
    return middle if len(known) == 1 else f"{middle} ({_milli(min(known))}-{_milli(max(known))})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="lenet5_mnist", help="name or folder")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--seeds", type=int, default=1, help="runs of every sampler")
    parser.add_argument("--evaluations", type=int, default=100, help="of our sampler")
    parser.add_argument("--rival-evaluations", type=int, default=1000, help="of each other one")
    parser.add_argument("--budgets", default="5%,3%,2.5%", help="of the original's bytes")
    parser.add_argument(
        "--grant-price-passes",
        action="store_true",
        help="go on with the others for as many evaluations as our price tables took passes",
    )
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=Path("runs/bench_search"), help="the bank")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    lines = Lines()
    study = load_study(study_folder(options.study))
    options.out.mkdir(parents=True, exist_ok=True)
    model, space = look(study, lines)
    prepared = prepare(study, model, space, options.out, lines)
    todo = entries(options, prepared)
    lines.stage("search", f"{len(todo)} runs on {options.workers} workers")
    found = []
    with multiprocessing.Manager() as manager:
        shared = manager.dict() if options.workers > 1 else {}
        for outcome in outcomes(todo, Judge(prepared, shared), options.workers):
            found.append(outcome)
            entry, spent = outcome.entry, time.perf_counter() - begun
            text = f"{entry.budget} {entry.name}, seed {entry.seed}: KL {outcome.kl:.6f}"
            lines.note(f"{len(found)} of {len(todo)}, {spent:.0f} s: {text}")
        known = dict(shared)
    limits = {entry.budget: entry.limit_bytes for entry in todo}
    best = {budget: best_known(prepared, known, limit) for budget, limit in limits.items()}
    found.sort(
        key=lambda o: (list(limits).index(o.entry.budget), _place(o.entry.name), o.entry.seed)
    )
    rows = [row(prepared, outcome, best[outcome.entry.budget]) for outcome in found]
    show(rows, options.seeds)
    figures = summary(rows)
    lines.stage("done", f"{time.perf_counter() - begun:.0f} s, {len(known)} candidates measured")
    print(f"worst ratio, the best other's KL over ours: {figures['worst_ratio']}")
    if options.json:
        write_figures(options.json, "search", study.device, PACKAGES, rows, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
