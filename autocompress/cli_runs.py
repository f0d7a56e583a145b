"""The commands that look at a run: `show`, `report` and `dashboard`."""

from __future__ import annotations

from typing import Annotated

import typer

from autocompress.cli_options import RunFolder, Storage
from autocompress.report.terminal import say


def show(run: RunFolder, storage: Storage = None) -> None:
    """Show a run, also while it goes on: state, best point, front, the limit that binds."""
    from rich.console import Console

    from autocompress.report.device_tables import coverage_text
    from autocompress.report.tables import front_table, result_table
    from autocompress.study.devices import recorded_coverage
    from autocompress.study.front import front_of, table_of
    from autocompress.study.place import UNSAVED
    from autocompress.study.status import status

    console = Console()
    found = status(run, storage or "")
    console.print(
        f"{run}: {found.state}, {len(found.records)} candidates evaluated", highlight=False
    )
    if found.place.text:
        say(f"storage: {found.place}, study {found.place.study}")
    if found.unsaved:
        say(f"{found.unsaved} candidates wait in {UNSAVED}; the next run writes them first")
    if found.state != "finished" and found.result:
        console.print("the result below is that of the last finished run", highlight=False)
    best = ""
    if found.result:
        best = found.result["best"]["candidate"]
        console.print(result_table(found.result, found.metric))
        met = "met" if found.result["budget_met"] else "not met"
        binding = found.result["binding"]
        console.print(f"budget {met}; {f'{binding} binds' if binding else 'no limit binds'}")
    front = front_of(found.records)
    coverage = recorded_coverage(run)
    if coverage and (front or found.result):
        say(coverage_text(coverage.as_dict()))
    if front:
        console.print(front_table(table_of(front, {}), best=best))


def report(run: RunFolder) -> None:
    """Write the run's report.html again."""
    from autocompress.report.html import write_report
    from autocompress.study.status import read_run

    read_run(run)
    typer.echo(write_report(run))


def dashboard(
    run: RunFolder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8080,
    open: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    storage: Storage = None,
) -> None:
    """Show a run's trials in optuna-dashboard, also while the run goes on; nothing is changed."""
    from autocompress.study.dashboard import serve
    from autocompress.study.status import place_in

    place = place_in(run, storage or "")

    def ready(url: str) -> None:
        say(f"{place}, study {place.study}: {url} (Ctrl-C ends it)")
        if open:
            typer.launch(url)

    serve(place, host, port, ready)
