"""The command line.  Heavy imports stay inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from autocompress.cli_archive import inspect
from autocompress.cli_devices import devices, profile
from autocompress.cli_nightly import NIGHTLY_CODES, diff, nightly
from autocompress.cli_options import (
    EXIT_NOT_MET,
    Budget,
    Goal,
    Storage,
    StudyFolder,
    StudyName,
    Trackers,
    recovery_overrides,
)
from autocompress.cli_runs import dashboard, export, report, retarget, show
from autocompress.cli_study import check, init
from autocompress.cli_tuning import tune_settings
from autocompress.errors import AutocompressError
from autocompress.report.terminal import say

EXIT_INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands; an interrupted one says how to go on."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted: run the same command to go on", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    help="Compresses trained PyTorch models to a size, latency and quality budget, as measured.",
    epilog="Exit codes: 0 budget met, 2 bad usage or input, 3 budget not met (closest point"
    " saved), 130 interrupted (run the same command to go on). `nightly` adds 1 (a study failed or"
    " asks for a new baseline) and 4 (a regression).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command()(init)
app.command()(check)


@app.command()
def run(
    study: StudyFolder,
    goal: Goal = None,
    budget: Budget = None,
    space: Annotated[str | None, typer.Option(help="Search space: preset or .toml.")] = None,
    objective: Annotated[str | None, typer.Option(help="Objective: preset or .toml.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Where the model will run: see `autocompress devices`.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="What ships: archive or onnx.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="budget (ours), cmaes, tpe, nsga2, nsga3 or random.")
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="Measurements on all search inputs; one that is cut short costs a part."
        ),
    ] = None,
    max_time: Annotated[
        str | None, typer.Option(help="Stop searching after this time, such as 10m, and confirm.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop searching when the front has not grown beyond the noise for the price of"
            " this many passes over the search inputs; 0 is automatic."
        ),
    ] = None,
    stop_when_met: Annotated[
        bool | None,
        typer.Option(
            "--stop-when-met/--no-stop-when-met",
            help="Stop searching at the first candidate that keeps all limits, quality measured"
            " by your metric.",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where candidates are measured: local (threads), processes, or ray (Ray Tune).",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster: auto or HOST:PORT; else a local Ray.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads, processes or Ray workers; 0 is one for each core."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Candidates asked for at a time: several for each of many workers."),
    ] = None,
    candidate_time: Annotated[
        str | None,
        typer.Option(
            help="Longest time of a candidate before its worker (not of local) is ended and it is"
            " given up, such as 5m.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes every draw.")] = None,
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Train the best candidate, taught by the original: distil (same zeros and bits),"
            " blocks (the same, a run of layers at a time), squeeze (down to the limit on size)"
            " or none.",
        ),
    ] = None,
    recover_time: Annotated[
        str | None, typer.Option(help="Longest training of a candidate, such as 10m.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; runs/<study> by default.")
    ] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="A finished run whose best and front are measured first; its bank and device"
            " are taken where they are still valid.",
        ),
    ] = None,
    storage: Storage = None,
    study_name: StudyName = None,
    track: Trackers = None,
) -> None:
    """Compress a study's model to its budget; an interrupted run goes on.

    A goal is what is wanted, a joint, and limits joined by "and":

    - minimise latency subject to size<=25% and quality>=-1pt
    - maximise quality s.t. size<=2MB and latency<=80% (soft)
    - as small as possible within 0.5 points
    - front of quality, size and latency

    Wanted: minimise size or latency, maximise quality, as small or fast or
    good as possible, or a front. Joint: subject to, s.t. or within.
    Limits on size and latency: a share of the original (25%) or a value
    (2 MB, 3 ms). On quality: what may be lost (-0.5pt, -1%) or the metric's
    value (98.5); the metric's name may stand for quality. Signs are <=, >=,
    and ~ for a soft limit, which may be missed; so may one marked (soft).
    """
    from rich.console import Console

    from autocompress.report.device_tables import further_costs, met_text
    from autocompress.report.html import write_report
    from autocompress.report.progress import Display
    from autocompress.report.recovery_text import recovery_lines
    from autocompress.report.tables import result_table
    from autocompress.study.config import load_study
    from autocompress.study.run import run_study
    from autocompress.study.trackers.run_tracking import attach

    overrides = {
        "goal": goal,
        "space": space,
        "objective": objective,
        "device": device,
        "format": format,
        "sampler": sampler,
        "evaluations": evaluations,
        "max_time": max_time,
        "patience": patience,
        "stop_when_met": stop_when_met,
        "executor": executor,
        "address": address,
        "workers": workers,
        "batch": batch,
        "candidate_time": candidate_time,
        "seed": seed,
        "recovery": recovery_overrides(recover, recover_time),
        "storage": storage,
        "study_name": study_name,
        "trackers": track,
    }
    loaded = load_study(study, overrides, budget or ())
    folder = out or Path("runs") / loaded.name
    console = Console()
    with Display(console) as display:
        outcome = run_study(loaded, folder, display, warm_start)
    report = write_report(folder)
    if loaded.settings.trackers:
        attach(loaded, folder, [report], say)
    console.print(result_table(outcome.result, loaded.settings.metric))
    seconds = outcome.result["seconds"]
    spent = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    say(f"seconds: {spent}; total {sum(seconds.values()):.1f}")
    for name in ("model.acz", "model.onnx", "plan.json", "front.csv", "result.json"):
        if (folder / name).is_file():
            say(f"  {folder / name}")
    say(f"  {report}")
    for line in further_costs(outcome.result["estimates"]):
        say(line)
    for line in recovery_lines(outcome.result, loaded.settings.metric_unit):
        say(line)
    if not outcome.budget_met:
        best, binding = outcome.result["best"]["candidate"], outcome.result["binding"]
        say(
            f"budget not met: the limit on {binding} binds; the closest point, {best}, was saved",
            "bold red",
        )
        raise typer.Exit(EXIT_NOT_MET)
    asked = outcome.result["budget"]
    missed = [name for name, row in asked.items() if not row["met"]]
    for name in missed:
        say(f"soft limit on {name} missed: {asked[name]['text']} was aimed at", "yellow")
    console.print(met_text(outcome.result) if asked else "no limits to meet", style="bold green")


@app.command()
def layers(
    study: StudyFolder,
    space: Annotated[str | None, typer.Option(help="Search space: preset or .toml.")] = None,
    device: Annotated[str | None, typer.Option(help="See `autocompress devices`.")] = None,
) -> None:
    """List every layer: shape, parameters, shares, options, and why one is left alone."""
    from rich.console import Console

    from autocompress.report.device_tables import footprint_lines
    from autocompress.report.group_table import groups_table
    from autocompress.report.tables import layers_table
    from autocompress.study.config import load_study
    from autocompress.study.layers import channel_groups, dense_footprint, layer_shares
    from autocompress.study.subject import trace_model

    console = Console()
    loaded = load_study(study, {"space": space, "device": device})
    model = trace_model(loaded)
    console.print(layers_table(layer_shares(loaded, model)))
    if loaded.device.sheet is not None:
        say(f"time: estimated from the data sheet of {loaded.device.name}")
    for line in footprint_lines(dense_footprint(loaded, model)):
        say(line)
    say(f"options of {loaded.space_file}:")
    for line in loaded.space.axes():
        say(f"  {line}")
    if min(loaded.space.channels) < 1:
        console.print(groups_table(channel_groups(loaded, model)))


app.command()(show)


app.command()(export)
app.command()(retarget)
app.command()(report)
app.command()(dashboard)
app.command()(inspect)
app.command()(devices)
app.command()(profile)
app.command()(tune_settings)
app.command(epilog=NIGHTLY_CODES)(nightly)
app.command()(diff)


def main() -> None:
    """Entry point: prints what went wrong as one sentence and exits with its code."""
    try:
        app()
    except AutocompressError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
