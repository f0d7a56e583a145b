"""Measures candidates on one or several threads; the numbers do not depend on how many."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.compression.stitch import Stitcher
from autocompress.model.replay import MEMORY, Replay, Run
from autocompress.objective.quality import Measurement, Proxy
from autocompress.objective.racing import race
from autocompress.objective.slopes import slopes
from autocompress.search.problem import Candidate
from autocompress.search.sampler import SLOPE_PASSES
from autocompress.search_space.space import Space
from autocompress.study.subject import Model

Other = TypeVar("Other")
Result = TypeVar("Result")


@dataclass
class Spent:
    """Where the time of the measurements went, in seconds of all threads together.

    Args:
        forward: Inside the model.
        busy: Measuring, the forward passes included.
        passes: Passes of the model over all examples that the forward time paid for.
    """

    forward: float = 0.0
    busy: float = 0.0
    passes: float = 0.0


class Evaluator:
    """Measures candidates of a space by the proxy.

    Every thread runs its forward passes on one core: small models gain more from several
    candidates at a time, and sums are formed in the same order however many threads there are.

    Args:
        model: Gives the layers.
        space: Says which options the numbers of a candidate mean.
        stitcher: Builds the layers.
        proxy: Judges outputs.
        workers: Number of threads.
        memory: Bytes of activations that are kept for reuse, over all threads.
    """

    def __init__(
        self,
        model: Model,
        space: Space,
        stitcher: Stitcher,
        proxy: Proxy,
        workers: int = 1,
        memory: int = MEMORY,
    ) -> None:
        self.proxy = proxy
        self.spent = Spent()
        self.workers = max(1, workers)
        self._stitcher = stitcher
        self._menus = list(space.units.items())
        macs = {layer.name: float(layer.macs) for layer in model.layers}
        parts = [proxy.part(index) for index in range(len(proxy.parts))]
        with one_thread():
            first = Replay(
                model.dense,
                list(space.units),
                [macs[name] for name in space.units],
                parts,
                memory // self.workers,
            )
        self.reason = first.reason
        self._first = first
        self._idle = [first, *(first.twin() for _ in range(self.workers - 1))]
        self._lock = threading.Lock()

    def race(
        self,
        candidates: Sequence[Candidate],
        rivals: Sequence[NDArray[np.float64] | None],
        order: Sequence[int],
    ) -> Iterator[Measurement]:
        """Measures candidates, each against its rival, in their order.

        Args:
            candidates: Option index per unit.
            rivals: `(n,)` losses of what each must beat, by example; None measures it on all.
            order: The parts of the inputs, in the order in which they are measured.
        """

        def measure(candidate: Candidate, rival: NDArray[np.float64] | None) -> Measurement:
            return self._measure(candidate, rival, order)

        # Neighbours in this order share their first layers, and so what is kept of them.
        places = sorted(range(len(candidates)), key=lambda place: candidates[place])
        measured = self._map(
            measure, [candidates[place] for place in places], [rivals[place] for place in places]
        )
        ready: dict[int, Measurement] = {}
        waiting = iter(places)
        for place in range(len(candidates)):
            while place not in ready:
                ready[next(waiting)] = next(measured)
            yield ready.pop(place)

    def outputs(
        self, candidates: Sequence[Candidate], parts: Sequence[int]
    ) -> Iterator[list[Tensor]]:
        """The outputs of candidates on some parts of the inputs."""

        def run(candidate: Candidate, _: None) -> list[Tensor]:
            ready = self._ready(candidate)
            with self._replay() as replay:
                return [self._run(replay, ready, part)[0] for part in parts]

        yield from self._map(run, candidates, [None] * len(candidates))

    def slopes(self, candidate: Candidate) -> NDArray[np.float64]:
        """What every switch does to the loss of a candidate, to first order: `(all options,)`."""
        begun = time.perf_counter()
        menus = dict(self._menus)
        chosen = {name: menu[k] for (name, menu), k in zip(self._menus, candidate, strict=True)}
        with one_thread():
            model = self._stitcher.stitch(chosen)
            found = slopes(model, menus, self._stitcher.module, chosen, self.proxy)
        spent = time.perf_counter() - begun
        self.spent.forward += spent
        self.spent.busy += spent
        self.spent.passes += SLOPE_PASSES
        return found

    def left(self, unit: int) -> float:
        """Share of a pass that a change of this unit alone costs."""
        return self._first.left(unit)

    def _map(
        self,
        function: Callable[[Candidate, Other], Result],
        candidates: Sequence[Candidate],
        others: Sequence[Other],
    ) -> Iterator[Result]:
        if self.workers == 1 or len(candidates) == 1:
            with one_thread():
                yield from map(function, candidates, others)
            return
        with one_thread(), ThreadPoolExecutor(self.workers, initializer=_alone) as pool:
            yield from pool.map(function, candidates, others)

    def _measure(
        self, candidate: Candidate, rival: NDArray[np.float64] | None, order: Sequence[int]
    ) -> Measurement:
        begun = time.perf_counter()
        ready = self._ready(candidate)
        with self._replay() as replay:
            measured = race(self.proxy, lambda part: self._run(replay, ready, part), order, rival)
        return replace(measured, seconds=time.perf_counter() - begun)

    def _ready(self, candidate: Candidate) -> Run:
        """The layers and sums of a candidate, built."""
        chosen = {name: menu[k] for (name, menu), k in zip(self._menus, candidate, strict=True)}
        with self._lock:
            modules = [self._stitcher.module(name, option) for name, option in chosen.items()]
            return Run(modules.__getitem__, candidate, self._stitcher.sums(chosen))

    def _run(self, replay: Replay, candidate: Run, part: int) -> tuple[Tensor, float]:
        begun = time.perf_counter()
        output, share = replay(candidate, part)
        spent = time.perf_counter() - begun
        rows = self.proxy.parts[part]
        with self._lock:
            self.spent.forward += spent
            self.spent.passes += share * (rows.stop - rows.start) / len(self.proxy.inputs[0])
        return output, share

    @contextlib.contextmanager
    def _replay(self) -> Iterator[Replay]:
        """A replay that no other thread uses."""
        begun = time.perf_counter()
        with self._lock:
            replay = self._idle.pop()
        try:
            yield replay
        finally:
            with self._lock:
                self._idle.append(replay)
                self.spent.busy += time.perf_counter() - begun


def _alone() -> None:
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
