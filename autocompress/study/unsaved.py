"""What was evaluated and is not in the storage yet: lines of a file in the run directory.

A line is written before the storage is asked, and the file is emptied when the storage has them
all: whatever dies, and however long the storage is away, nothing that was measured is lost.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.errors import StorageError


class Unsaved:
    """The lines of one study.

    Args:
        path: The file; made when there is something to keep.
        study: Optuna's name of the study.
    """

    def __init__(self, path: Path, study: str) -> None:
        self.path = path
        self._study = study
        self._lock = threading.Lock()
        self._waiting = 0  # lines that the storage lacks
        self._is_synced = True

    def lines(self) -> list[dict[str, Any]]:
        """What an earlier process left; a line that its death cut short is none.

        Raises:
            StorageError: If the file cannot be read, or holds lines of another study.
        """
        try:
            data = self.path.read_bytes() if self.path.is_file() else b""
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from error
        found = [line for raw in data.split(b"\n") if (line := _read(raw)) is not None]
        for line in found:
            if line["study"] != self._study:
                raise StorageError(
                    f"{self.path}: holds candidates of the study {line['study']!r}, not of"
                    f" {self._study!r}: run it with --study-name {line['study']}, or delete the"
                    " file and lose them"
                )
        return found

    def keep(self, line: Mapping[str, Any]) -> None:
        """Appends a line; it is on disk when `sync` returns.

        Raises:
            StorageError: If the file cannot be written.
        """
        text = json.dumps({"study": self._study, **line}) + "\n"
        with self._lock:
            self._waiting += 1
            self._is_synced = False
            self._write(text.encode(), sync=False)

    def sync(self) -> None:
        """Waits until every line that still counts is on disk.

        Raises:
            StorageError: If the file cannot be written.
        """
        with self._lock:
            if not self._is_synced:
                self._write(b"", sync=True)
                self._is_synced = True

    def saved(self, count: int = 1) -> None:
        """The storage has the oldest lines; the file is emptied with the last of them.

        Raises:
            StorageError: If the file cannot be emptied.
        """
        with self._lock:
            self._waiting -= count
            if self._waiting <= 0:
                self._forget()

    def forget(self) -> None:
        """The storage has everything that an earlier process left."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._waiting, self._is_synced = 0, True
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from error

    def _write(self, data: bytes, sync: bool) -> None:
        try:
            # Unbuffered, so that a full disk shows here and not when the file is closed.
            with self.path.open("ab", buffering=0) as file:
                whole = file.tell()
                try:
                    if data and file.write(data) != len(data):
                        raise OSError(0, "the disk is full")
                    if sync:
                        os.fsync(file.fileno())
                except OSError:
                    file.truncate(whole)
                    raise
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be written: {error.strerror or error}"
            ) from error


def _read(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "study" in line else None


def count_unsaved(path: Path) -> int:
    """Candidates that the next run will write into the storage."""
    try:
        lines: Sequence[bytes] = path.read_bytes().split(b"\n")
    except OSError:
        return 0
    return sum("values" in (line or {}) for line in map(_read, lines))
