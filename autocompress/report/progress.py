"""What the terminal shows while a run works: a live line, or plain lines where there is no
terminal.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from autocompress.report.units import printable, seconds_text

PLAIN_EVERY = 5.0  # seconds between two plain lines of one stage
EARLY = 0.05  # share of a stage before which no time left is guessed


class Display:
    """Shows stage, share done, details, time spent and time left.  Use it as a context.

    Args:
        console: Where to write; without a terminal it gets a plain line now and then.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Progress(
            TextColumn("[bold]{task.fields[stage]:<8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=False,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._begun = 0.0
        self._last = 0.0
        self._done = 0

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def stage(self, name: str, detail: str = "") -> None:
        self._stage, self._done = name, 0
        self._begun = self._last = time.monotonic()
        if self._console.is_terminal:
            if self._task is not None:
                task = self._live.tasks[-1]
                self._live.update(
                    self._task, total=task.completed or 1, completed=task.completed or 1
                )
            self._task = self._live.add_task(printable(detail), total=None, stage=name)
        else:
            self._line(f"{name}: {detail}")

    def progress(self, done: int, total: int, detail: str = "") -> None:
        if self._console.is_terminal:
            if self._task is not None:
                self._live.update(
                    self._task, completed=done, total=total, description=printable(detail)
                )
            return
        now = time.monotonic()
        if done == self._done or (now - self._last < PLAIN_EVERY and done < total):
            return
        self._last, self._done = now, done
        left = ""
        if EARLY * total <= done < total:
            left = f", {seconds_text((now - self._begun) * (total - done) / done)} left"
        self._line(f"{self._stage}: {done} of {total}{left}{', ' if detail else ''}{detail}")

    def note(self, text: str) -> None:
        self._line(f"note: {text}")

    def _line(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False, soft_wrap=True)
