"""What a run directory says of its run: how it was begun, whether it goes on, what is known so
far.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import StorageError
from autocompress.files import read_json, write_json
from autocompress.study.storage import Record, load_records, lock

RUN_FILE = "run.json"
JOURNAL = "study.journal"
SCHEMA = 1


@dataclass(frozen=True)
class Status:
    """A run as seen from outside.

    Args:
        state: `running`, `finished` or `interrupted`.
        records: Evaluated candidates, in order.
        result: Content of `result.json`; empty before the first run has finished.
    """

    state: str
    records: tuple[Record, ...]
    result: Mapping[str, Any]


def begin(folder: Path, study: Path, overrides: Mapping[str, Any], budget: Sequence[str]) -> None:
    """Notes how a run was begun, so that `export` and `report` can find the study again.

    Raises:
        StorageError: If the folder cannot be written.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    value = {
        "schema": SCHEMA,
        "study": str(study.resolve()),
        "overrides": given,
        "budget": list(budget),
        "finished": False,
    }
    write_json(folder / RUN_FILE, value)


def finish(folder: Path) -> None:
    """Notes that the run came to its end."""
    write_json(folder / RUN_FILE, {**read_run(folder), "finished": True})


def read_run(folder: Path) -> dict[str, Any]:
    """How the run was begun.

    Raises:
        StorageError: If the folder holds no run.
    """
    if not (folder / RUN_FILE).is_file():
        raise StorageError(f"{folder}: not a run directory (it has no {RUN_FILE})")
    value = read_json(folder / RUN_FILE)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise StorageError(f"{folder / RUN_FILE}: not a run record of schema {SCHEMA}")
    return value


def status(folder: Path) -> Status:
    """The state of a run; reads while another process may be writing.

    Raises:
        StorageError: If the folder holds no run, or its files are damaged.
    """
    run = read_run(folder)
    journal = folder / JOURNAL
    records = tuple(load_records(journal)) if journal.is_file() else ()
    result = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    if _is_running(journal):
        return Status("running", records, result)
    return Status("finished" if run["finished"] else "interrupted", records, result)


def _is_running(journal: Path) -> bool:
    if not journal.with_suffix(".pid").is_file():
        return False
    try:
        os.close(lock(journal))
    except StorageError:
        return True
    return False
