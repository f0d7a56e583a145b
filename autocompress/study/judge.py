"""Judges candidates one at a time, in one thread: what every worker has of a search."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.compression.stitch import Stitcher
from autocompress.compression.treated import Treated
from autocompress.model.replay import MEMORY, Replay, Run
from autocompress.objective.products import Sketch
from autocompress.objective.quality import Measurement, Proxy
from autocompress.objective.racing import race
from autocompress.search.problem import Candidate
from autocompress.search_space.option import Option

Menus: TypeAlias = Mapping[str, tuple[Option, ...]]
Heat: TypeAlias = tuple[Candidate, NDArray[np.float64] | None, tuple[int, ...]]
Swap: TypeAlias = tuple[Candidate, int, tuple[int, ...]]


@dataclass
class Spent:
    """Where the time of measurements went, in seconds of all workers together.

    Args:
        forward: Inside the model.
        busy: Measuring, the forward passes included.
        passes: Passes of the model over all examples that the forward time paid for.
    """

    forward: float = 0.0
    busy: float = 0.0
    passes: float = 0.0

    def add(self, other: Spent) -> None:
        """Adds what another has spent."""
        self.forward += other.forward
        self.busy += other.busy
        self.passes += other.passes


@dataclass(frozen=True)
class Assembly:
    """All that it takes to put candidates together and judge them.

    Args:
        dense: The original.
        menus: Unit to options: says which options the numbers of a candidate mean.
        macs: Multiply-adds of each unit.
        stitcher: Builds the layers.  A copy in another process has its own, over the entries of
            the menus.
        lookup: What is stored for a unit under an option.
        proxy: Judges outputs.
        memory: Bytes of activations that a process keeps for reuse.
    """

    dense: nn.Module
    menus: Menus
    macs: Mapping[str, float]
    stitcher: Stitcher = field(compare=False)
    lookup: Callable[[str, Option], Treated] = field(compare=False)
    proxy: Proxy
    memory: int = MEMORY

    def open(self, workers: int = 1) -> list[Judge]:
        """Judges that share the layers they build; see `executors.executor.Source`."""
        first = Judge(self, workers)
        return [first, *(first.twin() for _ in range(workers - 1))]

    def __reduce__(self) -> Any:
        stored = {
            (unit, option.computed): self.lookup(unit, option)
            for unit, menu in self.menus.items()
            for option in menu
            if not option.computed.is_identity
        }
        return _assembled, (self.dense, self.menus, self.macs, stored, self.proxy, self.memory)


def _assembled(
    dense: nn.Module,
    menus: Menus,
    macs: Mapping[str, float],
    stored: Mapping[tuple[str, Option], Treated],
    proxy: Proxy,
    memory: int,
) -> Assembly:
    def lookup(unit: str, option: Option) -> Treated:
        return stored[unit, option.computed]

    return Assembly(dense, menus, macs, Stitcher(dense, lookup), lookup, proxy, memory)


class Judge:
    """Measures candidates by the proxy.

    Args:
        assembly: What they are made of.
        shares: How many judges share the memory for activations.

    Attributes:
        reason: Why no activations are reused; empty if they are.
    """

    def __init__(self, assembly: Assembly, shares: int = 1) -> None:
        self.proxy = assembly.proxy
        self._menus = list(assembly.menus.items())
        self._stitcher = assembly.stitcher
        self._lock = threading.Lock()  # one for all twins
        self._sketch = Sketch()
        parts = [self.proxy.part(index) for index in range(len(self.proxy.parts))]
        units = list(assembly.menus)
        macs = [assembly.macs[name] for name in units]
        self._replay = Replay(assembly.dense, units, macs, parts, assembly.memory // shares)
        self.reason = self._replay.reason

    def twin(self) -> Judge:
        """Another judge for another thread, with activations of its own."""
        twin = copy.copy(self)
        twin._replay, twin._sketch = self._replay.twin(), Sketch()
        return twin

    def measure(self, heat: Heat) -> tuple[Measurement, Spent]:
        """Races a candidate against the losses `(n,)` of its rival, by example, over the parts in
        the order that is given; without a rival it is measured on all.
        """
        candidate, rival, order = heat
        begun, spent = time.perf_counter(), Spent()
        ready = self._ready(candidate)

        def outputs(part: int) -> tuple[Tensor, float]:
            return self._run(ready, part, spent)

        measured = race(self.proxy, outputs, order, rival)
        spent.busy = time.perf_counter() - begun
        return replace(measured, seconds=spent.busy), spent

    def swap(self, swap: Swap) -> tuple[float, NDArray[np.float32], float]:
        """Judges a candidate in which one unit is not dense, on some parts.

        Returns:
            Its loss, its push on the outputs (`objective.products`), and the share of a pass that
            it costs where the original's activations are at hand.
        """
        candidate, unit, parts = swap
        # No other swap makes the same choices beyond the unit.
        ready, spent = replace(self._ready(candidate), shared=unit), Spent()
        scores, pushes = [], []
        for part in parts:
            given, rows = self._run(ready, part, spent)[0], self.proxy.parts[part]
            scores.append(self.proxy.score(given, rows))
            pushes.append(self.proxy.pushes(given, rows))
        values = np.concatenate(scores)
        push = torch.cat([part.flatten() for part in pushes]) / len(values) ** 0.5
        return float(values.mean()), self._sketch(push), self._replay.left(unit)

    def _ready(self, candidate: Candidate) -> Run:
        """The layers and sums of a candidate, built."""
        chosen = {name: menu[k] for (name, menu), k in zip(self._menus, candidate, strict=True)}
        with self._lock:
            modules = [self._stitcher.module(name, option) for name, option in chosen.items()]
            return Run(modules.__getitem__, candidate, self._stitcher.sums(chosen))

    def _run(self, candidate: Run, part: int, spent: Spent) -> tuple[Tensor, float]:
        begun = time.perf_counter()
        output, share = self._replay(candidate, part)
        spent.forward += time.perf_counter() - begun
        rows = self.proxy.parts[part]
        spent.passes += share * (rows.stop - rows.start) / len(self.proxy.inputs[0])
        return output, share
