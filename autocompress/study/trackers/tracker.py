"""Trackers hear of a run: settings, candidates, results, files.  They cannot stop or slow it.

They work in a thread of their own; the first error of one ends it, with one note.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from autocompress.study.record import Record

WAIT = 30.0  # seconds for which the end of a run waits for its trackers
TOGETHER = 100  # candidates told at a time, at most


@dataclass(frozen=True)
class Point:
    """One evaluated candidate, as trackers hear of it.

    Args:
        step: Its number in the study, from 1.
        milliseconds: When it was evaluated, since 1970.
        metrics: `loss`, `best_loss` (least so far within the limits), `size_bytes`, `latency_ms`
            and `passes` (spent so far); without what is not known yet.
    """

    step: int
    milliseconds: int
    metrics: Mapping[str, float]


class Tracker(Protocol):
    """Where a run is told to; any method may raise anything."""

    name: str

    def begin(self, settings: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """A run begins, or goes on."""

    def points(self, points: Sequence[Point]) -> None:
        """Candidates were evaluated."""

    def files(self, paths: Sequence[Path]) -> None:
        """Artefacts were written."""

    def end(self, status: str, metrics: Mapping[str, float]) -> None:
        """A run ends: `FINISHED`, `FAILED` or `KILLED`, with its final figures."""


class Tracking:
    """Tells trackers of a run from a thread of its own.

    Args:
        trackers: Hear everything in order.
        note: Hears once of each that fails.
    """

    def __init__(self, trackers: Sequence[Tracker], note: Callable[[str], None]) -> None:
        self._trackers, self._note = list(trackers), note
        self._step, self._passes, self._best = 0, 0.0, float("inf")
        self._final: Mapping[str, float] = {}
        self._tasks: queue.SimpleQueue[Point | Callable[[Tracker], None] | None]
        self._tasks = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="trackers")
        if trackers:
            self._thread.start()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status, final = "FINISHED", self._final
        if error is not None:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
        self._tell(lambda tracker: tracker.end(status, final))
        self.wait(WAIT if error is None else WAIT / 6)

    def begin(self, settings: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """The run begins, or goes on."""
        self._tell(lambda tracker: tracker.begin(settings, tags))

    def go_on(self, records: Sequence[Record], feasible: Collection[str]) -> None:
        """What earlier processes evaluated, and the ids of what kept the limits."""
        self._step, self._passes = len(records), sum(record.passes for record in records)
        losses = [r.loss for r in records if r.complete and r.id in feasible]
        self._best = min(losses, default=float("inf"))

    def candidate(self, record: Record, constraints: Mapping[str, float]) -> None:
        """A candidate was evaluated; one that was given up is passed over."""
        if record.error:
            return
        self._step, self._passes = self._step + 1, self._passes + record.passes
        if record.complete and all(value <= 0 for value in constraints.values()):
            self._best = min(self._best, record.loss)
        metrics = {
            "loss": record.loss,
            "size_bytes": record.size_bytes,
            "latency_ms": record.latency_ms,
            "passes": self._passes,
        }
        if self._best < float("inf"):
            metrics["best_loss"] = self._best
        if self._trackers:
            self._tasks.put(Point(self._step, int(1000 * time.time()), metrics))

    def files(self, paths: Sequence[Path]) -> None:
        """Artefacts were written."""
        self._tell(lambda tracker: tracker.files([path for path in paths if path.is_file()]))

    def finish(self, metrics: Mapping[str, float]) -> None:
        """The final figures."""
        self._final = metrics

    def wait(self, seconds: float = WAIT) -> None:
        """Waits until the trackers have heard everything, but not for ever."""
        if not self._thread.is_alive():
            return
        self._tasks.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            names = ", ".join(tracker.name for tracker in self._trackers)
            self._note(f"tracker {names}: is too slow and was left behind")

    def _tell(self, task: Callable[[Tracker], None]) -> None:
        if self._trackers:
            self._tasks.put(task)

    def _work(self) -> None:
        points: list[Point] = []
        while True:
            task = self._tasks.get()
            if isinstance(task, Point):
                points.append(task)
                if len(points) < TOGETHER and not self._tasks.empty():
                    continue
            if points:
                batch, points = points, []
                self._each(_telling(batch))
            if task is None:
                return
            if not isinstance(task, Point):
                self._each(task)

    def _each(self, task: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                task(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self._note(f"tracker {tracker.name}: {reason}; it hears no more of this run")


def _telling(points: Sequence[Point]) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.points(points)
