"""The search benchmark in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from checks import median
from contest import OURS, Contest
from rich.console import Console
from rich.table import Table
from score import Scored
from summary import best_known

SHOWN = (50, 200, 2000)  # passes


def show(scored: Sequence[Scored], contest: Contest, figures: Mapping[str, Any]) -> None:
    """Prints the table of one study and what holds of the promises."""
    names = list(dict.fromkeys(item.name for item in scored))
    seeds = len({item.seed for item in scored})
    budgets = list(contest.budgets)
    table = Table(
        title=f"{contest.study}: KL to the original in 1e-3 nats and hypervolume, medians of"
        f" {seeds} seeds"
    )
    table.add_column("sampler", no_wrap=True)
    heads = (
        "pricing passes",
        "search passes",
        "proposals",
        "seconds",
        *(f"KL at {budget}" for budget in budgets),
        *(f"volume after {mark}" for mark in SHOWN),
    )
    for head in heads:
        table.add_column(head, justify="right")
    for name in names:
        runs = [item for item in scored if item.name == name]
        table.add_row(
            name,
            f"{runs[0].pricing:.0f}",
            f"{median(item.outcome.spent for item in runs):.0f}",
            f"{median(item.outcome.proposals for item in runs):.0f}",
            f"{median(item.outcome.total_s for item in runs):.1f}",
            *(milli(median(i.losses[b].after(math.inf) for i in runs)) for b in budgets),
            *(f"{median(i.volume.after(mark) for i in runs):.4f}" for mark in SHOWN),
            style="bold" if name == OURS else "",
        )
    known = best_known(contest)
    table.add_section()
    table.add_row("best known", *[""] * 4, *(milli(known[b]) for b in budgets), "", "1", "")
    console = Console(width=170)
    console.print(table)
    for name, check in figures["checks"].items():
        nested = name == "equal_search_passes"
        for mark, part in check.items() if nested else (("", check),):
            console.print(f"  {f'{name} {mark}':44} {described(part)}", highlight=False)


def described(check: Mapping[str, Any]) -> str:
    """One check in a line."""
    if "better" not in check:
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in check.items()
        )
    counts = ", ".join(f"{check[name]} {name}" for name in ("better", "tied", "worse"))
    least = "none" if check["least"] is None else f"{check['least']:.3f}"
    return f"{counts}; the other's loss over ours at least {least} ({check['where']})"


def milli(value: float) -> str:
    """A loss in thousandths."""
    return f"{1000 * value:.4g}" if math.isfinite(value) else "none"
