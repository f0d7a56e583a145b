"""One process at a time writes a run: a lock beside its journal that dies with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from autocompress.errors import StorageError

PATIENCE = 6  # attempts to lock, 50 ms apart


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keeps every other process from writing a journal; a process that dies lets go of it.

    Raises:
        StorageError: If another process holds it or the folder cannot be written.
    """
    complaint = (
        f"{path.parent}: another process is running this study; wait for it, or give a new folder"
        " with --out"
    )
    with hold(path.with_suffix(".pid"), complaint):
        yield


@contextlib.contextmanager
def hold(path: Path, complaint: str) -> Iterator[None]:
    """Locks a file that is made for it and stays.

    Args:
        path: The file; removing it would let two processes lock two files of one name.
        complaint: What the error says if another process holds it.

    Raises:
        StorageError: If another process holds it or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"{path.parent}: cannot be written: {error.strerror or error}"
        ) from error
    try:
        _take(handle, complaint)
        yield
    finally:
        os.close(handle)


def _take(handle: int, complaint: str) -> None:
    for attempt in range(PATIENCE):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:  # perhaps only `is_locked` asking
            time.sleep(0.05 * (attempt + 1 < PATIENCE))
    raise StorageError(complaint)


def is_locked(path: Path) -> bool:
    """Whether a process is writing a journal; asks without keeping anyone from it for long."""
    try:
        handle = os.open(path.with_suffix(".pid"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
