"""A new budget on a finished run: answered from its prices and records, a handful of evaluations,
and the measurement of what is delivered.

The solver, the records and the sampler that has been told of them propose; what they find is
recorded like every other candidate.  The test split is not touched: it
belongs to the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autocompress.errors import ConfigError
from autocompress.files import write_json
from autocompress.objective.budget import Metric, parse_budget
from autocompress.search.problem import Problem
from autocompress.study.bench import Bench
from autocompress.study.choose import choose
from autocompress.study.claim import claim
from autocompress.study.config import (
    Study,
    check_limits,
    load_study,
    parse_duration,
    with_evaluations,
    with_overrides,
)
from autocompress.study.confirm import rank
from autocompress.study.correction import corrected, recorrected
from autocompress.study.events import Listener, Log
from autocompress.study.export import form_of, study_folder
from autocompress.study.finalist import Verdict
from autocompress.study.lock import lock
from autocompress.study.patience import Patience
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.result import anchor, budget_rows, costs, estimates, original_rooms
from autocompress.study.searching import joined, search_all
from autocompress.study.ship import write_model, write_plan
from autocompress.study.status import JOURNAL, place_in, read_run, refuse_other
from autocompress.study.storage import Record, StudyStorage
from autocompress.study.subject import look, made_from, menus_of

SCHEMA = 1
EVALUATIONS = 16
FINALISTS = 3  # most that are fitted and measured, one after another until one keeps the limits
FOLDER = "retargeted"


@dataclass(frozen=True)
class Retargeted:
    """What a new budget came to.

    Args:
        result: What is written as `.result.json`; the keys are those of the run's `result.json`,
            but quality is that of the selection split.
        metric: Name of the user's metric.
        files: What was written.
    """

    result: Mapping[str, Any]
    metric: str
    files: tuple[Path, ...]

    @property
    def budget_met(self) -> bool:
        return bool(self.result["budget_met"])


def retarget(
    run: Path,
    budget: Sequence[str],
    goal: str | None,
    output: Path | None,
    listener: Listener,
    storage: str = "",
) -> Retargeted:
    """Finds, measures and writes the best candidate of a run for another budget.

    Args:
        run: The run directory.
        budget: Limits as `NAME=VALUE`; they replace those of the same name, the run's others hold.
        goal: A sentence that replaces the run's goal and all its limits.
        output: Model file, ending in `.acz` or `.onnx`; None writes an archive into the run
            directory.  The plan and the figures are written beside it.
        listener: Hears of the stages.
        storage: Replaces the URL that the run remembers, which lacks the password.

    Raises:
        ConfigError: If budget, goal or file name is not usable.
        StorageError: If the run or a file cannot be read or written, or the run is going on.
        StudyMismatchError: If the study has changed since the run.
    """
    started = time.perf_counter()
    if not budget and not goal:
        raise ConfigError("retarget: give a new --budget or --goal")
    form = form_of(output) if output else "archive"
    begun = read_run(run)
    study = _study(begun, study_folder(run, begun), budget, goal)
    with lock(run / JOURNAL), ExitStack() as stack:
        log = Log(run / "log.jsonl", listener)
        model, space = look(study, log, run)
        fingerprint = made_from(study, model, space)
        refuse_other(run, begun, fingerprint)
        place = place_in(run, storage)
        patience = Patience(parse_duration(study.settings.storage_patience), log.note)
        claimed = stack.enter_context(claim(place, patience, log.note))
        prepared = corrected(prepare(study, model, space, run, log), run, log)
        menus = menus_of(prepared.space)
        trials = stack.enter_context(
            StudyStorage(
                place,
                menus,
                {**fingerprint, "menu": str(menus)},
                patience=patience,
                claimed=claimed,
                note=log.note,
            )
        )
        if study.settings.recovery.method != "none":
            log.note("retarget trains nothing: `autocompress run` with the new budget does")
        log.stage("search", f"{EVALUATIONS} evaluations beside {len(trials.records())} records")
        history, problem = search_all(prepared, trials, log, trials.records())
        log.stage("confirm", "measuring beside the original")
        bench = Bench(prepared, 0.0)
        ranked = _best(prepared, problem, bench, [], trials.records(), log)
        correction = recorrected(prepared, ranked, bench.base, bench.targets)
        if correction is not None:
            prepared = replace(prepared, correction=correction)
            log.stage("search", "once more, under what the clock says")
            more, problem = search_all(prepared, trials, log, trials.records())
            history = joined(prepared, history, more)
            log.stage("confirm", "measuring beside the original")
            ranked = _best(prepared, problem, bench, ranked, trials.records(), log)
        verdict = ranked[0]
        log.stage("ship", "writing and reloading")
        found = _shipped(prepared, bench, verdict, run, output, form, history.evaluated, started)
        log.finish()
        asked = ", ".join(f"{name} {row['text']}" for name, row in found.result["budget"].items())
        met = "met" if found.budget_met else "not met"
        log.note(f"retargeted to {asked}: {found.result['best']['candidate']}, {met}")
    return found


def _study(begun: dict[str, Any], folder: Path, budget: Sequence[str], goal: str | None) -> Study:
    """The study of a run under another budget, with a short search."""
    if goal:
        study = load_study(folder, {**begun["overrides"], "goal": goal}, budget)
    else:
        study = load_study(folder, begun["overrides"], begun["budget"])
        metric = Metric(study.settings.metric, study.higher_is_better)
        study = replace(study, budget={**study.budget, **parse_budget(budget, metric)})
        check_limits(study.budget, study.device)
    study = with_evaluations(study, EVALUATIONS)
    return replace(study, settings=with_overrides(study.settings, {"max_time": ""}))


def _best(
    prepared: Prepared,
    problem: Problem,
    bench: Bench,
    known: Sequence[Verdict],
    records: Sequence[Record],
    listener: Listener,
) -> list[Verdict]:
    """Finalists, best first, of those known and those measured here, one after another until one
    keeps the limits."""
    study = prepared.study
    verdicts = [verdict.because("") for verdict in known]
    measured = {verdict.record.id for verdict in known}
    for record in choose(prepared, problem, records)[:FINALISTS]:
        if record.id in measured:
            continue
        verdicts += bench.measure([record], listener)
        minimise = None if study.delivers_knee else study.objective.minimise
        ranked = rank(verdicts, bench.base, bench.targets, minimise, study.higher_is_better)
        if ranked[0].met and not ranked[0].reason:
            break
    return ranked if len(verdicts) > len(known) else list(known)


def _shipped(
    prepared: Prepared,
    bench: Bench,
    verdict: Verdict,
    run: Path,
    output: Path | None,
    form: str,
    evaluated: int,
    started: float,
) -> Retargeted:
    """Writes model, plan and figures; only the figures when the candidate is worse than the
    original."""
    delivered = not verdict.reason
    candidate = verdict.record.id if delivered else "original"
    path = output or run / FOLDER / f"{candidate}.acz"
    files = [path.with_suffix(".result.json")]
    if delivered:
        write_model(prepared, verdict.finalist, path, form)
        write_plan(prepared, verdict, path.with_suffix(".plan.json"))
        files = [path, path.with_suffix(".plan.json"), *files]
    result = _described(prepared, bench, verdict, delivered)
    result |= {
        "evaluations": evaluated,
        "seconds": round(time.perf_counter() - started, 3),
        "files": {file.name: str(file) for file in files},
    }
    write_json(files[-1], result)
    return Retargeted(result, prepared.study.settings.metric, tuple(files))


def _described(
    prepared: Prepared, bench: Bench, verdict: Verdict, delivered: bool
) -> dict[str, Any]:
    record, base = verdict.record, bench.base
    measured = verdict.measured if delivered else base
    missed = verdict.missed_latency if delivered else {}
    missed |= {
        target.name: target.excess(measured, base)
        for target in bench.targets
        if not (target.soft or target.is_met(measured))
    }
    rooms = verdict.rooms if delivered else original_rooms(prepared, base)
    missed |= {room.name: room.used / room.limit - 1 for room in rooms if not room.fits}
    predicted = {
        "loss": record.loss,
        "size_bytes": record.size_bytes,
        "latency_ms": record.latency_ms * anchor(prepared, base),
    }
    if not delivered:
        predicted = {"loss": 0.0, "size_bytes": base.size_bytes, "latency_ms": base.latency_ms}
    return {
        "schema": SCHEMA,
        "study": prepared.study.name,
        "split": "selection",
        "budget": budget_rows(bench.targets, measured, verdict if delivered else None),
        "original": costs(base),
        "best": {
            "candidate": record.id if delivered else "original",
            **costs(measured),
            "predicted": predicted,
            "measured": costs(measured)
            | (
                {"latency_ratio": [verdict.latency_low, verdict.latency_high]} if delivered else {}
            ),
        },
        "device": {
            "name": prepared.study.device.name,
            "costs": prepared.study.device.costs,
            "coverage": prepared.coverage.as_dict(),
        },
        "estimates": estimates(prepared, verdict if delivered else None, rooms),
        "budget_met": delivered and not missed,
        "binding": max(missed, key=lambda name: missed[name], default=None),
    }
