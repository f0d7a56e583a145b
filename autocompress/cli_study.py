"""The commands before the first run: `init` writes a study, `check` looks for its mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli_options import StudyFolder
from autocompress.report.terminal import say


def init(
    folder: Annotated[Path, typer.Argument(help="New study; what is there is never overwritten.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="module:function that returns it, a .pt2 of torch.export, or a folder of"
            " transformers (config.json, *.safetensors); an example that runs at once without.",
        ),
    ] = None,
) -> None:
    """Write a study to start from: study.toml and task.py, with comments."""
    from autocompress.study.scaffold import FILES, next_steps, write_study

    source = write_study(folder, model or "")
    if source is not None:
        say(f"{source.title}: takes {', '.join(source.inputs)}")
    for name in FILES:
        say(f"  {folder / name}")
    say("next:")
    for step in next_steps(folder, source):
        say(f"  {step}")


def check(
    study: StudyFolder,
    space: Annotated[str | None, typer.Option(help="Search space: preset or .toml.")] = None,
    device: Annotated[str | None, typer.Option(help="See `autocompress devices`.")] = None,
) -> None:
    """Look for mistakes before time is spent: model, data, evaluate, leaks, layers, export.

    Exits with 0 where a run would work, warnings or not, and with 2 where there are errors.
    """
    from rich.console import Console

    from autocompress.report.check_table import checks_table, verdict
    from autocompress.report.progress import Display
    from autocompress.study.checkup import check_study
    from autocompress.study.config import load_study

    loaded = load_study(study, {"space": space, "device": device})
    console = Console()
    with Display(console) as display:
        checks = check_study(loaded, display)
    console.print(checks_table(checks))
    text, style = verdict(checks, study)
    say(text, style)
    if any(row.state == "error" for row in checks):
        raise typer.Exit(2)
