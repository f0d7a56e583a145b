"""The command that looks into a packed archive: `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.report.terminal import say


def inspect(
    file: Annotated[Path, typer.Argument(help="Packed archive, such as runs/NAME/model.acz.")],
    json: Annotated[Path | None, typer.Option(help="Where to write the same as JSON.")] = None,
) -> None:
    """Take a packed archive apart: options, zeros, bytes by part, entropy; no model is needed."""
    from rich.console import Console

    from autocompress.deploy.inspect import inspect_archive
    from autocompress.files import write_json
    from autocompress.report.archive_tables import (
        archive_layers_table,
        archive_lines,
        archive_parts_table,
        archive_totals,
    )

    content = inspect_archive(file)
    console = Console()
    for line in archive_lines(file, content):
        say(line)
    if content.layers:
        console.print(archive_layers_table(content, console.width))
    console.print(archive_parts_table(content))
    for line in archive_totals(content):
        say(line)
    if json is not None:
        write_json(json, content.as_dict())
        say(f"  {json}")
