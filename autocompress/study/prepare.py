"""Between the first look and the search: profile, bank, prices; nothing is made twice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from autocompress.compression.bank import Bank
from autocompress.compression.stitch import Stitcher
from autocompress.hardware.cost_model import LatencyPrices
from autocompress.hardware.coverage import Coverage
from autocompress.hardware.fit import Fit
from autocompress.objective.quality import Measurement, Proxy
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.space import Space
from autocompress.study.banking import fill_bank
from autocompress.study.config import Study
from autocompress.study.evaluator import Evaluator, assembly_of
from autocompress.study.events import Listener
from autocompress.study.executors.executor import Executor
from autocompress.study.executors.local import LocalExecutor
from autocompress.study.footprint import Footprints
from autocompress.study.gains import without_losers
from autocompress.study.narrowing import NAME as CHANNELS
from autocompress.study.pricing import Prices, price
from autocompress.study.profiling import profile_device
from autocompress.study.subject import Model
from autocompress.study.traced import NAME as TRACE
from autocompress.study.traced import write_trace
from autocompress.study.warm import read_warm


@dataclass(frozen=True)
class Correction:
    """How latency near the limit differs from what the cost model says.

    Args:
        ratio: Measured over predicted, both as shares of the original.
        error: Relative scatter of candidates around that; None where nothing was measured.
        candidates: How many were.
    """

    ratio: float = 1.0
    error: float | None = None
    candidates: int = 0


@dataclass(frozen=True)
class Prepared:
    """All that the search and the confirmation need.

    Args:
        study: What was asked.
        model: What there is.
        space: What may be chosen.
        bank: What each choice stores.
        stitcher: Assembles candidates.
        proxy: Judges them on the search inputs.
        latency: Prices of the device.
        fit: How far to trust them; None where they are estimates.
        coverage: How many of them were measured.
        prices: Loss tables and costs in numbers.
        executor: Where candidates are measured.
        correction: What was measured at the latency limit.
    """

    study: Study
    model: Model
    space: Space
    bank: Bank
    stitcher: Stitcher
    proxy: Proxy
    latency: LatencyPrices
    fit: Fit | None
    coverage: Coverage
    prices: Prices
    executor: Executor
    correction: Correction = Correction()

    def evaluate(self, candidate: Candidate) -> Measurement:
        """The proxy loss of a candidate."""
        return self.proxy(self.stitcher.stitch(dict(candidate.choices)))

    @cached_property
    def footprints(self) -> Footprints:
        """Estimates energy and memory of candidates."""
        return Footprints(self.model, self.study.device)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Races candidates of the space."""
        assembly = assembly_of(self.model, self.space, self.bank, self.stitcher, self.proxy)
        return Evaluator(assembly, self.executor)


def prepare(
    study: Study,
    model: Model,
    space: Space,
    folder: Path,
    listener: Listener,
    executor: Executor | None = None,
) -> Prepared:
    """Runs the stages between the first look and the search.

    Args:
        study: What is asked.
        model: The user's model and data.
        space: All options.
        folder: The run directory; holds `bank/`, `device.json`, `channels.json`, `prices.json`
            and `trace.onnx`.
        listener: Hears of the stages.
        executor: Where options are made and measured; threads of this process by default.

    Raises:
        AutocompressError: Any of the family; what was made before stays on disk.
    """
    executor = executor or LocalExecutor(study.workers)
    proxy = Proxy(
        model.dense, model.search_inputs, study.objective.proxy, labels=model.search_labels
    )

    verb = "timing" if study.device.sheet is None else "estimating"
    listener.stage("profile", f"{verb} operations on {study.device.name}")
    profile = profile_device(study, model, space, folder / "device.json", listener)
    latency = profile.prices
    space = without_losers(space, latency)
    for sentence in space.removed:
        listener.note(f"not offered: {sentence}")

    listener.stage("bank", "compressing every layer under every option")
    bank = Bank(folder / "bank", model.key, model.channels(space.widths, folder / CHANNELS))
    fill_bank(bank, model, space, executor, listener)
    stitcher = Stitcher(model.dense, lambda name, option: bank[name, option].treated)

    listener.stage("price", "predicting what every option costs")
    prices, thinned = price(
        study,
        model,
        space,
        bank,
        stitcher,
        proxy,
        latency,
        folder / "prices.json",
        listener,
        executor,
        keep=read_warm(folder).options(),
    )
    if model.known_graph is None and model.graph.is_exported:
        write_trace(folder / TRACE, model.trace_key, model.layers, model.graph)
    return Prepared(
        study,
        model,
        thinned,
        bank,
        stitcher,
        proxy,
        latency,
        profile.fit,
        profile.coverage,
        prices,
        executor,
    )
