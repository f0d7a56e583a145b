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
from autocompress.study.place import JOURNAL, Place, place_of, remembered, study_name
from autocompress.study.storage import Record, load_records, refuse_changes
from autocompress.study.unsaved import count_unsaved

__all__ = [
    "JOURNAL",
    "RUN_FILE",
    "SCHEMA",
    "Status",
    "begin",
    "finish",
    "place_for",
    "place_in",
    "read_run",
    "refuse_other",
    "status",
]

RUN_FILE = "run.json"
SCHEMA = 1
APART = ("storage", "study_name")  # overrides that are kept without a password


@dataclass(frozen=True)
class Status:
    """A run as seen from outside.

    Args:
        state: `running`, `finished` or `interrupted`.
        records: Evaluated candidates, in order.
        result: Content of `result.json`; empty before the first run has finished.
        metric: Name of the user's metric.
        place: Where the records are.
        unsaved: Candidates that the next run will write there.
    """

    state: str
    records: tuple[Record, ...]
    result: Mapping[str, Any]
    metric: str
    place: Place
    unsaved: int = 0


def begin(
    folder: Path, study: Study, fingerprint: Mapping[str, str], place: Place | None = None
) -> None:
    """Notes how a run was begun, so that `show` and `export` can find the study again.

    Args:
        folder: The run directory.
        study: What is asked.
        fingerprint: What may not change in one run directory.
        place: Where the records are; the run's own journal by default.

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
        "overrides": {key: v for key, v in study.overrides.items() if key not in APART},
        "budget": list(study.given_budget),
        "fingerprint": dict(fingerprint),
        "storage": (place or place_of(folder, "")).as_dict(),
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


def place_for(folder: Path, study: Study, fingerprint: Mapping[str, str]) -> tuple[Place, bool]:
    """Where a run is to keep its records, and whether they must be there already.

    A run that was begun goes on where it was; another storage, or another name in it, has to hold
    its study, for it may have moved.

    Raises:
        StorageError: If the run was begun in the journal of its folder and is to go on elsewhere.
    """
    settings = study.settings
    begun = read_run(folder) if (folder / RUN_FILE).is_file() else {}
    known = begun.get("storage") or place_of(folder, "").as_dict()
    if not begun:
        name = settings.study_name or study_name(study.name, folder, fingerprint)
        own = not settings.storage
        return place_of(folder, settings.storage, settings.study_name if own else name), False
    place = place_of(
        folder, settings.storage or known["url"], settings.study_name or known["study"]
    )
    if place.text and not known["url"]:
        raise StorageError(
            f"{folder}: was begun with its records in {JOURNAL}; give a new folder with --out to"
            f" record in {place}"
        )
    return place, place.as_dict() != known


def place_in(folder: Path, storage: str = "") -> Place:
    """Where the records of a run are.

    Args:
        folder: The run directory.
        storage: Replaces the URL that is remembered, which lacks the password.

    Raises:
        ConfigError: If the storage is malformed.
        StorageError: If the folder holds no run.
    """
    return remembered(folder, read_run(folder), storage)


def status(folder: Path, storage: str = "") -> Status:
    """The state of a run; reads while another process may be writing.

    Args:
        folder: The run directory.
        storage: Replaces the URL that is remembered, which lacks the password.

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
    place = remembered(folder, run, storage)
    is_there = place.journal is None or place.journal.is_file()
    records = tuple(load_records(place)) if is_there else ()
    result = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    unsaved = count_unsaved(place.unsaved) if place.unsaved else 0
    return Status(state, records, result, run.get("metric", ""), place, unsaved)
