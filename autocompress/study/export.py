"""Writes any evaluated candidate of a run, from its bank and plan, without searching again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.errors import ConfigError, InfeasibleError, StorageError
from autocompress.files import read_json
from autocompress.objective.budget import parse_budget
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.study.config import load_study
from autocompress.study.events import Listener
from autocompress.study.finalist import Finalist, build_finalist, make_finalist
from autocompress.study.front import pick
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.ship import write_model
from autocompress.study.status import place_in, read_run, refuse_other
from autocompress.study.storage import Record, load_records
from autocompress.study.subject import look, made_from
from autocompress.study.training import recovered_archive

ENDINGS = {".onnx": "onnx", ".acz": "archive"}


def export_point(
    run: Path,
    output: Path,
    candidate: str | None,
    budget: Sequence[str],
    form: str | None,
    listener: Listener,
    storage: str = "",
) -> tuple[str, int]:
    """Writes one candidate.

    Args:
        run: The run directory.
        output: File to write.
        candidate: Id of an evaluated candidate; without one and without a budget, the best.
        budget: Limits on size and latency as `NAME=VALUE`; the candidate within them that loses
            least is taken.
        form: `onnx` or `archive`; None decides by the file's ending.
        listener: Hears of the stages.
        storage: Replaces the URL that the run remembers, which lacks the password.

    Returns:
        The candidate's id and the bytes written.

    Raises:
        ConfigError: If the candidate, format or budget is not usable.
        InfeasibleError: If no evaluated candidate keeps the budget; the closest is named.
        StorageError: If the run or the file cannot be read or written.
    """
    form = form_of(output, form)
    if candidate and budget:
        raise ConfigError("give either --candidate or --budget, not both")
    begun = read_run(run)
    folder = study_folder(run, begun)
    records = load_records(place_in(run, storage))
    study = load_study(folder, begun["overrides"], begun["budget"])
    model, space = look(study, listener, run)
    refuse_other(run, begun, made_from(study, model, space))
    prepared = prepare(study, model, space, run, listener)
    record = _choose(prepared, records, run, candidate, budget)
    listener.stage("fit", f"candidate {record.id} on all calibration inputs")
    finalist = _finalist(prepared, run, record)
    counted = study.settings.format
    if budget and form != counted:
        listener.note(f"the budget counts bytes as {counted}; this {form} file has its own size")
    return record.id, write_model(prepared, finalist, output, form)


def form_of(output: Path, form: str | None = None) -> str:
    """`onnx` or `archive`: as asked, else by the file's ending.

    Raises:
        ConfigError: If it is neither.
    """
    form = form or ENDINGS.get(output.suffix)
    if form is None or form not in ENDINGS.values():
        raise ConfigError(
            f"format {form or output.suffix!r}: allowed are onnx and archive"
            " (or a file name that ends in .onnx or .acz)"
        )
    return form


def study_folder(run: Path, begun: Mapping[str, Any]) -> Path:
    """The study folder of a run.

    Raises:
        StorageError: If it was begun from Python, or the folder is gone.
    """
    if not begun["study"]:
        raise StorageError(
            f"{run}: begun from Python; export there: compress(...).candidate(id).export(path)"
        )
    if not Path(begun["study"]).is_dir():
        raise StorageError(f"{run}: its study folder {begun['study']} is gone")
    return Path(begun["study"])


def _finalist(prepared: Prepared, run: Path, record: Record) -> Finalist:
    """A candidate as it ships: the run's best as it was trained, if it was."""
    plan = read_json(run / "plan.json") if (run / "plan.json").is_file() else {}
    if plan.get("candidate") != record.id or not plan.get("recovered"):
        return make_finalist(prepared, Candidate.from_dict(record.choices))
    archive, candidate = recovered_archive(run, plan["recovered"]), plan["choices"]
    return build_finalist(
        prepared,
        Candidate.from_dict(candidate),
        archive.treated,
        record.loss,
        archive.options,
        plan["recovered"],
    )


def _choose(
    prepared: Prepared,
    records: Sequence[Record],
    run: Path,
    candidate: str | None,
    budget: Sequence[str],
) -> Record:
    by_id = {record.id: record for record in records}
    if budget:
        return _within(prepared, records, budget)
    if candidate is None:
        if not (run / "plan.json").is_file():
            raise ConfigError(f"{run}: has no best candidate yet; name one with --candidate")
        candidate = str(read_json(run / "plan.json")["candidate"])
    if candidate not in by_id:
        raise ConfigError(
            f"candidate {candidate!r}: not among the {len(by_id)} evaluated;"
            f" `autocompress show {run}` lists the front"
        )
    return by_id[candidate]


def _within(prepared: Prepared, records: Sequence[Record], budget: Sequence[str]) -> Record:
    limits = parse_budget(budget)
    if set(limits) - {"size", "latency"}:
        raise ConfigError("export --budget takes size and latency; other limits need `retarget`")
    dense = {unit: Option() for unit in prepared.space.units}
    original = {
        "size": float(prepared.model.size_bytes),
        "latency": prepared.latency.predict(dense),
    }
    names = {"size": "size_bytes", "latency": "latency_ms"}
    bounds = {names[name]: limit.bound(original[name]) for name, limit in limits.items()}
    found = pick(records, bounds)
    if found is None:
        raise InfeasibleError(_closest(records, bounds), next(iter(limits)))
    return found


def _closest(records: Sequence[Record], bounds: Mapping[str, float]) -> str:
    missed = {
        record.id: sum(max(0.0, record.value(name) / most - 1) for name, most in bounds.items())
        for record in records
    }
    best = min(missed, key=lambda id: missed[id], default="none")
    return (
        f"no evaluated candidate keeps the budget; the closest is {best};"
        " run with this budget to find more"
    )
