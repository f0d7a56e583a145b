"""A whole run: prepare, search, confirm, ship.  The same command goes on where a killed one
stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autocompress.errors import StorageError, UndecidedError
from autocompress.search.catalogue import make_sampler
from autocompress.search.infeasible import prove
from autocompress.search.problem import LOSS, Problem
from autocompress.search.sampler import Sampler
from autocompress.search.sweep import SweepSampler
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.study.config import Study
from autocompress.study.confirm import confirm, quality_threshold, test
from autocompress.study.events import Listener, Log
from autocompress.study.front import front_of
from autocompress.study.loop import History, search
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.ship import Outcome, ship
from autocompress.study.status import JOURNAL, begin, finish
from autocompress.study.storage import Record, StudyStorage, lock
from autocompress.study.subject import look, made_from, menus_of
from autocompress.study.targets import Measured, search_limits, targets_of

SWEPT = 24  # budgets tried to learn how much loss the metric bears


def run_study(study: Study, folder: Path, listener: Listener) -> Outcome:
    """Compresses the study's model into a run directory.

    Args:
        study: What is asked.
        folder: The run directory; one that was begun with the same study is continued.
        listener: Hears of the progress.

    Raises:
        AutocompressError: Any of the family.  What was evaluated before is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror or error}") from error
    with lock(folder / JOURNAL):
        log = Log(folder / "log.jsonl", listener)
        model, space = look(study, log)
        # The user's metric fails at once, not after the search.
        study.task.evaluate(model.dense, "selection")
        fingerprint = made_from(study, model, space)
        begin(folder, study, fingerprint)
        prepared = prepare(study, model, space, folder, log)
        for sentence in prepared.space.removed:
            log.note(f"not offered: {sentence}")
        storage = StudyStorage(
            folder / JOURNAL,
            menus_of(prepared.space),
            {**fingerprint, "menu": str(menus_of(prepared.space))},
        )
        log.stage("search", f"{study.settings.evaluations} candidates")
        history, problem = search_all(prepared, storage, log)
        records = storage.records()
        log.stage("confirm", "measuring the best few")
        chosen = choose(prepared, problem, records)
        confirmation = confirm(prepared, chosen, front_of(records), log)
        tested = None
        if confirmation.winner is not None:
            log.stage("test", "the test split, once")
            tested = test(prepared, confirmation.winner.finalist)
            if not study.task.has_splits:
                log.note(
                    "evaluate() takes no split: the test quality is that of the selection data"
                )
        log.stage("ship", "writing and reloading the artefacts")
        log.finish()
        outcome = ship(prepared, problem, history, records, confirmation, tested, folder, log)
        finish(folder)
        return outcome


def make_problem(prepared: Prepared) -> Problem:
    """The search in numbers, under the budget less the reserves.

    Notes the limit that cannot be met under the prices instead of failing: the search then goes
    for the closest point.
    """
    prices, study = prepared.prices, prepared.study
    original = prepared.latency.predict({unit: Option() for unit in prepared.space.units})
    limits = search_limits(
        study.budget, _original_size(prepared), original, prepared.fit.mape_percent
    )
    return Problem(
        units=tuple(prepared.space.units),
        losses=prices.losses,
        resources={"size_bytes": prices.size, "latency_ms": prices.latency},
        labels=prices.labels,
        limits=limits,
    )


def choose(prepared: Prepared, problem: Problem, records: Sequence[Record]) -> list[Record]:
    """The records worth confirming.

    Those that keep the limits come first, by what is minimised, the others by how far they miss.
    Where size or latency is made small, the limit on the loss is an estimate, so the finalists
    also come from stricter ones: the best record under the limit, under half of it, and so on.
    """

    def missed(record: Record) -> float:
        indices = prepared.space.indices(Candidate.from_dict(record.choices))
        return problem.violation(indices)

    def key(record: Record) -> tuple[float, ...]:
        costs = (record.loss, record.latency_ms, record.size_bytes)
        return (excesses[record.id], record.value(problem.minimise), *costs)

    excesses = {record.id: missed(record) for record in records}
    ordered = sorted(records, key=lambda record: (*key(record), record.id))
    count = prepared.study.objective.finalists
    chosen: dict[float, Record] = {}
    if problem.minimise != LOSS:
        most = problem.limits.get(LOSS, max(record.loss for record in records))
        for step in range(count):
            best = next((r for r in ordered if r.loss <= most * (1 + 1e-9) / 2**step), None)
            if best is not None:
                chosen.setdefault(best.loss, best)
        return list(chosen.values()) or sorted(records, key=lambda record: record.loss)[:count]
    for record in ordered:
        # Equal losses mean that the difference never reaches the output: one of them is enough.
        chosen.setdefault(record.loss, record)
        if len(chosen) == count:
            break
    return list(chosen.values())


def search_all(prepared: Prepared, storage: StudyStorage, log: Log) -> tuple[History, Problem]:
    """One search for quality; two when size or latency is made small: first the front, which shows
    how much loss the metric bears, then the smallest candidate within that."""
    settings, objective = prepared.study.settings, prepared.study.objective
    problem = make_problem(prepared)
    _note_infeasible(problem, log)
    if objective.minimise == "quality":
        sampler = _sampler(prepared, problem)
        return _run(prepared, problem, sampler, storage, settings.evaluations, log), problem
    name = {"size": "size_bytes", "latency": "latency_ms"}[objective.minimise]
    count = max(1, min(SWEPT, settings.evaluations // 2))
    sweep = SweepSampler(problem, name, problem.losses["swap"], count)
    history = _run(prepared, problem, sweep, storage, count, log)
    limit = _loss_limit(prepared, [step.record for step in history.steps])
    log.note(f"the metric bears a proxy loss of {limit:.5f}")
    # A limit that equals the best known point leaves nothing to search; the mildest option is
    # free.
    limits = {**problem.limits, LOSS: max(limit, 1e-9)} if np.isfinite(limit) else problem.limits
    aimed = replace(problem, minimise=name, limits=limits)
    left = settings.evaluations - len(history.steps)
    more = _run(prepared, aimed, _sampler(prepared, aimed), storage, left, log)
    steps = [*history.steps, *more.steps]
    for number, step in enumerate(steps, 1):
        step.evaluation = number
    return History(
        steps, history.evaluated + more.evaluated, history.recalled + more.recalled
    ), aimed


def _sampler(prepared: Prepared, problem: Problem) -> Sampler:
    settings = prepared.study.settings
    return make_sampler(settings.sampler, problem, np.random.default_rng([settings.seed, 3]))


def _run(
    prepared: Prepared,
    problem: Problem,
    sampler: Sampler,
    storage: StudyStorage,
    evaluations: int,
    log: Log,
) -> History:
    return search(
        problem,
        prepared.space,
        sampler,
        prepared.evaluate,
        storage,
        max(1, evaluations),
        log,
        _clock(prepared.study.max_seconds, log),
    )


def _loss_limit(prepared: Prepared, records: Sequence[Record]) -> float:
    study = prepared.study
    quality = study.task.evaluate(prepared.model.dense, "selection")
    original = Measured(quality, _original_size(prepared), 1.0)
    budget = {name: limit for name, limit in study.budget.items() if name == "quality"}
    target = targets_of(budget, original, study.higher_is_better, study.settings.metric_unit)

    def measure(record: Record) -> float:
        choices = dict(Candidate.from_dict(record.choices).choices)
        return study.task.evaluate(prepared.stitcher.stitch(choices), "selection")

    return quality_threshold(records, measure, target[0] if target else None)


def _note_infeasible(problem: Problem, log: Log) -> None:
    try:
        found = prove(problem, problem.losses["swap"])
    except UndecidedError:
        return
    if found is not None:
        log.note(f"{found}; the search goes for the closest point")


def _clock(max_seconds: float | None, log: Log) -> Callable[[], bool]:
    return lambda: max_seconds is not None and log.elapsed > max_seconds


def _original_size(prepared: Prepared) -> int:
    from autocompress.study.finalist import original_of

    return original_of(prepared).size_bytes
