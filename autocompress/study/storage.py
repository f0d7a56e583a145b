"""The system of record: every evaluated candidate is a finished trial of an Optuna study, in a
journal file or a database.

One process writes it, in a thread of its own.  What goes elsewhere than into the journal of the
run directory is kept there until the storage has it, so that the search neither waits for the
storage nor loses anything with it.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import StorageError, StudyMismatchError
from autocompress.study.book import (
    Book,
    Entry,
    Slopes,
    Trial,
    entry_of,
    line_of,
    read_study,
)
from autocompress.study.claim import Claim
from autocompress.study.database import close_database
from autocompress.study.packing import packed, unpacked
from autocompress.study.patience import Patience
from autocompress.study.place import Place, own_journal
from autocompress.study.record import NAMES, Record, attributes_of
from autocompress.study.unsaved import Unsaved

__all__ = ["NAMES", "Record", "StudyStorage", "load_records", "refuse_changes"]

GLANCE = 10.0  # seconds for which a reader waits for a storage
LEAVING = 5.0  # for which whoever was interrupted waits for the writer
Watch = Callable[[Record, Mapping[str, float]], None]

T = TypeVar("T")


class StudyStorage:
    """A study, for the process that holds its `lock` and its `claim`.

    Args:
        place: Where it is; a path is that of a journal of its own.
        menus: Unit to option ids, the search space of the study.
        fingerprint: Says what was compressed, with which data and space.
        patience: How long a storage that is away is waited for.
        claimed: Checked before every write.
        note: Hears what a user should know.
        watch: Hears of every record that is added, with its constraints.

    Raises:
        ConfigError: If the driver of a database is missing.
        StorageError: If the storage cannot be reached, read or written.
        StudyMismatchError: If it holds trials of something else.
    """

    def __init__(
        self,
        place: Place | Path,
        menus: Mapping[str, Sequence[str]],
        fingerprint: Mapping[str, str],
        *,
        patience: Patience | None = None,
        claimed: Claim | None = None,
        note: Callable[[str], None] = lambda text: None,
        watch: Watch = lambda record, constraints: None,
    ) -> None:
        self.place = own_journal(place) if isinstance(place, Path) else place
        self._patience = patience or Patience(0.0, note)
        self._claimed, self._watch, self._note = claimed or Claim(), watch, note
        self._book = Book(self.place, menus)
        known = self._try(lambda: self._book.open(fingerprint))
        folder = (self.place.unsaved or self.place.journal or Path()).parent
        refuse_changes(folder, known, fingerprint)
        self._records = {record.id: record for record in self._try(self._book.records)}
        self._slopes = self._try(self._book.slopes)
        self.feasible = self._try(self._book.feasible)  # when it was opened
        self._unsaved = None
        if self.place.unsaved is not None:
            self._unsaved = Unsaved(self.place.unsaved, self.place.study)
            self._recover(self._unsaved)
        # One thread: trials stay in order, and the storage's pace holds up nothing.
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._written = threading.Condition()
        self._waiting = 0
        self._error: StorageError | None = None
        self._writer = threading.Thread(target=self._write_all, daemon=True, name="storage")
        self._writer.start()

    def __enter__(self) -> StudyStorage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            # What the storage lacks is in the run directory.
            self._patience.stop.set()
            self._end(LEAVING)

    def records(self) -> list[Record]:
        """Every candidate that was measured, in the order in which that was finished."""
        self.flush()
        return _measured(self._records.values())

    def find(self, id: str) -> Record | None:
        """The record of a candidate that has been measured or given up, or None."""
        return self._records.get(id)

    def slopes(self, id: str) -> NDArray[np.float64] | None:
        """Slopes of the loss at a candidate, as `keep_slopes` took them, or None."""
        text = self._slopes.get(id)
        return None if text is None else unpacked(text)

    def keep_slopes(self, id: str, slopes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Writes the slopes `(all options,)` at a candidate; returns them as they are stored.

        Raises:
            StorageError: If the storage cannot be written.
        """
        text = self._slopes[id] = packed(slopes)
        self._put(Slopes(id, text))
        return unpacked(text)

    def add(self, record: Record, constraints: Mapping[str, float]) -> None:
        """Writes one finished trial, in a thread of its own; it is on disk when `flush` returns.

        Args:
            record: The candidate and its values.
            constraints: Limit name to how far it is exceeded; at most zero is feasible.

        Raises:
            StorageError: If the storage cannot be written.
        """
        values = [] if record.error else [record.value(name) for name in NAMES]
        trial = Trial(
            record.id, dict(record.choices), values, attributes_of(record), dict(constraints)
        )
        self._put(trial)
        # As a resumed run would read it.
        attributes = json.loads(json.dumps(trial.attributes["sampler"]))
        self._records[record.id] = replace(record, attributes=attributes)
        self._watch(record, constraints)

    def flush(self) -> None:
        """Waits until every trial that was added is on disk: in the journal of the run directory,
        or beside it until the storage has it.

        Raises:
            StorageError: If it cannot be written, or the storage was away for too long.
        """
        if self._unsaved is not None:
            self._unsaved.sync()
        else:
            self._drain()
        self._complain()

    def close(self) -> None:
        """Waits until the storage has everything, and lets go of it.

        Raises:
            StorageError: If it cannot be written, or was away for too long.
        """
        self._drain()
        self._end()
        self._complain()

    def _put(self, entry: Entry) -> None:
        self._complain()
        if self._unsaved is not None:
            self._unsaved.keep(line_of(entry))
        with self._written:
            self._waiting += 1
        self._queue.put(entry)

    def _recover(self, unsaved: Unsaved) -> None:
        """Writes what an earlier process could not."""
        count = 0
        for entry in map(entry_of, unsaved.lines()):
            if isinstance(entry, Slopes):
                if entry.id not in self._slopes:
                    self._save(entry)
                    self._slopes[entry.id] = entry.slopes
            elif entry.id not in self._records:
                self._save(entry)
                count += 1
        unsaved.forget()
        if count:
            self._records = {record.id: record for record in self._try(self._book.records)}
            self._note(f"{count} candidates from {unsaved.path.name} were written to {self.place}")

    def _write_all(self) -> None:
        """What the writer does; after an error it writes nothing more."""
        while (entry := self._queue.get()) is not None:
            try:
                is_left = self._unsaved is not None and self._patience.stop.is_set()
                if self._error is None and not is_left:
                    self._save(entry)
                    if self._unsaved is not None:
                        self._unsaved.saved()
            except StorageError as error:
                self._error = error
            except Exception as error:  # not to be lost with the thread
                self._error = StorageError(f"{self.place}: {type(error).__name__}: {error}")
                self._error.__cause__ = error
            with self._written:
                self._waiting -= 1
                self._written.notify_all()
        self._book.close()

    def _save(self, entry: Entry) -> None:
        tried = False

        def attempt() -> None:
            nonlocal tried
            again, tried = tried, True
            self._claimed.check()
            self._book.put(entry, again)

        self._try(attempt)

    def _try(self, attempt: Callable[[], T]) -> T:
        kept = ""
        if self.place.unsaved is not None:
            kept = (
                f"; what is measured stays in {self.place.unsaved.name}, and nothing finished is"
                " lost: the next run writes it first"
            )
        return self._patience(attempt, self.place, kept)

    def _drain(self) -> None:
        with self._written:
            self._written.wait_for(lambda: self._waiting == 0)

    def _end(self, seconds: float | None = None) -> None:
        if self._writer.is_alive():
            self._queue.put(None)
            self._writer.join(seconds)

    def _complain(self) -> None:
        if self._error is not None:
            raise self._error


def load_records(place: Place | Path) -> list[Record]:
    """What a study holds that another process may be writing; nothing is changed.

    A journal that a crash left before its first trial has none.

    Args:
        place: Where it is; a path is that of a journal of its own.

    Raises:
        StorageError: If there is no such journal or it cannot be read.
    """
    if isinstance(place, Path):
        place = own_journal(place)
    records, storage = Patience(GLANCE)(lambda: read_study(place), place)
    close_database(storage)
    return _measured(records)


def refuse_changes(folder: Path, known: Mapping[str, str], fingerprint: Mapping[str, str]) -> None:
    """Raises StudyMismatchError where a run directory was begun with something else."""
    changed = [key for key, value in fingerprint.items() if known.get(key) != value]
    if changed:
        raise StudyMismatchError(
            f"{folder}: the run was begun with another {', '.join(changed)};"
            " give a new folder with --out, or delete this one"
        )


def _measured(records: Iterable[Record]) -> list[Record]:
    """Without those that were given up."""
    return [record for record in records if not record.error]
