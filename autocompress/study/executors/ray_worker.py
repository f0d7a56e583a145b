"""The far end of the Ray executor: the board that chunks hang on, and the trainable that takes
one down.
"""

from __future__ import annotations

import asyncio
import faulthandler
import time
from collections import deque
from typing import Any, NamedTuple

import ray
from ray import tune

from autocompress.study.executors.shipping import unpack
from autocompress.study.executors.worker import work

STDERR = 2  # what the worker writes to a log file of Ray


class Chunk(NamedTuple):
    """What hangs on the board.

    Args:
        number: Of the chunk.
        handle: Name of its source.
        source: A reference to that, in a list so that Ray does not fetch it for the board.
        payload: What is to be done.
        limit: Seconds that this may take.
    """

    number: int
    handle: str
    source: list[Any]
    payload: bytes
    limit: float


class Outcome(NamedTuple):
    """What became of a trial.

    Args:
        number: Of the chunk that it took; None if it took none.
        answer: What `work` returned; None if it did not come to that.
        seconds: How long the chunk has been worked on.
    """

    number: int | None
    answer: bytes | None
    seconds: float


class Board:
    """An actor beside the driver: chunks wait on it, and answers.  What it holds does not go
    through Tune, whose records and loggers want small numbers.
    """

    def __init__(self) -> None:
        self._waiting: deque[Chunk] = deque()
        self._taken: dict[int, tuple[Chunk, float]] = {}
        self._answers: dict[int, bytes] = {}
        self._changed = asyncio.Condition()
        self._over: set[int] = set()
        self._is_closed = False

    async def put(self, chunk: Chunk) -> None:
        """Hangs up a chunk."""
        async with self._changed:
            self._waiting.append(chunk)
            self._changed.notify_all()

    async def drop(self, number: int) -> None:
        """Takes a chunk back that nobody has taken."""
        self._waiting = deque(chunk for chunk in self._waiting if chunk.number != number)

    async def drop_first(self) -> int | None:
        """Takes back the chunk that has waited longest; its number, None if none waits."""
        return self._waiting.popleft().number if self._waiting else None

    async def next(self, trial: int) -> Chunk | None:
        """A chunk for a trial, as soon as there is one; None when no more will come."""
        async with self._changed:
            # A worker that was lost still waits here: it must not take a chunk along.
            await self._changed.wait_for(lambda: self._waiting or self._is_over(trial))
            if self._is_over(trial):
                return None
            chunk = self._waiting.popleft()
            self._taken[trial] = chunk, time.monotonic()
            return chunk

    async def answer(self, trial: int, answer: bytes) -> None:
        """Hangs up what became of the chunk of a trial."""
        self._answers[trial] = answer

    async def take(self, trial: int) -> Outcome:
        """What became of a trial; it gets no other chunk."""
        self._over.add(trial)
        chunk, begun = self._taken.pop(trial, (None, time.monotonic()))
        number = None if chunk is None else chunk.number
        return Outcome(number, self._answers.pop(trial, None), time.monotonic() - begun)

    async def close(self) -> None:
        """Lets those go that wait for a chunk."""
        async with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _is_over(self, trial: int) -> bool:
        return self._is_closed or trial in self._over


class ChunkTrainable(tune.Trainable):
    """One Tune trial is one chunk; the actor and what it has opened are used again."""

    def setup(self, config: dict[str, Any], board: Any = None) -> None:
        self._board = board
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial = int(new_config["trial"])
        return True

    def step(self) -> dict[str, Any]:
        chunk = ray.get(self._board.next.remote(self._trial))
        if chunk is None:
            return {"seconds": 0.0, "done": True}
        begun = time.monotonic()
        # From a thread of C, so that code that holds the interpreter is ended as well.
        faulthandler.dump_traceback_later(chunk.limit, exit=True, file=STDERR)
        try:
            source = chunk.source[0]
            answer = work(chunk.handle, lambda: unpack(*ray.get(source)), chunk.payload)
        finally:
            faulthandler.cancel_dump_traceback_later()
        ray.get(self._board.answer.remote(self._trial, answer))
        return {"chunk": chunk.number, "seconds": time.monotonic() - begun, "done": True}
