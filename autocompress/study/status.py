"""What a run directory says of its run: how it was begun, whether it goes on, what is known so
far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import StorageError
from autocompress.files import read_json, write_json
from autocompress.study.config import Study
from autocompress.study.lock import is_locked
from autocompress.study.storage import Record, load_records, refuse_changes

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
        metric: Name of the user's metric.
    """

    state: str
    records: tuple[Record, ...]
    result: Mapping[str, Any]
    metric: str


def begin(folder: Path, study: Study, fingerprint: Mapping[str, str]) -> None:
    """Notes how a run was begun, so that `show` and `export` can find the study again.

    Args:
        folder: The run directory.
        study: What is asked.
        fingerprint: What may not change in one run directory.

    Raises:
        StorageError: If the folder cannot be written.
        StudyMismatchError: If the folder was begun with another fingerprint.
    """
    if (folder / RUN_FILE).is_file():
        refuse_other(folder, read_run(folder), fingerprint)
    value = {
        "schema": SCHEMA,
        "study": str(study.folder.resolve()) if study.folder else "",
        "metric": study.settings.metric,
        "overrides": dict(study.overrides),
        "budget": list(study.given_budget),
        "fingerprint": dict(fingerprint),
        "finished": False,
    }
    write_json(folder / RUN_FILE, value)


def refuse_other(folder: Path, begun: Mapping[str, Any], fingerprint: Mapping[str, str]) -> None:
    """Raises StudyMismatchError if a run was begun with another fingerprint."""
    refuse_changes(folder, begun.get("fingerprint") or fingerprint, fingerprint)


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
    keys = {"study", "overrides", "budget", "finished"}
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or not keys <= set(value):
        raise StorageError(f"{folder / RUN_FILE}: not a run record of schema {SCHEMA}")
    return value


def status(folder: Path) -> Status:
    """The state of a run; reads while another process may be writing.

    Raises:
        StorageError: If the folder holds no run, or its files are damaged.
    """
    run = read_run(folder)
    journal = folder / JOURNAL
    # A run may begin or end between two looks: what it wrote is read after the lock was looked at.
    state = "running"
    if not is_locked(journal):
        run = read_run(folder)
        unfinished = "running" if is_locked(journal) else "interrupted"
        state = "finished" if run["finished"] else unfinished
    records = tuple(load_records(journal)) if journal.is_file() else ()
    result = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    return Status(state, records, result, run.get("metric", ""))
