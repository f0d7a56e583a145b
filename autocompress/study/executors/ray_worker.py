"""The far end of the Ray executor: the board that chunks hang on, and the trainable that takes
one down.
"""

from __future__ import annotations

import faulthandler
import time
from typing import Any

import ray
from ray import tune

from autocompress.study.executors.shipping import unpack
from autocompress.study.executors.worker import work

STDERR = 2  # what the worker writes to a log file of Ray


class Board:
    """An actor beside the driver: chunks wait on it, and answers.  What it holds does not go
    through Tune, whose records and loggers want small numbers.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, tuple[str, list[Any], bytes, float]] = {}
        self._begun: dict[int, float] = {}
        self._answers: dict[int, bytes] = {}

    def put(self, chunk: int, handle: str, source: list[Any], work: bytes, limit: float) -> None:
        """Hangs up a chunk: the name of its source and a reference to it, what is to be done, and
        the seconds that this may take.
        """
        self._chunks[chunk] = handle, source, work, limit

    def get(self, chunk: int) -> tuple[str, list[Any], bytes, float]:
        """What was put; from now on the chunk is being worked on."""
        self._begun[chunk] = time.monotonic()
        return self._chunks[chunk]

    def answer(self, chunk: int, answer: bytes) -> None:
        """Hangs up what became of a chunk."""
        self._answers[chunk] = answer

    def take(self, chunk: int) -> tuple[bytes | None, float]:
        """The answer, None if there is none, and how long the chunk has been worked on; both are
        forgotten, and the chunk.
        """
        self._chunks.pop(chunk, None)
        begun = self._begun.pop(chunk, time.monotonic())
        return self._answers.pop(chunk, None), time.monotonic() - begun


class ChunkTrainable(tune.Trainable):
    """One Tune trial is one chunk; the actor and what it has opened are used again."""

    def setup(self, config: dict[str, Any], board: Any = None) -> None:
        self._board = board
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._chunk = int(new_config["chunk"])
        return True

    def step(self) -> dict[str, Any]:
        handle, source, payload, limit = ray.get(self._board.get.remote(self._chunk))
        begun = time.monotonic()
        # From a thread of C, so that code that holds the interpreter is ended as well.
        faulthandler.dump_traceback_later(limit, exit=True, file=STDERR)
        try:
            answer = work(handle, lambda: unpack(*ray.get(source[0])), payload)
        finally:
            faulthandler.cancel_dump_traceback_later()
        ray.get(self._board.answer.remote(self._chunk, answer))
        return {"chunk": self._chunk, "seconds": time.monotonic() - begun, "done": True}
