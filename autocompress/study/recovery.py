"""The confirmed few are trained, measured again, and compete with what they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autocompress.compression.recover import Recovered
from autocompress.study.bench import Bench
from autocompress.study.confirm import Confirmation, rank
from autocompress.study.events import Listener
from autocompress.study.finalist import Finalist, Verdict
from autocompress.study.prepare import Prepared
from autocompress.study.targets import keeps_hard
from autocompress.study.training import train

RUNG = 8  # a trial has so much fewer passes than a training in full


@dataclass(frozen=True)
class Recovery:
    """What training did for one candidate.

    Args:
        candidate: Its id.
        method: `distil`, `blocks` or `squeeze`.
        loss_before: Proxy loss on the search inputs.
        loss_after: The same after training.
        quality_before: The metric on the selection split.
        quality_after: The same after training.
        size_before: Bytes of the file that ships.
        size_after: The same after training.
        steps: Batches that were trained on.
        seconds: Time of the training.
        improved: Whether training found something better by the proxy, within the limit on size.
    """

    candidate: str
    method: str
    loss_before: float
    loss_after: float
    quality_before: float
    quality_after: float
    size_before: int
    size_after: int
    steps: int
    seconds: float
    improved: bool


def loosened(prepared: Prepared) -> Prepared:
    """The run as its search sees it: before a squeeze the limit on size is wider, and few are
    confirmed, for training changes them all; as many at least as have a trial."""
    settings, objective = prepared.study.settings.recovery, prepared.study.objective
    budget, count = dict(prepared.study.budget), objective.finalists
    if settings.method == "none":
        return prepared
    if settings.method == "squeeze":
        size = budget["size"]
        budget["size"] = replace(size, value=size.value * settings.start)
        count = min(count, settings.finalists + 1)
    objective = objective.model_copy(update={"finalists": max(count, settings.trials)})
    return replace(prepared, study=replace(prepared.study, budget=budget, objective=objective))


def recover_best(
    prepared: Prepared, confirmation: Confirmation, folder: Path, listener: Listener
) -> tuple[Confirmation, tuple[Recovery, ...]]:
    """Trains the best of the confirmed candidates and names the winner anew.

    Args:
        prepared: The run, under its true budget.
        confirmation: What was confirmed, perhaps under a wider limit on size.
        folder: The run directory.
        listener: Hears of the progress.

    Returns:
        The confirmation with the trained candidates among the verdicts, and what training did.
    """
    study = prepared.study
    settings = study.settings.recovery
    able = [verdict for verdict in confirmation.verdicts if _can_be_trained(verdict)]
    if settings.method == "none" or not able:
        return confirmation, ()
    if settings.trials > settings.finalists:
        able = _promising(prepared, able[: settings.trials], folder, listener)
    chosen = able[: settings.finalists]
    bench = Bench(prepared)
    bench.latency_ms = confirmation.original.latency_ms
    known = [_judged(verdict, bench) for verdict in confirmation.verdicts]
    trained: list[Verdict] = []
    recoveries: list[Recovery] = []
    for index, verdict in enumerate(chosen):
        name = verdict.record.id
        listener.stage("recover", f"{settings.method}: {name}, {index + 1} of {len(chosen)}")
        finalist, found = train(prepared, verdict, folder, listener)
        after = verdict.measured.quality
        if finalist is not None:
            record = replace(verdict.record, loss=finalist.loss, size_bytes=finalist.size_bytes)
            (judged,) = bench.judge([finalist], [record], listener)
            trained.append(replace(judged, trained=True))
            after = judged.measured.quality
        recoveries.append(_recovery(settings.method, verdict, finalist, found, after))
    minimise = None if study.delivers_knee else study.objective.minimise
    ranked = rank([*trained, *known], bench.base, bench.targets, minimise, study.higher_is_better)
    winner = ranked[0] if not ranked[0].reason else None
    return (
        replace(confirmation, targets=bench.targets, verdicts=tuple(ranked), winner=winner),
        tuple(recoveries),
    )


def _promising(
    prepared: Prepared, verdicts: Sequence[Verdict], folder: Path, listener: Listener
) -> list[Verdict]:
    """Candidates by the loss that a short training leaves within the limit, the least first."""
    settings = prepared.study.settings
    short = {"epochs": -(-settings.recovery.epochs // RUNG)}
    recovery = settings.recovery.model_copy(update=short)
    study = replace(prepared.study, settings=settings.model_copy(update={"recovery": recovery}))
    trial = replace(prepared, study=study)
    losses = []
    for index, verdict in enumerate(verdicts):
        name = verdict.record.id
        listener.stage("recover", f"trial of {name}, {index + 1} of {len(verdicts)}")
        _, found = train(trial, verdict, folder, listener)
        # Of a squeeze that has not come to the limit nothing is known.
        losses.append(found.after if found.improved else float("inf"))
        after = f"{found.after:.6g} trained" if found.improved else "nothing better trained"
        listener.note(f"trial of {name}: loss {found.before:.6g}, {after}")
    order = sorted(range(len(verdicts)), key=lambda index: losses[index])
    return [verdicts[index] for index in order]


def _can_be_trained(verdict: Verdict) -> bool:
    """Whether a candidate has any layer that is not as it was."""
    return any(not option.is_identity for _, option in verdict.finalist.candidate.choices)


def _judged(verdict: Verdict, bench: Bench) -> Verdict:
    """A verdict under the limits of a bench."""
    met = (
        keeps_hard(bench.targets, verdict.measured)
        and all(room.fits for room in verdict.rooms)
        and not verdict.no_gain
    )
    return replace(verdict, met=met, reason="")


def _recovery(
    method: str, verdict: Verdict, finalist: Finalist | None, found: Recovered, after: float
) -> Recovery:
    return Recovery(
        candidate=verdict.record.id,
        method=method,
        loss_before=found.before,
        loss_after=found.after,
        quality_before=verdict.measured.quality,
        quality_after=after,
        size_before=verdict.finalist.size_bytes,
        size_after=(finalist or verdict.finalist).size_bytes,
        steps=found.steps,
        seconds=found.seconds,
        improved=finalist is not None,
    )
