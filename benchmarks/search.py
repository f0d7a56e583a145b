"""The best front per full pass of the proxy: our sampler against everything else.

All read the same bank, menus and proxy: mean KL to the original, in nats, on the search split.
One run of a sampler serves all budgets.  The first run makes the bank, later ones reuse it, and
every loss that was measured; so an interrupted benchmark goes on:

    python benchmarks/search.py --study lenet5_mnist --seeds 5 --json runs/search.json
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one thread a worker

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from arena import Lines, open_contest
from entries import entries
from house_format import write_figures
from regret import measure_regret
from search_figure import write_figure
from search_table import show
from summary import rows, score, study_summary
from workers import outcomes

from autocompress.hardware.device import get_device

PACKAGES = ("autocompress", "cmaes", "numpy", "optuna", "scipy", "torch")
STUDIES = ("lenet5_mnist", "resnet20_fashion")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--study",
        action="append",
        help=f"name or folder; may be repeated; `all` means {', '.join(STUDIES)}",
    )
    parser.add_argument("--json", type=Path, help="where to write figures; beside it the drawing")
    parser.add_argument("--seeds", type=int, default=5, help="runs of every sampler")
    parser.add_argument("--evaluations", type=float, default=200, help="full passes of ours")
    parser.add_argument(
        "--rival-evaluations", type=float, default=2000, help="full passes of each other one"
    )
    parser.add_argument(
        "--budgets", default="", help="of the original's bytes, such as 5%%,3%%; by study if empty"
    )
    parser.add_argument(
        "--images", type=int, default=0, help="search inputs that losses are measured on; 0: all"
    )
    parser.add_argument(
        "--confirm", type=int, default=50, help="candidates confirmed for the proxy's regret"
    )
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench_search"), help="banks, prices and losses"
    )
    return parser


def main(given: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(given)
    torch.set_num_threads(1)
    begun = time.perf_counter()
    lines = Lines()
    asked = options.study or ["lenet5_mnist"]
    asked = list(STUDIES) if asked == ["all"] else asked
    drawn, table, figures = [], [], {}
    for study in asked:
        contest, prepared = open_contest(study, options, lines)
        todo = entries(contest, options.seeds, options.evaluations, options.rival_evaluations)
        lines.stage("search", f"{study}: {len(todo)} runs on {options.workers} workers")
        found = []
        for outcome in outcomes(todo, contest, options.workers):
            found.append(outcome)
            spent = time.perf_counter() - begun
            text = f"{outcome.entry.name}, seed {outcome.entry.seed}: {outcome.spent:.0f} passes"
            lines.note(f"{len(found)} of {len(todo)}, {spent:.0f} s: {text}")
        lines.stage("confirm", f"{options.confirm} candidates at the middle budget")
        regret = measure_regret(prepared, contest, options.confirm) if options.confirm else None
        scored = score(found, contest)
        figures[contest.study] = study_summary(scored, contest, options.evaluations, regret)
        table += rows(scored, contest)
        drawn.append((contest, scored))
        show(scored, contest, figures[contest.study])
        if options.json:
            summary = {
                key: {study: values[key] for study, values in figures.items()}
                for key in figures[contest.study]
            }
            device = get_device("onnxruntime-cpu")
            write_figures(options.json, "search", device, PACKAGES, table, summary)
            write_figure(options.json.with_suffix(".html"), drawn)
    lines.stage("done", f"{time.perf_counter() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
