"""Confirmation: the few best candidates are fitted in sequence and measured beside the original;
one wins.

The proxy proposes, the user's metric on the selection split and the device's clock decide.  The
test split is touched once, by the winner and the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.deploy.onnx_file import OnnxModule
from autocompress.hardware.clock import feeds, time_when_calm
from autocompress.hardware.timing import ratio
from autocompress.search_space.candidate import Candidate
from autocompress.study.events import Listener
from autocompress.study.finalist import Finalist, Verdict, make_finalist, original_of
from autocompress.study.prepare import Prepared
from autocompress.study.storage import Record
from autocompress.study.targets import Measured, Target, keeps_hard, shortfall, targets_of

ORIGINAL = "original"
# Two sessions of one and the same graph were seen up to this far apart, lower end of the interval.
SAME_SPEED = 1.005


@dataclass(frozen=True)
class Confirmation:
    """The outcome of a run.

    Args:
        original: The original on the selection split, beside the finalists.
        targets: The budget in numbers, against `original`.
        verdicts: All finalists, best first.
        winner: What is delivered; None when every finalist is worse than the original.
        probes: Loss and quality of further candidates along the front, as stitched from the bank:
            what the proxy is audited on, together with the finalists.
    """

    original: Measured
    targets: tuple[Target, ...]
    verdicts: tuple[Verdict, ...]
    winner: Verdict | None
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Probe:
    """A candidate whose quality was measured to audit the proxy."""

    candidate: str
    loss: float
    quality: float


@dataclass(frozen=True)
class Test:
    """The test split, touched once.

    Args:
        original: Quality of the original.
        winner: Quality of the winner's ONNX file, run by the device's runtime.
        agreement: Share of decisions in which the ONNX file and the torch module agree.
        examples: Number of decisions.
    """

    original: float
    winner: float
    agreement: float
    examples: int


def confirm(
    prepared: Prepared,
    records: Sequence[Record],
    front: Sequence[Record],
    listener: Listener,
) -> Confirmation:
    """Measures the candidates of some records and names the winner.

    Args:
        prepared: The run.
        records: The candidates to confirm, best first.
        front: All candidates worth exporting; as many as there are finalists are measured as well,
            without fitting, to audit the proxy.
        listener: Hears of every measurement.
    """
    study = prepared.study
    original = original_of(prepared)
    finalists = []
    for index, record in enumerate(records):
        listener.progress(index, len(records) + 1, f"fitting {record.id}")
        finalists.append(make_finalist(prepared, Candidate.from_dict(record.choices)))
    listener.progress(len(records), len(records) + 1, "timing beside the original")
    timings = time_when_calm(
        {ORIGINAL: original.proto, **{item.candidate.id: item.proto for item in finalists}},
        feeds(prepared.model.graph, prepared.model.example_inputs),
        ORIGINAL,
        prepared.latency.predict({}),
    )
    base = Measured(
        study.task.evaluate(original.module, "selection"),
        original.size_bytes,
        timings[ORIGINAL].p20_ms,
    )
    targets = targets_of(study.budget, base, study.higher_is_better, study.settings.metric_unit)
    generator = np.random.default_rng([study.settings.seed, 2])
    verdicts = []
    for finalist, record in zip(finalists, records, strict=True):
        timing = timings[finalist.candidate.id]
        interval = ratio(timing, timings[ORIGINAL], generator)
        measured = Measured(
            study.task.evaluate(finalist.module, "selection"), finalist.size_bytes, timing.p20_ms
        )
        met = keeps_hard(targets, measured)
        verdicts.append(Verdict(finalist, record, measured, interval.low, interval.high, met))
    minimise = None if study.delivers_knee else study.objective.minimise
    ranked = rank(verdicts, base, targets, minimise, study.higher_is_better)
    winner = ranked[0] if ranked and not ranked[0].reason else None
    return Confirmation(base, targets, tuple(ranked), winner, _probe(prepared, records, front))


def _probe(
    prepared: Prepared, finalists: Sequence[Record], front: Sequence[Record]
) -> tuple[Probe, ...]:
    """Quality of candidates that are evenly spread over the front's losses."""
    known = {record.id for record in finalists}
    others = sorted((r for r in front if r.id not in known), key=lambda record: record.loss)
    places = np.linspace(0, len(others) - 1, min(len(finalists), len(others))).round().astype(int)
    probes = []
    for record in (others[place] for place in dict.fromkeys(places.tolist())):
        choices = dict(Candidate.from_dict(record.choices).choices)
        model = prepared.stitcher.stitch(choices)
        quality = prepared.study.task.evaluate(model, "selection")
        probes.append(Probe(record.id, record.loss, quality))
    return tuple(probes)


def rank(
    verdicts: Sequence[Verdict],
    original: Measured,
    targets: Sequence[Target],
    minimise: str | None,
    higher_is_better: bool,
) -> list[Verdict]:
    """Best first, each but the winner with the reason why it lost.

    One that is larger or slower than the original is never delivered; then those that keep every
    hard limit come first, by how far they miss the soft ones and then by what is minimised, the
    others by how far they miss.

    Args:
        verdicts: The finalists.
        original: What they are compared with.
        targets: The limits.
        minimise: `quality` (lost), `size` or `latency`; None keeps the order of `verdicts`.
        higher_is_better: Direction of the metric.
    """

    places = {id(verdict): place for place, verdict in enumerate(verdicts)}

    def key(verdict: Verdict) -> tuple[float, ...]:
        measured = verdict.measured
        quality = -measured.quality if higher_is_better else measured.quality
        wanted = float(places[id(verdict)])
        if minimise is not None:
            wanted = quality if minimise == "quality" else measured.value(minimise)
        return (
            bool(_worse(verdict, original)),
            not verdict.met,
            *shortfall(targets, measured, original),
            wanted,
            verdict.finalist.loss,
        )

    ranked = sorted(verdicts, key=key)
    reasons = []
    for index, verdict in enumerate(ranked):
        reason = _worse(verdict, original)
        if not reason and index:
            missed = [t.name for t in targets if not t.is_met(verdict.measured)]
            reason = (
                f"misses the limit on {', '.join(missed)}" if missed else "another one is better"
            )
        reasons.append(verdict.because(reason))
    return reasons


def _worse(verdict: Verdict, original: Measured) -> str:
    """In which measured cost a finalist is worse than the original; empty when in none."""
    if verdict.measured.size_bytes > original.size_bytes:
        return "larger than the original"
    if verdict.latency_low > SAME_SPEED:
        return f"slower than the original (at least {verdict.latency_low:.2f} times)"
    return ""


def test(prepared: Prepared, winner: Finalist) -> Test:
    """The winner and the original on the test split, the winner as its ONNX file runs.

    Raises:
        TaskError: If `evaluate` fails.
    """
    task = prepared.study.task
    twins = Twins(OnnxModule(winner.proto), winner.module)
    quality = task.evaluate(twins, "test")
    original = task.evaluate(prepared.model.dense, "test")
    return Test(original, quality, twins.agreement, twins.examples)


class Twins(nn.Module):
    """Runs two models on the same inputs, returns the first one's outputs and counts agreements.

    Args:
        first: Gives the outputs.
        second: Is compared with it.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.examples = 0
        self.agreed = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs: Tensor = self.first(*inputs)
        with torch.no_grad():
            others: Tensor = self.second(*inputs)
        same = _decisions(outputs) == _decisions(others)
        self.examples += same.numel()
        self.agreed += int(same.sum())
        return outputs

    @property
    def agreement(self) -> float:
        """Share of equal decisions; 1 when nothing was compared."""
        return self.agreed / self.examples if self.examples else 1.0


def _decisions(outputs: Tensor) -> Tensor:
    """The chosen class; for a single output its sign."""
    return outputs.argmax(-1) if outputs.ndim > 1 and outputs.shape[-1] > 1 else outputs > 0


def quality_threshold(
    records: Sequence[Record],
    measure: Callable[[Record], float],
    target: Target | None,
) -> float:
    """The largest proxy loss at which the user's metric still keeps its limit, found by bisection.

    Needed where size or latency is what is made small: the search then needs a limit on the loss.

    Args:
        records: Evaluated candidates.
        measure: The metric of a stitched candidate on the selection split.
        target: The limit on quality; without one the loss is not limited.

    Returns:
        A loss in the proxy's unit; infinite without a limit, 0 if no candidate keeps it.
    """
    if target is None:
        return float("inf")
    ordered = sorted(records, key=lambda record: record.loss)
    low, high = -1, len(ordered)
    while high - low > 1:
        middle = (low + high) // 2
        quality = measure(ordered[middle])
        kept = target.is_met(Measured(quality, 0.0, 0.0))
        low, high = (middle, high) if kept else (low, middle)
    return ordered[low].loss if low >= 0 else 0.0
