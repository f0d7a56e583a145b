"""The journal file: one process writes it, and what a crash tore is cut off before it is opened.

Optuna loads a file whose last line is torn, but the next append would make it unreadable for
ever.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from autocompress.errors import StorageError


def open_journal(path: Path) -> JournalStorage:
    """The journal as an Optuna storage, without Optuna's chatter."""
    optuna.logging.set_verbosity(logging.ERROR)
    return JournalStorage(JournalFileBackend(str(path)))


def repair(path: Path) -> None:
    """Cuts off a last line that a crash left unfinished, and a lock that it left behind.

    Only to be called by the process that holds `lock`.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    if not path.is_file():
        return
    try:
        with path.open("r+b") as file:
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            while whole and not _is_json(whole[whole[:-1].rfind(b"\n") + 1 :]):
                whole = whole[: whole[:-1].rfind(b"\n") + 1]
            if len(whole) < len(data):
                file.truncate(len(whole))
    except OSError as error:
        raise StorageError(f"{path}: cannot be repaired: {error.strerror or error}") from error


@contextlib.contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Optuna's and the system's complaints about the journal as ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError) as error:
        raise StorageError(f"{path}: not a readable study: {error}") from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
