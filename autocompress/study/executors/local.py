"""Threads of this process, one core each: no start-up, and nothing is copied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import torch

from autocompress.study.executors.executor import Item, Lost, Result, Source, State


class LocalExecutor:
    """Runs work on threads.  A piece that never ends holds up the run, and one that ends its
    process ends the run; other executors give such a piece up.

    Args:
        workers: Number of threads.
    """

    name = "local"

    def __init__(self, workers: int = 1) -> None:
        self.workers = max(1, workers)
        self._opened: tuple[object, Sequence[object]] | None = None

    def map_unordered(
        self,
        function: Callable[[State, Item], Result],
        source: Source[State],
        items: Sequence[Item],
        *,
        alike: bool = True,
    ) -> Iterator[tuple[int, Result | Lost]]:
        """See `Executor`.  Results come in the order of the items."""
        del alike  # threads cannot be ended
        states = self._states(source)
        if self.workers == 1 or len(items) == 1:
            with one_thread():
                for place, item in enumerate(items):
                    yield place, function(states[0], item)
            return
        idle: SimpleQueue[State] = SimpleQueue()
        for state in states:
            idle.put(state)

        def run(item: Item) -> Result:
            state = idle.get()
            try:
                return function(state, item)
            finally:
                idle.put(state)

        with one_thread(), ThreadPoolExecutor(self.workers, initializer=alone) as pool:
            yield from enumerate(pool.map(run, items))

    def close(self) -> None:
        """Forgets what it works with."""
        self._opened = None

    def _states(self, source: Source[State]) -> Sequence[State]:
        if self._opened is None or self._opened[0] is not source:
            with one_thread():
                self._opened = source, source.open(self.workers)
        return self._opened[1]  # type: ignore[return-value]  # made by this very source


def alone() -> None:
    """Makes the tensor operations of the calling thread run on one core."""
    torch.set_num_threads(1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs the block's tensor operations on one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
