"""The commands that take a run: `show`, `export`, `retarget`, `report` and `dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli_options import EXIT_NOT_MET, Budget, Goal, RunFolder, Storage
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


def export(
    run: RunFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    candidate: Annotated[str | None, typer.Option(help="Id from the front.")] = None,
    budget: Budget = None,
    format: Annotated[
        str | None, typer.Option(help="onnx or archive; else by the ending.")
    ] = None,
    storage: Storage = None,
) -> None:
    """Write any evaluated point as an ONNX file or a packed archive, without a new search."""
    from rich.console import Console

    from autocompress.report.progress import Display
    from autocompress.report.units import size_text
    from autocompress.study.export import export_point

    console = Console()
    with Display(console) as display:
        point, size = export_point(
            run, output, candidate, budget or (), format, display, storage or ""
        )
    say(f"{output}: candidate {point}, {size_text(size)}")


def retarget(
    run: RunFolder,
    budget: Budget = None,
    goal: Goal = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            "--out",
            help="Model file, .acz or .onnx; RUN/retargeted/CANDIDATE.acz by default.",
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Answer a new budget from a finished run, by 16 evaluations; limits that are not named stay.

    The best point of the run for the budget is measured and written, with
    its plan; quality is that of the selection split.
    """
    from rich.console import Console

    from autocompress.report.device_tables import further_costs, met_text
    from autocompress.report.progress import Display
    from autocompress.report.tables import result_table
    from autocompress.study.retarget import retarget as answer

    console = Console()
    with Display(console) as display:
        found = answer(run, budget or (), goal, out, display, storage or "")
    result = found.result
    console.print(result_table(result, found.metric))
    say(
        f"{result['evaluations']} new candidates; {result['seconds']:.1f} s; quality on the"
        " selection split"
    )
    for path in found.files:
        say(f"  {path}")
    for line in further_costs(result["estimates"]):
        say(line)
    if not found.budget_met:
        best, binding = result["best"]["candidate"], result["binding"]
        binds = f"the limit on {binding} binds; " if binding else ""
        say(f"budget not met: {binds}the closest point is {best}", "bold red")
        raise typer.Exit(EXIT_NOT_MET)
    console.print(met_text(result), style="bold green")


def report(
    run: RunFolder,
    open: Annotated[
        bool, typer.Option("--open", help="Show it in the browser, from disk: nothing is served.")
    ] = False,
) -> None:
    """Write the run's report.html again."""
    import webbrowser

    from autocompress.report.html import write_report
    from autocompress.study.status import read_run

    read_run(run)
    written = write_report(run)
    typer.echo(written)
    if open and not webbrowser.open(written.resolve().as_uri()):
        say("no browser was found; open the file yourself")


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
