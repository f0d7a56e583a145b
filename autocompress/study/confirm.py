"""Confirmation: the few best candidates are fitted in sequence and measured beside the original;
one wins.

The proxy proposes, the user's metric on the selection split and the device's clock decide.  The
test split is touched once, by the winner and the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.deploy.onnx_file import OnnxModule
from autocompress.objective.audit import ProxyAudit, audit_proxy
from autocompress.study.bench import Bench
from autocompress.study.decisions import Decisions, Twins, Watched
from autocompress.study.events import Listener
from autocompress.study.finalist import Finalist, Probe, Verdict
from autocompress.study.prepare import Prepared
from autocompress.study.storage import Record
from autocompress.study.targets import Measured, Target, shortfall

SCREENED = 16  # reserves that the metric is asked about at a time
BATCHES = 2  # of promoted finalists
UNLIMITED = 0.01  # share of the original's quality that counts as allowed where no limit says
# Two sessions of one and the same graph were seen about this far apart, lower end of the interval.
SAME_SPEED = 1.005


@dataclass(frozen=True)
class Confirmation:
    """The outcome of a run.

    Args:
        original: The original on the selection split, beside the finalists.
        targets: The budget in numbers, against `original`.
        verdicts: All finalists, best first.
        winner: What is delivered; None when every finalist is worse than the original.
        probes: Loss and quality of further candidates, as stitched from the bank: what the proxy
            is audited on, together with the finalists.
        audit: What that says of the proxy.
        promoted: How many of the finalists were added because the proxy misled.
    """

    original: Measured
    targets: tuple[Target, ...]
    verdicts: tuple[Verdict, ...]
    winner: Verdict | None
    probes: tuple[Probe, ...]
    audit: ProxyAudit
    promoted: int = 0


@dataclass(frozen=True)
class Test:
    """The test split, touched once.

    Args:
        original: Quality of the original.
        winner: Quality of the winner's ONNX file, run by the device's runtime.
        agreement: Share of decisions in which the ONNX file and the torch module agree.
        examples: Number of decisions.
        decisions: Those of the winner and of the original.
    """

    original: float
    winner: float
    agreement: float
    examples: int
    decisions: Decisions | None = None


def confirm(
    prepared: Prepared,
    records: Sequence[Record],
    front: Sequence[Record],
    listener: Listener,
    reserves: Sequence[Record] = (),
) -> Confirmation:
    """Measures the candidates of some records and names the winner.

    Where the audit says that the proxy misleads, the metric is asked about reserves, and as many
    as there are finalists, those it likes best, are confirmed as well; once more if that gave a
    better one.

    Args:
        prepared: The run.
        records: The candidates to confirm, best first.
        front: All candidates worth exporting; as many as there are finalists are measured as well,
            without fitting, to audit the proxy.
        listener: Hears of every measurement.
        reserves: Further candidates for the same limits, best first by the proxy.
    """
    bench = Bench(prepared)
    verdicts = bench.measure(records, listener)
    probes = _probe(bench, records, front)
    audit = _audit(bench, verdicts, (), probes)
    screened: list[Probe] = []
    left = list(reserves)
    batches = 0
    while audit.misleads and left and records and batches < BATCHES:
        if not batches:
            listener.note(f"{audit.warning}; more candidates are confirmed")
        batches += 1
        looked, left = _next(left)
        listener.progress(0, 1, f"asking the metric about {len(looked)} more candidates")
        found = [Probe(r.id, r.loss, bench.stitched_quality(r)) for r in looked]
        screened += found
        sign = -1.0 if prepared.study.higher_is_better else 1.0
        order = sorted(range(len(looked)), key=lambda i: (sign * found[i].quality, found[i].loss))
        best = _best(verdicts, sign)
        promoted = [looked[i] for i in order[: len(records)]]
        verdicts += bench.measure(promoted, listener)
        fitted = {record.id for record in promoted}
        screened = [probe for probe in screened if probe.candidate not in fitted]
        asked = fitted | {probe.candidate for probe in screened}
        probes = tuple(probe for probe in probes if probe.candidate not in asked)
        audit = _audit(bench, verdicts, screened, probes)
        if _best(verdicts, sign) >= best:
            break
    study = prepared.study
    minimise = None if study.delivers_knee else study.objective.minimise
    ranked = rank(verdicts, bench.base, bench.targets, minimise, study.higher_is_better)
    winner = ranked[0] if ranked and not ranked[0].reason else None
    if winner is not None and (winner.same_work or winner.latency_high >= 1):
        listener.note(
            f"no gain in latency: {winner.latency_low:.3f} to {winner.latency_high:.3f} of the"
            " original's"
        )
    return Confirmation(
        bench.base,
        bench.targets,
        tuple(ranked),
        winner,
        (*screened, *probes),
        audit,
        len(verdicts) - len(records),
    )


def _best(verdicts: Sequence[Verdict], sign: float) -> float:
    return min(sign * verdict.measured.quality for verdict in verdicts)


def _next(reserves: list[Record]) -> tuple[list[Record], list[Record]]:
    """Those to ask the metric about, and the rest: where the proxy misleads, half come from where
    it points and half from everywhere."""
    near, far = reserves[: SCREENED // 2], reserves[SCREENED // 2 :]
    places = np.linspace(0, len(far) - 1, min(SCREENED // 2, len(far))).round().astype(int)
    spread = set(places.tolist())
    looked = [*near, *(far[place] for place in sorted(spread))]
    return looked, [record for place, record in enumerate(far) if place not in spread]


def _audit(
    bench: Bench, verdicts: Sequence[Verdict], screened: Sequence[Probe], probes: Sequence[Probe]
) -> ProxyAudit:
    """The proxy on all candidates of which loss and quality are known."""
    rivals = [*(v.probe for v in verdicts), *screened]
    points = [*rivals, *probes]
    allowed = [
        abs(target.bound - bench.quality) for target in bench.targets if target.name == "quality"
    ]
    return audit_proxy(
        [point.loss for point in points],
        [point.quality for point in points],
        bench.prepared.study.higher_is_better,
        allowed[0] if allowed else UNLIMITED * abs(bench.quality),
        len(rivals),
    )


def _probe(
    bench: Bench, finalists: Sequence[Record], front: Sequence[Record]
) -> tuple[Probe, ...]:
    """Quality of candidates that are evenly spread over the front's losses."""
    known = {record.id for record in finalists}
    others = sorted(
        (record for record in front if record.complete and record.id not in known),
        key=lambda record: record.loss,
    )
    places = np.linspace(0, len(others) - 1, min(len(finalists), len(others))).round().astype(int)
    return tuple(
        Probe(record.id, record.loss, bench.stitched_quality(record))
        for record in (others[place] for place in dict.fromkeys(places.tolist()))
    )


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
            missed += [room.name for room in verdict.rooms if not room.fits]
            if verdict.no_gain and "latency" not in missed:
                missed.append("latency (no gain outside the noise)")
            reason = (
                f"misses the limit on {', '.join(missed)}" if missed else "another one is better"
            )
        reasons.append(verdict.because(reason))
    return reasons


def _worse(verdict: Verdict, original: Measured) -> str:
    """In which measured cost a finalist is worse than the original; empty when in none."""
    if verdict.measured.size_bytes > original.size_bytes:
        return "larger than the original"
    if verdict.latency_low > SAME_SPEED and not verdict.same_work:
        return f"slower than the original (at least {verdict.latency_low:.2f} times)"
    return ""


def is_closer(second: Confirmation, first: Confirmation) -> bool:
    """Whether the winner of one confirmation comes closer to the budget than that of another."""
    if second.winner is None or first.winner is None:
        return first.winner is None and second.winner is not None

    def missed(found: Confirmation, verdict: Verdict) -> tuple[float, ...]:
        return (
            float(not verdict.met),
            *shortfall(found.targets, verdict.measured, found.original),
        )

    return missed(second, second.winner) < missed(first, first.winner)


def test(prepared: Prepared, winner: Finalist) -> Test:
    """The winner and the original on the test split, the winner as its ONNX file runs; as a module
    where there is no such file.

    Raises:
        TaskError: If `evaluate` fails.
    """
    task = prepared.study.task
    runtime = prepared.study.device.file_engine
    is_exported = prepared.model.graph.is_exported
    runs = OnnxModule(winner.proto, runtime=runtime) if is_exported else winner.module
    watched = Watched(runs)
    twins = Twins(watched, winner.module)
    quality = task.evaluate(twins, "test")
    dense = Watched(prepared.model.dense)
    original = task.evaluate(dense, "test")
    made = Decisions(watched.decisions, dense.decisions, dense.inputs)
    return Test(original, quality, twins.agreement, twins.examples, made)


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
