"""The commands that look at devices: `devices` lists them, `profile` measures one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.report.terminal import say


def devices(
    json: Annotated[Path | None, typer.Option(help="File for the same as figures.")] = None,
) -> None:
    """List every device: what it runs, how its costs are known, whether it is here."""
    from rich.console import Console

    from autocompress.files import write_json
    from autocompress.report.device_tables import device_notes, devices_table
    from autocompress.study.devices import device_rows

    rows = device_rows()
    Console().print(devices_table(rows))
    for line in device_notes(rows):
        say(line)
    if json is not None:
        write_json(json, {"schema": 1, "devices": rows})
        say(f"  {json}")


def profile(
    device: Annotated[str, typer.Argument(help="Device, such as onnxruntime-cpu.")],
    study: Annotated[
        Path | None, typer.Option(help="Study whose layers are timed; else a small reference net.")
    ] = None,
    import_: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="FILE.csv",
            help="Times measured on the real device, which take the place of a data sheet's"
            " estimates: operation, milliseconds, spread, blocks.",
        ),
    ] = None,
    export_operations: Annotated[
        Path | None,
        typer.Option(
            "--export-operations",
            metavar="FILE.csv",
            help="Write the operations that the study needs, to be filled in and imported.",
        ),
    ] = None,
) -> None:
    """Measure a device's table and judge its cost model on candidates it has not seen.

    Of a device that is known from its data sheet it says how many of the
    operations were imported as measured and how many are estimated.
    """
    from rich.console import Console

    from autocompress.report.device_tables import coverage_text
    from autocompress.report.progress import Display
    from autocompress.report.tables import fit_table
    from autocompress.report.units import latency_text
    from autocompress.study.devices import export_operations as export
    from autocompress.study.devices import import_file, measure_device

    if export_operations is not None:
        found = export(device, study, export_operations)
        total = found.measured + found.estimated
        say(f"{export_operations}: {total} operations, {found.measured} filled in already")
        return
    if import_ is not None:
        count, kept = import_file(device, import_)
        say(f"{count} operations imported from {import_}")
        if study is None:
            say(f"table: {kept}")
            return
    console = Console()
    with Display(console) as display:
        measured, path = measure_device(device, study, display)
    if measured.fit is not None:
        console.print(fit_table(measured.fit))
    else:
        say(f"latency of the original: {latency_text(measured.prices.predict({}))} (estimated)")
    say(coverage_text(measured.coverage.as_dict()))
    if path.is_file():
        say(f"table: {path}")
