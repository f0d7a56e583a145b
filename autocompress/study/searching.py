"""The search of a prepared run: what is asked in numbers, when to stop, what it came to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np

from autocompress.errors import UndecidedError
from autocompress.search.budget_sampler import BudgetSampler
from autocompress.search.catalogue import make_sampler
from autocompress.search.given_sampler import GivenSampler
from autocompress.search.infeasible import aim, prove
from autocompress.search.problem import LOSS, Problem
from autocompress.search.resource import Tie
from autocompress.search.sampler import Sampler
from autocompress.search.sweep import SweepSampler
from autocompress.search.tied_sampler import TiedSampler
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.search_space.widths import SharedWidth
from autocompress.study.confirm import quality_threshold
from autocompress.study.events import Log
from autocompress.study.finalist import original_of
from autocompress.study.front import by_knee
from autocompress.study.loop import MET, History, Stops, search, trial_of
from autocompress.study.prepare import Prepared
from autocompress.study.storage import Record, StudyStorage
from autocompress.study.targets import (
    COSTS,
    SIZE_RESERVE,
    Measured,
    Target,
    search_limits,
    targets_of,
)
from autocompress.study.warm import ORIGIN, Warm

SWEPT = 24  # budgets tried to learn how much loss the metric bears
RESOURCES = {"size": "size_bytes", "latency": "latency_ms"}


def make_problem(prepared: Prepared) -> Problem:
    """The search in numbers, under the hard limits of the budget less the reserves."""
    prices = prepared.prices
    resources = {"size_bytes": prices.size, "latency_ms": prices.latency}
    if "energy" in prepared.study.budget:
        resources["energy_mj"] = prepared.footprints.energy(prepared.space.units)
    return Problem(
        units=tuple(prepared.space.units),
        losses=prices.losses,
        resources=resources,
        labels=prices.labels,
        limits=_limits(prepared, soft=False),
        front=tuple(RESOURCES[name] for name in prepared.study.objective.front),
        products={"swap": prices.products},
        alike=prices.alike,
        ties=tuple(_tie(prepared, width) for width in prepared.space.widths),
    )


def _tie(prepared: Prepared, width: SharedWidth) -> Tie:
    """A shared width in numbers; level 0 is the full one."""
    numbers = {unit: index for index, unit in enumerate(prepared.space.units)}
    levels = {
        numbers[unit]: np.array([width.level(unit, o) for o in prepared.space.units[unit]])
        for unit in width.units
    }
    return Tie(width.name, levels)


def _limits(prepared: Prepared, soft: bool) -> dict[str, float]:
    original = prepared.latency.predict({unit: Option() for unit in prepared.space.units})
    budget = {name: limit for name, limit in prepared.study.budget.items() if limit.soft == soft}
    correction = prepared.correction
    error = prepared.fit.mape_percent / 100 if prepared.fit else 0.0
    if correction.error is not None:
        error = correction.error
    energy = 0.0
    if "energy" in budget:
        energy = prepared.footprints.of({}).energy_mj or 0.0
    limits = search_limits(budget, original_of(prepared).size_bytes, original, error, energy)
    if "latency_ms" in limits:
        limits["latency_ms"] /= correction.ratio
    sheet = prepared.study.device.sheet
    if sheet is not None and sheet.flash_kib and not soft:
        flash = 1024 * sheet.flash_kib * (1 - SIZE_RESERVE)
        limits["size_bytes"] = min(limits.get("size_bytes", flash), flash)
    return limits


def _aimed(prepared: Prepared, problem: Problem, log: Log) -> Problem:
    """The problem with the soft limits as well, as far as the prices say that they can be kept."""
    soft = _limits(prepared, soft=True)
    if not soft:
        return problem
    limits = aim(problem, problem.losses["swap"], soft)
    for name, limit in soft.items():
        if limits.get(name, np.inf) > limit:
            reach = f"{limits[name]:.6g} is aimed at" if name in limits else "it is left out"
            log.note(f"the soft limit {name} <= {limit:.6g} is out of reach: {reach}")
    return replace(problem, limits=limits)


def _held(prepared: Prepared, problem: Problem) -> Problem:
    """The problem without the soft limits: what misses one is feasible all the same."""
    soft = {
        LOSS if name == "quality" else COSTS[name]
        for name, limit in prepared.study.budget.items()
        if limit.soft
    }
    limits = {name: limit for name, limit in problem.limits.items() if name not in soft}
    return replace(problem, limits=limits)


def search_all(
    prepared: Prepared,
    storage: StudyStorage,
    log: Log,
    known: Sequence[Record] = (),
    warm: Warm | None = None,
) -> tuple[History, Problem]:
    """One search for quality or the front; two when size or latency is made small: first the
    front, which shows how much loss the metric bears, then the smallest candidate within that.

    Args:
        prepared: The run.
        storage: Where candidates are recorded.
        log: Hears of them.
        known: What other searches of the run have measured: the sampler learns from it, and it
            takes the place of the first of two searches.
        warm: What an earlier run found: measured first, beside the evaluations of the study.
    """
    settings, objective = prepared.study.settings, prepared.study.objective
    problem = make_problem(prepared)
    _note_infeasible(problem, log)
    problem = _aimed(prepared, problem, log)
    opened = _opened(prepared, problem, storage, log, warm)
    told = [*known, *(step.record for step in opened.steps)]
    if objective.minimise == "quality":
        sampler = _sampler(prepared, problem, told)
        histories = [opened]
        if opened.reason != MET:
            histories.append(_run(prepared, problem, sampler, storage, settings.evaluations, log))
        return _summed(prepared, histories, sampler), problem
    name = RESOURCES[objective.minimise]
    complete = [record for record in known if record.complete]
    first = History()
    if not complete:
        count = max(1, min(SWEPT, settings.evaluations // 2))
        sweep = SweepSampler(problem, name, problem.losses["swap"], count)
        first = _run(prepared, problem, sweep, storage, count, log)
        complete = [step.record for step in (*opened.steps, *first.steps) if step.record.complete]
    limit = _loss_limit(prepared, complete)
    log.note(f"the metric bears a proxy loss of {limit:.5f}")
    # A limit that equals the best known point leaves nothing to search; the mildest option is
    # free.
    limits = {**problem.limits, LOSS: max(limit, 1e-9)} if np.isfinite(limit) else problem.limits
    aimed = replace(problem, minimise=name, limits=limits)
    sampler = _sampler(prepared, aimed, told)
    left = settings.evaluations - first.passes
    histories = [opened, first]
    if left >= 1:
        histories.append(_run(prepared, aimed, sampler, storage, left, log))
    return _summed(prepared, histories, sampler), aimed


def _opened(
    prepared: Prepared, problem: Problem, storage: StudyStorage, log: Log, warm: Warm | None
) -> History:
    """The candidates of an earlier run, measured as they are now."""
    places = warm.within(prepared.space, log) if warm else []
    tied = replace(problem, limits={})
    places = [place for place in places if tied.satisfies(place)]
    if not warm or not places:
        return History()
    log.note(f"warm start: {len(places)} candidates of {warm.run} are measured first")
    sampler = GivenSampler(places, ORIGIN)
    return _run(prepared, problem, sampler, storage, len(places), log, is_warm=True)


def _sampler(prepared: Prepared, problem: Problem, known: Sequence[Record]) -> Sampler:
    settings = prepared.study.settings
    rng = np.random.default_rng([settings.seed, 3])
    sampler = make_sampler(settings.sampler, problem, rng, settings.knobs.explore)
    if known:
        places = [prepared.space.indices(Candidate.from_dict(r.choices)) for r in known]
        sampler.tell([trial_of(problem, *pair) for pair in zip(places, known, strict=True)])
    return sampler


def _run(
    prepared: Prepared,
    problem: Problem,
    sampler: Sampler,
    storage: StudyStorage,
    evaluations: float,
    log: Log,
    is_warm: bool = False,
) -> History:
    settings = prepared.study.settings
    stops = Stops(
        evaluations=max(1.0, evaluations),
        # What is known beforehand is measured whether the front grows by it or not.
        patience=evaluations + 1 if is_warm else settings.patience,
        out_of_time=_clock(prepared.study.max_seconds, log),
        met=_met(prepared, problem) if settings.stop_when_met else lambda record: False,
        batch=settings.batch,
    )
    held, seed = _held(prepared, problem), settings.seed
    history = search(held, prepared.space, sampler, prepared.evaluator, storage, stops, seed, log)
    if not is_warm:
        log.note(f"search: {history.reason}")
    return history


def joined(prepared: Prepared, first: History, second: History) -> History:
    """Two searches of a run as one; the moves are those of the first."""
    total = _summed(prepared, [first, second], None)
    total.moves = first.moves
    return total


def _summed(prepared: Prepared, parts: Sequence[History], sampler: Sampler | None) -> History:
    """The parts of a search as one, with what it cost and what its moves earned."""
    total = History()
    for part in parts:
        done, spent = total.passes, total.seconds
        for step in part.steps:
            step.evaluation = len(total.steps) + 1
            step.passes += done
            step.seconds += spent
            total.steps.append(step)
        total.passes = done + part.passes
        total.evaluated += part.evaluated
        total.recalled += part.recalled
        total.waiting_seconds += part.waiting_seconds
        total.seconds += part.seconds
        total.reason = part.reason
    if isinstance(sampler, BudgetSampler | TiedSampler):
        shares = dict(zip(sampler.moves.names, sampler.moves.shares().tolist(), strict=True))
        total.moves = [
            {"move": move.name, **asdict(move), "share": shares.get(move.name)}
            for move in sampler.moves.moves.values()
        ]
    total.price = _price(prepared, total)
    front = [RESOURCES[name] for name in prepared.study.objective.front]
    ordered = by_knee([step.record for step in total.steps], front or tuple(RESOURCES.values()))
    total.knee = ordered[0].id if ordered else ""
    return total


def _price(prepared: Prepared, history: History) -> dict[str, float]:
    """What a candidate cost: measured in passes of the model, and beside them."""
    records = [step.record for step in history.steps]
    spent, count = prepared.evaluator.spent, max(history.evaluated, 1)
    probed = history.passes - sum(record.passes for record in records)
    work = probed + sum(record.work for record in records)
    # All that the process does but run the model; part of it while another thread does.
    beside = history.seconds - history.waiting_seconds + spent.busy - spent.forward
    return {
        "candidates": len(records),
        "passes": work,
        "mean": work / max(len(records), 1),
        "full_pass_ms": 1000 * spent.forward / max(spent.passes, 1e-9),
        "engine_ms": 1000 * beside / count,
        "pricing_passes": prepared.prices.swap_passes,
    }


def _met(prepared: Prepared, problem: Problem) -> Callable[[Record], bool]:
    """Whether a record that keeps the hard limits under the prices also keeps the soft ones, as
    far as that is possible, and the one on quality."""
    target = _quality_target(prepared)

    def met(record: Record) -> bool:
        indices = prepared.space.indices(Candidate.from_dict(record.choices))
        if not problem.satisfies(indices, record.loss):
            return False
        if target is None:
            return True
        return target.is_met(Measured(_quality(prepared, record), 0.0, 0.0))

    return met


def _quality_target(prepared: Prepared) -> Target | None:
    study = prepared.study
    quality = study.task.evaluate(prepared.model.dense, "selection")
    original = Measured(quality, original_of(prepared).size_bytes, 1.0)
    budget = {name: limit for name, limit in study.budget.items() if name == "quality"}
    targets = targets_of(budget, original, study.higher_is_better, study.settings.metric_unit)
    return targets[0] if targets else None


def _quality(prepared: Prepared, record: Record) -> float:
    """The user's metric of a stitched candidate on the selection split."""
    choices = dict(Candidate.from_dict(record.choices).choices)
    return prepared.study.task.evaluate(prepared.stitcher.stitch(choices), "selection")


def _loss_limit(prepared: Prepared, records: Sequence[Record]) -> float:
    return quality_threshold(
        records, lambda record: _quality(prepared, record), _quality_target(prepared)
    )


def _note_infeasible(problem: Problem, log: Log) -> None:
    try:
        found = prove(problem, problem.losses["swap"])
    except UndecidedError:
        return
    if found is not None:
        log.note(f"{found}; the search goes for the closest point")


def _clock(max_seconds: float | None, log: Log) -> Callable[[], bool]:
    return lambda: max_seconds is not None and log.elapsed > max_seconds
