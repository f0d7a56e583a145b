"""Trains one confirmed candidate: from what, on what, to how many bytes; and keeps the result.

What a training came to is kept in the run directory as an archive, so that a run that goes on does
not train twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autocompress.compression.bank import code_hash, recipe
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
from autocompress.study.config import parse_duration
from autocompress.study.events import Listener
from autocompress.study.finalist import Finalist, Verdict, build_finalist, file_bytes
from autocompress.study.prepare import Prepared
from autocompress.study.ship import write_model

FOLDER = "recovered"
CHECKPOINT = "training.safetensors"
SMALL = 5e6  # multiply-adds of an example below which a second thread costs more than it does
TRAINING = (  # code that a result hangs on, beside that of the bank's entries
    "code_length",
    "distil",
    "recover",
    "squeeze",
    "trainable",
    "trainable_tensor",
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


def train(
    prepared: Prepared, verdict: Verdict, folder: Path, listener: Listener
) -> tuple[Finalist | None, Recovered]:
    """Trains one candidate, or finds what an earlier run has trained.

    Args:
        prepared: The run, under its true budget.
        verdict: The confirmed candidate.
        folder: The run directory.
        listener: Hears of the progress.

    Returns:
        The trained candidate, or None where training found nothing better; and how it went.
    """
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
            if option.bits <= 8 and not option.is_factored and not option.is_narrow
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
        if not option.is_identity and model.layer(name).is_operator
    }

    def size(treated: Mapping[str, Treated]) -> int:
        whole = {**finalist.treated, **treated}
        options = _options(prepared, finalist, whole)
        return file_bytes(prepared, finalist.candidate, whole, finalist.proto, options)

    is_packed = prepared.study.settings.format == "archive"
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
        lambda layers: prepared.proxy(stitched(model.dense, {**finalist.treated, **layers})).value,
        # An ONNX file takes the same bytes whatever the codes are.
        Squeeze(_limit(prepared, finalist), size) if is_packed else None,
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
    """What a squeeze has made of an option: other bits and zeros, one step for each tensor."""
    if option.is_identity:
        return option
    weights = treated.weights
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
    """Hash of all that a training depends on, the code that trains included, the task's training
    inputs aside: those need not be the same each time."""
    settings = prepared.study.settings
    text = json.dumps(
        [
            prepared.model.key,
            finalist.candidate.as_dict(),
            settings.recovery.model_dump(),
            prepared.study.budget["size"].text if "size" in prepared.study.budget else "",
            settings.seed,
            recipe(),
            code_hash(TRAINING),
            finalist.size_bytes,
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()
