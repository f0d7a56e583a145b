"""What is known of the neighbours of a good candidate before they are measured in full.

The landscape's optimum at each budget is measured with its slopes; then neighbours a few switches
away that are nearly as good.  How well are they told apart by the landscape, by the landscape with
these slopes, and by a part of the inputs, as the race sees it?

    python benchmarks/neighbours.py --study resnet20_fashion --images 128
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
from landscape import judged
from rich.console import Console
from rich.table import Table

from autocompress.hardware.device import get_device
from autocompress.search.lagrange import solve_nearly
from autocompress.search.moves import Neighbourhood, descend, switches
from autocompress.search.problem import Candidate, Floats, Problem
from autocompress.search.surrogate import Basis
from autocompress.search.tangents import Tangents
from autocompress.study.prepare import Prepared

PACKAGES = ("autocompress", "numpy", "scipy", "torch")
SHARES = (8, 4, 2)  # an eighth, a quarter and a half of the inputs
DRAWS = 20  # of such a part
POOL, REACH = 300, 4


def neighbours(
    problem: Problem, basis: Basis, place: Candidate, limit: float, count: int, seed: int
) -> list[Candidate]:
    """Distinct near-optimal candidates one to four switches away, half of them one or two."""
    rng = np.random.default_rng(seed)
    around, limits = Neighbourhood(problem, basis.table), {SIZE: limit}
    near = switches(around, basis.landscape, place, limits, POOL, REACH)
    rows = near[rng.permutation(len(near))]
    found = dict.fromkeys(tuple(row) for row in rows[: count // 2].tolist())
    for row in rows.tolist():
        further = switches(around, basis.landscape, tuple(row), limits, POOL // 5, REACH)
        found[tuple(further[int(rng.integers(len(further)))].tolist())] = None
        if len(found) >= count:
            break
    found.pop(place, None)
    return list(found)


def rows(contest: Contest, prepared: Prepared, count: int, seed: int) -> list[dict[str, Any]]:
    """One row a budget."""
    problem = contest.problem()
    basis = Basis(problem.losses["swap"], problem.products["swap"])
    rng = np.random.default_rng(seed)

    def samples(candidate: Candidate) -> Floats:
        return prepared.evaluate(prepared.space.candidate(candidate)).samples

    made = []
    for text, limit in contest.budgets.items():
        start = solve_nearly(problem, basis.table, {SIZE: limit})
        if start is None:
            continue
        around = Neighbourhood(problem, basis.table)
        place = descend(around, basis.landscape, start, {SIZE: limit})
        own = samples(place)
        tangents = Tangents(basis.landscape)
        tangents.add(place, float(own.mean()), prepared.evaluator.slopes(place))
        others = neighbours(problem, basis, place, limit, count, seed)
        measured = np.stack([samples(candidate) for candidate in others])
        losses = measured.mean(axis=1)
        row: dict[str, Any] = {
            "study": contest.study,
            "budget": text,
            "neighbours": len(others),
            "loss": float(own.mean()),
            "spread_percent": 100 * float(np.log(losses).std()),
            "landscape": judged(basis.landscape.quadratic(np.array(others)), losses),
            "tangent": judged(np.exp(tangents.log_losses(np.array(others))), losses),
        }
        for share in SHARES:
            parts = []
            for _ in range(DRAWS):
                part = rng.choice(len(own), max(2, len(own) // share), replace=False)
                ratio = measured[:, part].mean(axis=1) / own[part].mean()
                parts.append(judged(ratio * own.mean(), losses))
            row[f"1/{share}"] = {
                key: statistics.mean(part[key] for part in parts) for key in parts[0]
            }
        made.append(row)
    return made


def show(made: Sequence[dict[str, Any]]) -> None:
    names = ("landscape", "tangent", *(f"1/{share}" for share in SHARES))
    table = Table(title="Neighbours of a good candidate: rank correlation, scatter of the error")
    for head in ("study", "size", "neighbours", "KL, 1e-3 nats", "their spread", *names):
        table.add_column(head, justify="right")
    for row in made:
        figures = [
            f"{row[name]['spearman']:.2f}, {row[name]['scatter_percent']:.1f} %" for name in names
        ]
        table.add_row(
            row["study"],
            row["budget"],
            str(row["neighbours"]),
            f"{1000 * row['loss']:.3g}",
            f"{row['spread_percent']:.1f} %",
            *figures,
        )
    Console(width=160).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", action="append", help="name or folder; may be repeated")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--neighbours", type=int, default=60, help="for each budget")
    parser.add_argument("--budgets", default="", help="of the original's bytes, such as 5%%,3%%")
    parser.add_argument("--images", type=int, default=0, help="search inputs; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench_search"), help="banks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = []
    for study in options.study or ["lenet5_mnist"]:
        contest, prepared = open_contest(study, options, Lines())
        made += rows(contest, prepared, options.neighbours, options.seed)
    show(made)
    if options.json:
        names = ("landscape", "tangent", *(f"1/{share}" for share in SHARES))
        summary = {
            name: {
                key: statistics.median(row[name][key] for row in made)
                for key in ("spearman", "scatter_percent")
            }
            for name in names
        }
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "neighbours", device, PACKAGES, made, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
