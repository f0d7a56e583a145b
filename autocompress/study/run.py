"""A whole run: prepare, search, confirm, ship.  The same command goes on where a killed one
stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autocompress.errors import InfeasibleError, StorageError
from autocompress.search.catalogue import make_sampler
from autocompress.search.problem import LOSS, Problem
from autocompress.search.sampler import Sampler
from autocompress.search.solver import solve
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.study.config import Study
from autocompress.study.confirm import confirm, quality_threshold, test
from autocompress.study.events import Listener, Log
from autocompress.study.front import front_of
from autocompress.study.loop import History, search
from autocompress.study.prepare import Prepared, look, made_from, menus_of, prepare
from autocompress.study.ship import Outcome, ship
from autocompress.study.status import JOURNAL, begin, finish
from autocompress.study.storage import Record, StudyStorage, lock
from autocompress.study.targets import Measured, search_limits, targets_of


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
        history, problem = _search(prepared, storage, log)
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
    """The records worth confirming, best first: within the limits by what is minimised, else
    closest.
    """

    def key(record: Record) -> tuple[float, ...]:
        indices = prepared.space.indices(Candidate.from_dict(record.choices))
        missed = problem.violation(indices, record.loss)
        costs = (record.loss, record.latency_ms, record.size_bytes)
        return (missed, record.value(problem.minimise), *costs)

    chosen: dict[float, Record] = {}
    for record in sorted(records, key=lambda record: (*key(record), record.id)):
        # Equal losses mean that the difference never reaches the output: one of them is enough.
        chosen.setdefault(record.loss, record)
        if len(chosen) == prepared.study.objective.finalists:
            break
    return list(chosen.values())


def _search(prepared: Prepared, storage: StudyStorage, log: Log) -> tuple[History, Problem]:
    """One search for quality; two when size or latency is made small: first the front, which shows
    how much loss the metric bears, then the smallest candidate within that."""
    settings, objective = prepared.study.settings, prepared.study.objective
    problem = make_problem(prepared)
    _note_infeasible(problem, log)
    if objective.minimise == "quality":
        return _run(prepared, problem, storage, settings.evaluations, 0, log), problem
    first = max(1, settings.evaluations // 2)
    spread = _spread(prepared, problem)
    history = _run(prepared, spread, storage, first, 0, log)
    limit = _loss_limit(prepared, [step.record for step in history.steps])
    log.note(f"the metric bears a proxy loss of {limit:.5f}")
    name = {"size": "size_bytes", "latency": "latency_ms"}[objective.minimise]
    # A limit that equals the best known point leaves nothing to search; the mildest option is
    # free.
    limits = {**problem.limits, LOSS: max(limit, 1e-9)} if np.isfinite(limit) else problem.limits
    aimed = replace(problem, minimise=name, limits=limits)
    more = _run(prepared, aimed, storage, settings.evaluations - first, 1, log)
    steps = [*history.steps, *more.steps]
    for number, step in enumerate(steps, 1):
        step.evaluation = number
    return History(
        steps, history.evaluated + more.evaluated, history.recalled + more.recalled
    ), aimed


def _run(
    prepared: Prepared,
    problem: Problem,
    storage: StudyStorage,
    evaluations: int,
    part: int,
    log: Log,
) -> History:
    settings = prepared.study.settings
    sampler: Sampler = make_sampler(
        settings.sampler, problem, np.random.default_rng([settings.seed, 3, part])
    )
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


def _spread(prepared: Prepared, problem: Problem) -> Problem:
    """A problem whose limit lies where the front bends, so that seeds lie on both sides of it."""
    name = "latency_ms" if prepared.study.objective.minimise == "latency" else "size_bytes"
    if name in problem.limits and prepared.study.objective.minimise == "latency":
        return problem
    resource = problem.resources[name]
    least = resource.constant + sum(float(values.min()) for values in resource.units)
    most = resource.constant + sum(float(values[0]) for values in resource.units)
    middle = float(np.sqrt(max(least, 1e-12) * max(most, 1e-12)))
    return replace(
        problem, limits={**problem.limits, name: min(middle, problem.limits.get(name, middle))}
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

    return quality_threshold(records, measure, target[0] if target else None, quality)


def _note_infeasible(problem: Problem, log: Log) -> None:
    try:
        solve(problem, problem.losses["swap"])
    except InfeasibleError as error:
        log.note(f"{error}; the search goes for the closest point")


def _clock(max_seconds: float | None, log: Log) -> Callable[[], bool]:
    return lambda: max_seconds is not None and log.elapsed > max_seconds


def _original_size(prepared: Prepared) -> int:
    from autocompress.study.finalist import original_of

    return original_of(prepared).size_bytes
