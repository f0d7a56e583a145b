"""How well a candidate's loss is guessed from single swaps: their sum, and the landscape.

Random near-optimal candidates at each budget are measured; what counts is the order within one
budget, because that is where a search has to choose.

    python benchmarks/landscape.py --study resnet20_fashion --images 128
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arena import Lines, open_contest
from contest import SIZE, Contest
from house_format import write_figures
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from autocompress.hardware.device import get_device
from autocompress.search.lagrange import solve_nearly
from autocompress.search.landscape import Landscape
from autocompress.search.problem import Candidate, Floats
from autocompress.search.seeds import perturbed

PACKAGES = ("autocompress", "numpy", "scipy", "torch")


def drawn(contest: Contest, limit: float, count: int, seed: int) -> list[Candidate]:
    """Distinct solutions of the swap table under random factors, within a size limit."""
    problem = contest.problem()
    rng = np.random.default_rng(seed)
    found: dict[Candidate, None] = {}
    for _ in range(20 * count):
        solved = solve_nearly(problem, perturbed(problem.losses["swap"], rng), {SIZE: limit})
        if solved is not None:
            found[solved] = None
        if len(found) == count:
            break
    return list(found)


def judged(guess: Floats, losses: Floats) -> dict[str, float]:
    """A guess against the measured losses: rank correlation, bias and scatter of the log ratio."""
    error = np.log(losses / guess)
    return {
        "spearman": float(spearmanr(guess, losses).statistic),
        "bias": float(np.exp(error.mean())),
        "scatter_percent": 100 * float(error.std()),
    }


def rows(contest: Contest, count: int, seed: int) -> list[dict[str, Any]]:
    """One row a budget."""
    problem = contest.problem()
    table = problem.losses["swap"]
    guesses = {"sum": Landscape(table), "landscape": Landscape(table, problem.products["swap"])}
    made = []
    for text, limit in contest.budgets.items():
        candidates = drawn(contest, limit, count, seed)
        losses = np.array([contest.loss(candidate) for candidate in candidates])
        found = np.array(candidates, dtype=np.int64)
        made.append(
            {
                "study": contest.study,
                "budget": text,
                "candidates": len(candidates),
                "least": float(losses.min()),
                "most": float(losses.max()),
                **{name: judged(guess.values(found), losses) for name, guess in guesses.items()},
            }
        )
    return made


def show(made: Sequence[dict[str, Any]]) -> None:
    table = Table(title="Loss of near-optimal candidates, guessed from single swaps")
    for head in ("study", "size", "candidates", "KL, 1e-3 nats"):
        table.add_column(head)
    for name in ("sum", "landscape"):
        for head in ("Spearman", "measured / guess", "scatter"):
            table.add_column(f"{name}: {head}", justify="right")
    for row in made:
        figures = [
            text
            for name in ("sum", "landscape")
            for text in (
                f"{row[name]['spearman']:.2f}",
                f"{row[name]['bias']:.2f}",
                f"{row[name]['scatter_percent']:.0f} %",
            )
        ]
        losses = f"{1000 * row['least']:.3g}-{1000 * row['most']:.3g}"
        table.add_row(row["study"], row["budget"], str(row["candidates"]), losses, *figures)
    Console(width=160).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", action="append", help="name or folder; may be repeated")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--candidates", type=int, default=40, help="for each budget")
    parser.add_argument("--budgets", default="", help="of the original's bytes, such as 5%%,3%%")
    parser.add_argument("--images", type=int, default=0, help="search inputs; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench_search"), help="banks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = []
    for study in options.study or ["lenet5_mnist"]:
        contest, _ = open_contest(study, options, Lines())
        made += rows(contest, options.candidates, options.seed)
    show(made)
    if options.json:
        summary = {
            name: {
                "spearman": statistics.median(row[name]["spearman"] for row in made),
                "scatter_percent": statistics.median(row[name]["scatter_percent"] for row in made),
            }
            for name in ("sum", "landscape")
        }
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "landscape", device, PACKAGES, made, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
