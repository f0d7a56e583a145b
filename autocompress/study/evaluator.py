"""Measures candidates wherever an executor runs; the numbers do not depend on where."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autocompress.compression.bank import Bank
from autocompress.compression.stitch import Stitcher
from autocompress.objective.quality import Measurement, Proxy
from autocompress.objective.slopes import slopes
from autocompress.search.problem import Candidate
from autocompress.search.sampler import SLOPE_PASSES
from autocompress.search_space.space import Space
from autocompress.study.executors.executor import Executor, Lost
from autocompress.study.executors.local import LocalExecutor, one_thread
from autocompress.study.judge import Assembly, Heat, Judge, Spent, Swap
from autocompress.study.subject import Model


class Evaluator:
    """Measures candidates of a space by the proxy.

    Every worker runs its forward passes on one core: small models gain more from several
    candidates at a time, and sums are formed in the same order however many workers there are.

    Args:
        assembly: What candidates are made of and judged by.
        executor: Where that is done.
    """

    def __init__(self, assembly: Assembly, executor: Executor | None = None) -> None:
        self.proxy = assembly.proxy
        self.spent = Spent()
        self._assembly = assembly
        self._executor = executor or LocalExecutor()

    @cached_property
    def reason(self) -> str:
        """Why no activations are reused; empty if they are."""
        with one_thread():
            return Judge(self._assembly).reason

    def race(
        self,
        candidates: Sequence[Candidate],
        rivals: Sequence[NDArray[np.float64] | None],
        order: Sequence[int],
    ) -> Iterator[Measurement | Lost]:
        """Measures candidates, each against its rival, in their order.

        Args:
            candidates: Option index per unit.
            rivals: `(n,)` losses of what each must beat, by example; None measures it on all.
            order: The parts of the inputs, in the order in which they are measured.
        """
        # Neighbours in this order share their first layers, and so what is kept of them.
        places = sorted(range(len(candidates)), key=lambda place: candidates[place])
        heats: list[Heat] = [(candidates[at], rivals[at], tuple(order)) for at in places]
        measured = self._executor.map_unordered(Judge.measure, self._assembly, heats)
        ready: dict[int, Measurement | Lost] = {}
        for place in range(len(candidates)):
            while place not in ready:
                index, found = next(measured)
                if isinstance(found, Lost):
                    ready[places[index]] = found
                    continue
                ready[places[index]], spent = found
                self.spent.add(spent)
            yield ready.pop(place)

    def swaps(
        self, swaps: Sequence[Swap]
    ) -> Iterator[tuple[int, tuple[float, NDArray[np.float32], float] | Lost]]:
        """What `Judge.swap` says of each, with its place, as they are finished."""
        return self._executor.map_unordered(Judge.swap, self._assembly, swaps)

    def slopes(self, candidate: Candidate) -> NDArray[np.float64]:
        """What every switch does to the loss of a candidate, to first order: `(all options,)`."""
        begun = time.perf_counter()
        menus, stitcher = dict(self._assembly.menus), self._assembly.stitcher
        chosen = {name: menu[k] for (name, menu), k in zip(menus.items(), candidate, strict=True)}
        with one_thread():
            model = stitcher.stitch(chosen)
            found = slopes(model, menus, stitcher.module, chosen, self.proxy)
        spent = time.perf_counter() - begun
        self.spent.add(Spent(spent, spent, SLOPE_PASSES))
        return found


def assembly_of(
    model: Model, space: Space, bank: Bank, stitcher: Stitcher, proxy: Proxy
) -> Assembly:
    """What candidates of a space are made of and judged by."""
    return Assembly(
        model.dense,
        dict(space.units),
        {layer.name: float(layer.macs) for layer in model.layers if layer.name in space.units},
        stitcher,
        lambda unit, option: bank[unit, option].treated,
        proxy,
    )
