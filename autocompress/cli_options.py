"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXIT_NOT_MET = 3

StudyFolder = Annotated[Path, typer.Argument(help="Study folder: study.toml and task.py.")]
RunFolder = Annotated[Path, typer.Argument(help="Run directory, such as runs/lenet5_mnist.")]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=VALUE",
        help="size=10%, latency=2ms, energy=50%, quality=-0.5pt, quality>=98.5; ~ for = makes it a"
        " soft limit; may be repeated.",
    ),
]
Goal = Annotated[
    str | None,
    typer.Option(
        metavar="SENTENCE",
        help="What is wanted in one sentence, see above; replaces the study's goal and budget.",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where trials are recorded: the URL of a database, with ${NAME} from the"
        " environment, or a path ending in .journal; the run remembers it, less the password.",
    ),
]
StudyName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of the study in the storage; else a name of its own."),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="What also hears of the run: mlflow, tensorboard; may be repeated.",
    ),
]


def recovery_overrides(method: str | None, max_time: str | None) -> dict[str, str] | None:
    """Keys of the table `[recovery]` to replace; None for none of them."""
    keys = {"method": method, "max_time": max_time}
    return {key: value for key, value in keys.items() if value is not None} or None
