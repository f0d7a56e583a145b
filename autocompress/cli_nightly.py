"""The commands that run studies unattended and compare runs: `nightly` and `diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.report.terminal import say

NIGHTLY_CODES = (
    "Exit codes: 0 nothing got worse, 1 a study failed or asks for a new baseline, 2 bad usage or"
    " input, 3 nothing got worse but a budget was not met, 4 a regression, 130 interrupted (run"
    " the same command to go on)."
)


def nightly(
    studies: Annotated[
        Path, typer.Argument(help="Folder of study folders, or one study folder.")
    ] = Path("studies"),
    max_time: Annotated[
        str | None,
        typer.Option(help="Of the whole night, such as 6h; split over the studies that are left."),
    ] = None,
    baseline: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="A finished run that takes the place of its study's accepted one; may be"
            " repeated.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where nights are kept.")] = Path("runs/nightly"),
    accept: Annotated[
        bool,
        typer.Option("--accept", help="Accept what this night brings, whatever the verdict."),
    ] = False,
) -> None:
    """Run every study from its last accepted run, and say what became better or worse, and why.

    A night that was killed goes on with the same command. Better and same
    become the accepted run, worse never does.
    """
    from rich.console import Console

    from autocompress.report.night_files import write_night
    from autocompress.report.progress import Display
    from autocompress.study.config import parse_duration
    from autocompress.study.night_run import run_in_child
    from autocompress.study.nightly import finish
    from autocompress.study.nightly import nightly as run_night
    from autocompress.study.verdict import headline

    seconds = parse_duration(max_time) if max_time else None
    with Display(Console()) as display:
        night = run_night(
            studies, out, run_in_child, display, seconds, tuple(baseline or ()), accept
        )
    files = write_night(night)
    finish(night)
    styles = {"better": "green", "worse": "bold red", "failed": "bold red"}
    for study in night.studies:
        say(f"{study['study']}: {headline(study)}", styles.get(study["verdict"], ""))
        if study["budget_met"] is False:
            say(f"{study['study']}: budget not met: the limit on {study['binding']} binds")
    for path in files:
        say(f"  {path}")
    if night.exit_code:
        raise typer.Exit(night.exit_code)


def diff(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="A finished run directory.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one.")],
    json: Annotated[Path | None, typer.Option(help="Where to write the same as JSON.")] = None,
) -> None:
    """Show what moved between two runs: layer by layer, figure by figure, and where from."""
    from rich.console import Console

    from autocompress.files import write_json
    from autocompress.report.diff_tables import diff_lines, figures_table, moved_table
    from autocompress.study.diff import diff_runs

    found = diff_runs(first, second)
    console = Console()
    console.print(figures_table(found))
    if any(row["moved"] for row in found["layers"]):
        console.print(moved_table(found))
    for line in diff_lines(found):
        say(line)
    if json is not None:
        write_json(json, found)
        say(f"  {json}")
