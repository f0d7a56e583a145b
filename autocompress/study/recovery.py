"""The confirmed few are trained, measured again, and compete with what they were.

What a training came to is kept in the run directory as an archive, so that a run that goes on does
not train twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autocompress.compression.bank import recipe as code_version
from autocompress.compression.distil import Lesson, blocks, stages
from autocompress.compression.recover import Recipe, Recovered, recover
from autocompress.compression.squeeze import Squeeze
from autocompress.compression.stitch import stitched
from autocompress.compression.training_batches import Batches, Shuffled
from autocompress.compression.treated import Treated
from autocompress.deploy.archive import Archive, read_archive
from autocompress.errors import ArchiveError, StorageError
from autocompress.files import read_json, write_json
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.study.bench import Bench
from autocompress.study.config import parse_duration
from autocompress.study.confirm import Confirmation, rank
from autocompress.study.events import Listener
from autocompress.study.finalist import Finalist, Verdict, build_finalist, file_bytes
from autocompress.study.prepare import Prepared
from autocompress.study.ship import write_model
from autocompress.study.targets import keeps_hard

FOLDER = "recovered"
CHECKPOINT = "training.safetensors"
SMALL = 5e6  # multiply-adds of an example below which a second thread costs more than it does


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
    confirmed, for training changes them all."""
    settings = prepared.study.settings.recovery
    if settings.method != "squeeze":
        return prepared
    budget = dict(prepared.study.budget)
    size = budget["size"]
    budget["size"] = replace(size, value=size.value * settings.start)
    objective = prepared.study.objective
    few = min(objective.finalists, settings.finalists + 1)
    objective = objective.model_copy(update={"finalists": few})
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
    chosen = [v for v in confirmation.verdicts if _can_be_trained(v)][: settings.finalists]
    if settings.method == "none" or not chosen:
        return confirmation, ()
    bench = Bench(prepared)
    bench.latency_ms = confirmation.original.latency_ms
    known = [_judged(verdict, bench) for verdict in confirmation.verdicts]
    trained: list[Verdict] = []
    recoveries: list[Recovery] = []
    for index, verdict in enumerate(chosen):
        name = verdict.record.id
        listener.stage("recover", f"{settings.method}: {name}, {index + 1} of {len(chosen)}")
        finalist, found = _train(prepared, verdict, folder, listener)
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


def recovered_archive(run: Path, name: str) -> Archive:
    """A trained candidate of a run.

    Args:
        run: The run directory.
        name: File in its folder `recovered`.

    Raises:
        StorageError: If the file is gone.
        ArchiveError: If it is damaged.
    """
    return read_archive(run / FOLDER / name)


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


def _train(
    prepared: Prepared, verdict: Verdict, folder: Path, listener: Listener
) -> tuple[Finalist | None, Recovered]:
    """A trained candidate, or None where training found nothing better; from an earlier run where
    it has been trained before."""
    finalist, candidate = verdict.finalist, verdict.record.id
    if prepared.study.settings.recovery.method == "squeeze":
        finalist = _coded(prepared, finalist)
    key = _key(prepared, finalist)
    name = f"{candidate}-{key[:10]}"
    facts = folder / FOLDER / f"{name}.json"
    path = facts.with_suffix(".acz")
    known = _known(facts, path)
    if known is None:
        found = _run(prepared, finalist, key, folder / FOLDER, listener)
        layers: Mapping[str, Treated] = found.treated
    else:
        layers, found = known
        listener.note(f"{candidate}: trained before, in {found.seconds:.0f} s")
    built = None
    if found.improved:
        whole = {**finalist.treated, **layers}
        options = _options(prepared, finalist, whole)
        built = build_finalist(
            prepared, finalist.candidate, whole, found.after, options, f"{name}.acz"
        )
    if known is None:
        if built is not None:
            write_model(prepared, built, path, "archive")
        write_json(facts, _facts(found))
    return built, found


def _coded(prepared: Prepared, finalist: Finalist) -> Finalist:
    """The candidate with codes for the layers that the search left dense: a squeeze works on all
    that has any on its menu."""
    choices = dict(finalist.candidate.choices)
    whole = dict(finalist.treated)
    losses = prepared.prices.losses["swap"]
    for index, (unit, menu) in enumerate(prepared.space.units.items()):
        if not choices[unit].is_identity:
            continue
        coded = [
            (float(losses[index][place]), place)
            for place, option in enumerate(menu)
            if option.bits <= 8 and option.rank == 1 and not option.is_narrow
        ]
        # The same kernels as before, where there is a choice.
        plain = [pair for pair in coded if menu[pair[1]].activations == "float32"]
        if coded:
            choices[unit] = menu[min(plain or coded)[1]]
            whole[unit] = prepared.bank[unit, choices[unit]].treated
    return replace(finalist, candidate=Candidate(tuple(choices.items())), treated=whole)


def _facts(found: Recovered) -> dict[str, Any]:
    """All of it but the layers, as plain data."""
    names = ("before", "after", "steps", "seconds", "improved")
    return {name: getattr(found, name) for name in names}


def _known(facts: Path, path: Path) -> tuple[Mapping[str, Treated], Recovered] | None:
    """What an earlier run trained; None where it did not, or what it left is damaged."""
    if not facts.is_file():
        return None
    try:
        values = read_json(facts)
        layers = read_archive(path).treated if values["improved"] else {}
        return layers, Recovered(treated=layers, **values)
    except (StorageError, ArchiveError, TypeError, KeyError):
        return None


def _run(
    prepared: Prepared, finalist: Finalist, key: str, folder: Path, listener: Listener
) -> Recovered:
    model, settings = prepared.model, prepared.study.settings.recovery
    trained = {
        name: finalist.treated[name]
        for name, option in finalist.candidate.choices
        if not option.is_identity
    }

    def size(treated: Mapping[str, Treated]) -> int:
        whole = {**finalist.treated, **treated}
        options = _options(prepared, finalist, whole)
        return file_bytes(prepared, finalist.candidate, whole, finalist.proto, options)

    macs = sum(layer.macs for layer in model.layers) / len(model.example_inputs[0])
    recipe = Recipe(
        lesson=Lesson(settings.temperature, settings.features, settings.attention),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        max_seconds=parse_duration(settings.max_time) if settings.max_time else None,
        free=settings.method == "squeeze",
        threads=1 if macs < SMALL else 0,
    )
    return recover(
        model.dense,
        trained,
        _batches(prepared, listener),
        recipe,
        lambda treated: prepared.proxy(stitched(model.dense, treated)).value,
        Squeeze(_limit(prepared, finalist), size),
        stages(model.layers),
        blocks(model.layers, trained) if settings.method == "blocks" else (),
        folder / CHECKPOINT,
        key,
        lambda done, total, detail: listener.progress(done, total, detail),
    )


def _batches(prepared: Prepared, listener: Listener) -> Batches:
    """What the task gives to train on, or the calibration inputs that options are fitted to."""
    task = prepared.study.task
    source = task.training()
    if source is None:
        inputs = prepared.model.cost_inputs
        listener.note(
            f"the task has no training(): {len(inputs[0])} calibration inputs are trained on"
        )
        source = Shuffled(inputs, seed=prepared.study.settings.seed)
    return Batches(source, task.origin)


def _limit(prepared: Prepared, finalist: Finalist) -> int:
    """Bytes that training may end with: the limit on size; without one, and where it is kept
    anyway, what the file takes now."""
    limit = prepared.study.budget.get("size")
    if limit is None:
        return finalist.size_bytes
    bound = limit.bound(prepared.model.size_bytes)
    if prepared.study.settings.recovery.method == "squeeze":
        return int(bound)
    return max(finalist.size_bytes, int(bound))


def _options(
    prepared: Prepared, finalist: Finalist, treated: Mapping[str, Treated]
) -> dict[str, str]:
    """Layer to the id of what is stored for it: after a squeeze not what the search chose."""
    options = finalist.candidate.as_dict()
    if prepared.study.settings.recovery.method != "squeeze":
        return options
    return {name: _as_stored(Option.parse(options[name]), treated[name]).id for name in options}


def _as_stored(option: Option, treated: Treated) -> Option:
    if option.is_identity:
        return option
    weights = [weight for weight in treated.weights if weight.scale is not None]
    if not weights:
        return option
    count = sum(weight.codes.numel() for weight in weights)
    zeros = sum(int((weight.codes == 0).sum()) for weight in weights)
    # A layer of nothing but zeros has no share of zeros that an option allows.
    share = min(round(zeros / max(1, count), 3), 0.999)
    most = max(weight.bits for weight in weights)
    return Option(
        bits=most,
        sparsity=share,
        rank=option.rank,
        tucker=option.tucker,
        activations=option.activations,
        inputs=option.inputs,
        outputs=option.outputs,
        scales="tensor",
    )


def _key(prepared: Prepared, finalist: Finalist) -> str:
    """Hash of all that a training depends on, the task's training inputs aside."""
    settings = prepared.study.settings
    text = json.dumps(
        [
            prepared.model.key,
            finalist.candidate.as_dict(),
            settings.recovery.model_dump(),
            prepared.study.budget["size"].text if "size" in prepared.study.budget else "",
            settings.seed,
            code_version(),
            finalist.size_bytes,
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()
