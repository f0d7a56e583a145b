"""Ray Tune: chunks of work are trials, on this machine or on a cluster.

A `Searcher` hands out chunks; Tune places them, starts workers anew where one or a node is lost,
and tells its callbacks and loggers.  What a run resumes from is the storage of the study, not
Tune's snapshot: the two would drift apart.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any

from autocompress.errors import ExecutorError

try:
    import ray
    from ray import tune
    from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
    from ray.tune.search import Searcher
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise ExecutorError(
        f"executor 'ray' needs Ray Tune: pip install 'autocompress[ray]' ({error})"
    ) from error

from autocompress.study.executors.chunks import UNLIMITED, Answer, Pace, WorkerLost, map_chunks
from autocompress.study.executors.executor import Item, Lost, Result, Source, State
from autocompress.study.executors.ray_worker import Board, Chunk, ChunkTrainable, Outcome
from autocompress.study.executors.shipping import pack, pack_bytes
from autocompress.study.executors.worker import settle

CHUNK_SECONDS = 10.0  # a trial costs 0.1 to 0.2 s beside its work
CONNECTING_SECONDS = 10.0  # that a cluster may take to answer
ENDING_SECONDS = 5.0  # that Tune is given to end
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # files for every trial, 90 ms each
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints every trial, however silent it is to be
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class RayExecutor:
    """Runs work as trials of one Tune experiment, which starts with the first piece.

    Args:
        workers: Trials that run at a time, one core each; 0 takes all cores that Ray has.
        address: Of a cluster: `auto` or HOST:PORT.  Empty starts Ray on this machine, unless the
            process is connected already.
        limit_seconds: Longest time of a piece; 0 is automatic (`Pace`).
        callbacks: Tune's, such as loggers; they hear of chunks.
    """

    name = "ray"

    def __init__(
        self,
        workers: int = 0,
        address: str = "",
        limit_seconds: float = 0.0,
        callbacks: Sequence[tune.Callback] = (),
    ) -> None:
        self._asked = workers
        self._address = address
        self._limit = limit_seconds
        self._callbacks = list(callbacks)
        self._paces: dict[str, Pace] = {}
        self._shared: tuple[object, str, Any] | None = None
        self._chunks: _Chunks | None = None
        self._is_own = False

    @property
    def workers(self) -> int:
        self._started()
        cores = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return self._asked or max(1, int(cores.get("CPU", 1)))

    def map_unordered(
        self,
        function: Callable[[State, Item], Result],
        source: Source[State],
        items: Sequence[Item],
        *,
        alike: bool = True,
    ) -> Iterator[tuple[int, Result | Lost]]:
        """See `Executor`."""
        chunks = self._started()
        handle, shared = self._put(source)
        pace = self._paces.setdefault(
            function.__qualname__, Pace(CHUNK_SECONDS, self._limit if alike else UNLIMITED)
        )

        def submit(places: Sequence[int], seconds: float) -> Answer:
            payload = pack_bytes((function, [items[place] for place in places]))
            return chunks.add(handle, shared, payload, seconds)

        yield from map_chunks(len(items), submit, self.workers, pace)

    def close(self) -> None:
        """Ends the experiment, and Ray if it was started here."""
        if self._chunks is not None:
            self._chunks.end()
            self._chunks = None
        self._shared = None
        if self._is_own:
            ray.shutdown()
            self._is_own = False

    def _put(self, source: object) -> tuple[str, Any]:
        if self._shared is None or self._shared[0] is not source:
            # Arrays of numpy, which workers map from the object store of their node.
            reference = ray.put(pack(source))
            self._shared = source, reference.hex(), reference
        return self._shared[1:]

    def _started(self) -> _Chunks:
        if self._chunks is None:
            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            if not ray.is_initialized():
                _connect(self._address, self._asked)
                self._is_own = True
            self._chunks = _Chunks(self._asked or None, self._callbacks)
        return self._chunks


def _connect(address: str, workers: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address not in ("", "auto"):
            # Ray itself would try for minutes.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), CONNECTING_SECONDS).close()
        if address:
            ray.init(address=address, **quiet)
        else:
            cores = workers or len(os.sched_getaffinity(0))
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        place = f"address {address!r}: " if address else ""
        raise ExecutorError(f"{place}Ray cannot be reached or started: {error}") from error


class _Chunks(Searcher):
    """The searcher: hangs up chunks and settles the futures that stand for them.

    Trials are suggested as long as there is room for them, and wait for a chunk: Tune ends the
    workers of trials that are over unless others wait for their place, and a worker takes seconds
    to start.
    """

    def __init__(self, workers: int | None, callbacks: Sequence[tune.Callback]) -> None:
        super().__init__()
        # Beside the driver: it is lost with it, and with no other node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Board)
        self._board = actor.options(num_cpus=0, scheduling_strategy=here).remote()
        self._lock = threading.Lock()
        self._answers: dict[int, tuple[Answer, float]] = {}
        self._trials: dict[str, int] = {}
        self._chunks, self._suggested = count(), count()
        self._has_ended = False
        self._folder = tempfile.mkdtemp(prefix="autocompress-ray-")
        tuner = Tuner(
            tune.with_resources(
                tune.with_parameters(ChunkTrainable, board=self._board), {"cpu": 1}
            ),
            tune_config=TuneConfig(
                search_alg=self,
                num_samples=-1,
                reuse_actors=True,
                max_concurrent_trials=workers,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=RunConfig(
                name="chunks",
                storage_path=self._folder,
                # Started again, a trial would wait for its place behind those that wait for work.
                failure_config=FailureConfig(max_failures=0),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                callbacks=list(callbacks),
                verbose=0,
            ),
        )
        self._thread = threading.Thread(target=self._run, args=(tuner,), daemon=True)
        self._thread.start()

    def add(self, handle: str, source: Any, payload: bytes, seconds: float) -> Answer:
        """Hangs up a chunk; the future is settled when its trial is over."""
        answer: Answer = Future()
        with self._lock:
            if self._has_ended:
                raise ExecutorError("Ray Tune has ended; what was evaluated before is kept")
            number = next(self._chunks)
            self._answers[number] = answer, seconds
            self._board.put.remote(Chunk(number, handle, [source], payload, seconds))
        answer.add_done_callback(lambda answer: self._drop(number) if answer.cancelled() else None)
        return answer

    def end(self) -> None:
        """Lets the experiment end; what runs is given up."""
        with self._lock:
            self._has_ended = True
        self._board.close.remote()
        self._thread.join(ENDING_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def suggest(self, trial_id: str) -> Any:
        with self._lock:
            if self._has_ended:
                return self.FINISHED
            trial = self._trials[trial_id] = next(self._suggested)
        return {"trial": trial}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        del result  # the board knows
        trial = self._trials.pop(trial_id)
        try:
            outcome: Outcome = ray.get(self._board.take.remote(trial))
            if outcome.number is None and error:
                # A worker that cannot start takes no chunk: one is lost in its place, or all wait.
                outcome = outcome._replace(number=ray.get(self._board.drop_first.remote()))
        except ray.exceptions.RayError as lost:
            self._fail(f"Ray is gone, and what was evaluated is kept: {lost}")
            return
        with self._lock:
            found = self._answers.pop(outcome.number, None) if outcome.number is not None else None
        if found is None or not found[0].set_running_or_notify_cancel():
            return
        answer, limit = found
        if outcome.answer is not None:
            settle(answer, outcome.answer)
        elif outcome.seconds >= limit:
            answer.set_exception(WorkerLost(f"took longer than {limit:.0f} s"))
        else:
            answer.set_exception(WorkerLost("ended its worker"))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes its settings down; a study is resumed from its own storage

    def save(self, checkpoint_path: str) -> None:
        del checkpoint_path

    def restore(self, checkpoint_path: str) -> None:
        del checkpoint_path

    def _drop(self, number: int) -> None:
        with self._lock:
            if self._answers.pop(number, None) and not self._has_ended:
                self._board.drop.remote(number)

    def _fail(self, reason: str) -> None:
        """Ends all that wait for answers."""
        with self._lock:
            self._has_ended = True
            left = [answer for answer, _ in self._answers.values()]
            self._answers.clear()
        for answer in left:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(ExecutorError(reason))

    def _run(self, tuner: Tuner) -> None:
        reason = "Ray Tune has ended"
        try:
            tuner.fit()
        except Exception as error:  # noqa: BLE001 - told to those who wait
            reason = f"Ray Tune has ended: {error}"
        self._fail(reason)
