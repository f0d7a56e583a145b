"""Processes of this machine, which may be lost: a candidate that ends or holds up its own is given
up and named, and the run goes on.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from autocompress.errors import ExecutorError
from autocompress.study.executors.chunks import UNLIMITED, Answer, Pace, WorkerLost, map_chunks
from autocompress.study.executors.executor import Item, Lost, Result, Source, State
from autocompress.study.executors.shipping import load, pack_bytes, save
from autocompress.study.executors.worker import settle, work

CHUNK_SECONDS = 0.5  # handing out a chunk takes milliseconds


class ProcessExecutor:
    """Runs work in a pool of processes that read their source from one mapped file.

    Args:
        workers: Number of processes; they start with the first piece of work.
        limit_seconds: Longest time of a piece; 0 is automatic (`Pace`).
    """

    name = "processes"

    def __init__(self, workers: int = 1, limit_seconds: float = 0.0) -> None:
        self.workers = max(1, workers)
        self._limit = limit_seconds
        self._paces: dict[str, Pace] = {}
        self._pool = self._new_pool()
        self._folder = tempfile.TemporaryDirectory(prefix="autocompress-")
        self._shared: tuple[object, Path] | None = None
        self._count = 0

    def map_unordered(
        self,
        function: Callable[[State, Item], Result],
        source: Source[State],
        items: Sequence[Item],
        *,
        alike: bool = True,
    ) -> Iterator[tuple[int, Result | Lost]]:
        """See `Executor`."""
        path = self._file(source)
        pace = self._paces.setdefault(
            function.__qualname__, Pace(CHUNK_SECONDS, self._limit if alike else UNLIMITED)
        )

        handed: list[Future[bytes]] = []

        def submit(places: Sequence[int], seconds: float) -> Answer:
            payload = pack_bytes((function, [items[place] for place in places]))
            arguments = (str(path), partial(load, path), payload)
            handed[:] = [future for future in handed if not future.done()]
            handed.append(self._schedule(arguments, seconds))
            return _told(handed[-1], seconds)

        def look() -> None:
            # A pool that breaks while a chunk is on its way in forgets that chunk.
            if not self._pool.active:
                for future in handed:
                    future.cancel()

        yield from map_chunks(len(items), submit, self.workers, pace, look)

    def close(self) -> None:
        """Ends the processes and removes what they shared."""
        self._end_pool()
        self._folder.cleanup()

    def _new_pool(self) -> ProcessPool:
        # Not forked: a fork of a process whose threads compute may hang.
        return ProcessPool(self.workers, context=multiprocessing.get_context("spawn"))

    def _end_pool(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _schedule(self, arguments: tuple[Any, ...], seconds: float) -> Future[bytes]:
        try:
            if self._pool.active:
                return self._pool.schedule(work, arguments, timeout=seconds)
        except RuntimeError:  # it has broken since
            pass
        # A pool does not outlive a worker that dies while idle.
        self._end_pool()
        self._pool = self._new_pool()
        return self._pool.schedule(work, arguments, timeout=seconds)

    def _file(self, source: object) -> Path:
        if self._shared is None or self._shared[0] is not source:
            path = Path(self._folder.name) / str(self._count)
            self._count += 1
            try:
                save(source, path)
            except OSError as error:
                raise ExecutorError(
                    f"{path}: cannot be written for the workers: {error.strerror or error}"
                ) from error
            if self._shared is not None:
                self._shared[1].unlink(missing_ok=True)  # whoever has it mapped keeps it
            self._shared = source, path
        return self._shared[1]


def _told(handed: Future[bytes], seconds: float) -> Answer:
    """A chunk's results, with pebble's errors as ours."""
    told: Answer = Future()
    told.set_running_or_notify_cancel()

    def finish(handed: Future[bytes]) -> None:
        try:
            answer = handed.result()
        except TimeoutError:
            told.set_exception(WorkerLost(f"took longer than {seconds:.0f} s"))
        except ProcessExpired as error:
            told.set_exception(WorkerLost(_ended(error.exitcode)))
        except (BrokenProcessPool, CancelledError):
            told.set_exception(WorkerLost("lost its worker"))
        except Exception as error:  # noqa: BLE001 - such as a file that the worker cannot read
            told.set_exception(error)
        else:
            settle(told, answer)

    handed.add_done_callback(finish)
    return told


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"ended its process with signal {-code}"
    return f"ended its process with exit code {code}"
