"""`accepted` in the folder of a study: which of its runs is the accepted one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.errors import StorageError
from autocompress.files import read_json, write_json

ACCEPTED = "accepted"
SCHEMA = 1


def read_accepted(out: Path, study: str) -> dict[str, Any] | None:
    """Which run of a study is the accepted one; None before the first.

    Raises:
        StorageError: If the record is damaged.
    """
    path = out / study / ACCEPTED
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or not {"run", "baseline"} <= set(value):
        raise StorageError(f"{path}: does not say which run is accepted")
    return value


def keep(out: Path, study: Mapping[str, Any]) -> None:
    """Makes an accepted run the one that `accepted` points at; done again, it changes nothing."""
    if study["accepted"]:
        places = {key: out / study[key] for key in ("run", "baseline")}
        point(out, study["study"], places)


def point(out: Path, study: str, places: Mapping[str, Path]) -> None:
    """Writes `accepted`: the accepted run, its plan and model, and the baseline that the nights
    are held to; paths start from OUT."""
    run = places["run"]
    files = {"plan": run / "plan.json", "model": run / "model.acz"}
    record = {
        "schema": SCHEMA,
        "study": study,
        **{key: said(out, place) for key, place in places.items()},
        **{name: said(out, path) if path.is_file() else None for name, path in files.items()},
    }
    write_json(out / study / ACCEPTED, record)


def said(out: Path, path: Path) -> str:
    """A path as it stands below `out`; as it is, in full, where it does not."""
    try:
        return path.resolve().relative_to(out.resolve()).as_posix()
    except ValueError:
        return str(path.resolve())
