"""What a run tells while it works: a stage begins, a part is done, a trial is finished, a note is
made.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol


class Listener(Protocol):
    """Receives the events of a run; a progress display, a log, or nothing."""

    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins; the one before it is finished."""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """A part of the stage is done."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """Listens and says nothing."""

    def stage(self, name: str, detail: str = "") -> None:
        del name, detail

    def progress(self, done: int, total: int, detail: str = "") -> None:
        del done, total, detail

    def note(self, text: str) -> None:
        del text


class Log:
    """Appends every event as a JSON line and passes it on.

    Args:
        path: `log.jsonl` of the run directory.
        then: The listener that the user sees.
    """

    def __init__(self, path: Path, then: Listener) -> None:
        self._path = path
        self._then = then
        self._started = time.perf_counter()
        self._stage = ""
        self._begun = self._started
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    def stage(self, name: str, detail: str = "") -> None:
        self.finish()
        self._stage, self._begun = name, time.perf_counter()
        self._write("stage", name=name, detail=detail)
        self._then.stage(name, detail)

    def finish(self) -> None:
        """Books the time of the stage that ends."""
        if self._stage:
            spent = time.perf_counter() - self._begun
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent
        self._stage = ""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        self._then.progress(done, total, detail)

    def note(self, text: str) -> None:
        if text in self.notes:
            return
        self.notes.append(text)
        self._write("note", text=text)
        self._then.note(text)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._started

    def _write(self, event: str, **fields: Any) -> None:
        line = {"seconds": round(self.elapsed, 3), "event": event, **fields}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            # A log that cannot be written must not end a run that works.
            self._then.note(f"{self._path}: cannot be written")
