"""The command that compares settings: `tune-settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli_options import Budget
from autocompress.report.terminal import say


def tune_settings(
    studies: Annotated[list[Path], typer.Argument(help="Study folders to rehearse.")],
    trials: Annotated[
        int, typer.Option(min=1, help="Sets of knobs tried, the defaults included.")
    ] = 16,
    evaluations: Annotated[int, typer.Option(min=1, help="Of each search.")] = 50,
    budget: Budget = None,
    space: Annotated[
        str | None, typer.Option(help="Search space: preset or .toml; a small one is faster.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Banks, device tables, and the two files below.")
    ] = Path("runs/tune-settings"),
    storage: Annotated[
        Path | None, typer.Option(help="Optuna journal; OUT/knobs.journal by default.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Figures; OUT/knobs.json by default.")] = None,
) -> None:
    """Compare the settings that are not per layer over short runs; an interrupted one goes on."""
    from rich.console import Console

    from autocompress.files import write_json
    from autocompress.report.progress import Display
    from autocompress.report.tuning_tables import importance_table, trials_table
    from autocompress.study.config import load_study
    from autocompress.study.tuning import tune

    console = Console()
    loaded = [load_study(folder, {"space": space}, budget or ()) for folder in studies]
    journal = storage or out / "knobs.journal"
    with Display(console) as display:
        found = tune(loaded, trials, evaluations, journal, out / "work", display)
    console.print(trials_table(found.rows, found.best))
    if found.importances:
        console.print(importance_table(found.importances))
    figures = json or out / "knobs.json"
    write_json(figures, found.as_dict(loaded))
    say(found.conclusion)
    say(f"  {journal}\n  {figures}")
