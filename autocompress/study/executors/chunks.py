"""Cuts work into chunks that are worth handing out, and finds the piece that ends its worker.

A chunk whose worker is lost is cut into single pieces; a piece that is alone and loses its worker
again is given up, so that one bad candidate costs a few restarts and no search.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, TypeAlias

from autocompress.study.executors.executor import Lost

SPARE = 1  # chunks that wait, so that no worker does
SHARES = 2  # of what is left a worker, a chunk takes one
LOOK_SECONDS = 1.0  # between looks at what runs the chunks
LEAST = 0.1  # of the time of a chunk, that the last ones take
FEWEST_SECONDS = 60.0  # that a piece may always take
UNKNOWN_SECONDS = 600.0  # that it may take while nothing is known of others
UNLIMITED = 7 * 86400.0  # that one of them may take, where pieces differ too much to tell
TRIES = 3  # of a piece that is alone, before it is given up
SLOWER = 20.0  # times the slowest so far


class WorkerLost(Exception):
    """A worker ended, or was ended because it took too long; the text says which."""


@dataclass
class Pace:
    """How long pieces of one kind take.

    Args:
        chunk_seconds: The most that a chunk should take, about.
        limit_seconds: Longest time of a piece; 0 is automatic.
    """

    chunk_seconds: float
    limit_seconds: float = 0.0
    pieces: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, pieces: int, seconds: float) -> None:
        """Takes a finished chunk."""
        self.pieces += pieces
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds / pieces)

    def size(self, left: int, workers: int) -> int:
        """Pieces of the next chunk while `left` ones wait: a share of what is left, so that chunks
        grow smaller towards the end and the workers finish together (guided self-scheduling,
        Polychronopoulos and Kuck, 1987)."""
        share = -(-left // (SHARES * workers))
        if not self.pieces:
            return share
        most = self.chunk_seconds * self.pieces / self.seconds if self.seconds else left
        return max(1, round(LEAST * most), min(share, round(most)))

    def longest(self, pieces: int) -> float:
        """Seconds after which a chunk is taken for one that never ends."""
        if self.limit_seconds:
            return self.limit_seconds * pieces
        known = max(FEWEST_SECONDS, SLOWER * self.slowest)
        return pieces * (known if self.pieces else UNKNOWN_SECONDS)


Answer: TypeAlias = "Future[tuple[list[Any], float]]"  # results and the seconds they took
Submit: TypeAlias = Callable[[Sequence[int], float], Answer]


def map_chunks(
    count: int, submit: Submit, workers: int, pace: Pace, look: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, Any]]:
    """Runs pieces in chunks; yields the place and the result of each as they are finished.

    Args:
        count: Number of pieces.
        submit: Hands out the pieces of some places with a time limit in seconds; gives their
            results and the seconds that they took, or raises WorkerLost.
        workers: Chunks that run at a time.
        pace: Sizes chunks; learns from them.
        look: Called now and then while chunks run; settles answers that nobody else will.

    Raises:
        Exception: What a piece raised.
    """
    waiting, alone = deque(range(count)), deque[int]()
    lost: Counter[int] = Counter()
    flying: dict[Answer, list[int]] = {}
    try:
        while waiting or alone or flying:
            while (waiting or alone) and len(flying) < workers + SPARE:
                if alone:
                    chunk = [alone.popleft()]
                else:
                    size = min(pace.size(len(waiting), workers), len(waiting))
                    chunk = [waiting.popleft() for _ in range(size)]
                flying[submit(chunk, pace.longest(len(chunk)))] = chunk
            done, _ = wait(flying, LOOK_SECONDS, return_when=FIRST_COMPLETED)
            if not done:
                look()
            for future in done:
                chunk = flying.pop(future)
                try:
                    found, seconds = future.result()
                except WorkerLost as error:
                    if len(chunk) > 1:
                        alone.extend(chunk)
                        continue
                    lost[chunk[0]] += 1
                    if lost[chunk[0]] < TRIES:
                        alone.append(chunk[0])
                    else:
                        yield chunk[0], Lost(str(error))
                    continue
                pace.add(len(chunk), seconds)
                yield from zip(chunk, found, strict=True)
    finally:
        for future in flying:
            future.cancel()
