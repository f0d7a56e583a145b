"""The search loop: ask, look up, race, record, tell.  Start reading here.

A resumed run asks the same questions in the same order, and what the storage already knows is not
evaluated again; so an interrupted run ends where an undisturbed one would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.objective.quality import Measurement
from autocompress.search.attainment import Attainment
from autocompress.search.problem import LOSS, Problem, excess
from autocompress.search.problem import Candidate as Indices
from autocompress.search.sampler import SLOPE_PASSES, Sampler, Trial
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.space import Space
from autocompress.study.evaluator import Evaluator
from autocompress.study.events import Listener
from autocompress.study.executors.executor import Lost
from autocompress.study.knobs import BATCH
from autocompress.study.storage import Record, StudyStorage

PATIENCE = 0.3  # of the evaluations, at least LEAST_PATIENCE, when no patience is given
LEAST_PATIENCE = 20
MET = "the budget is met"


@dataclass(frozen=True)
class Stops:
    """When a search ends.

    Args:
        evaluations: Measurements on all search inputs, or as many parts as make one.
        patience: As many without a growth of the front beyond the noise; 0 is automatic.
        out_of_time: Asked before every batch but the first, so that something can be confirmed.
        met: Whether a complete record that keeps the problem's limits is all that was wanted.
        batch: Candidates that are asked for at a time.
    """

    evaluations: float
    patience: float = 0
    out_of_time: Callable[[], bool] = lambda: False
    met: Callable[[Record], bool] = lambda record: False
    batch: int = BATCH


@dataclass
class Step:
    """One line of the search's history.

    Args:
        evaluation: Number of the candidate, from 1.
        record: What was measured.
        feasible: Whether it keeps the limits.
        best_loss: Least complete loss within the limits so far; infinite before the first.
        seconds: Since the search began.
        passes: Evaluations spent so far, in measurements on all search inputs.
        improved: Whether it moved the front by more than the noise.
    """

    evaluation: int
    record: Record
    feasible: bool
    best_loss: float
    seconds: float
    passes: float = 0.0
    improved: bool = False


@dataclass
class History:
    """What a search did, in order.

    Args:
        steps: Every candidate.
        evaluated: How many were measured in this process.
        recalled: How many were known from an earlier one.
        reason: Why it ended.
        waiting_seconds: Time in which candidates were measured.
        seconds: Time of the whole search.
        passes: Evaluations spent, in measurements on all search inputs.
        moves: What each of the sampler's moves has earned.
        price: What a candidate cost; keys as in `details.json`.
        knee: Id of the front's knee.
    """

    steps: list[Step] = field(default_factory=list)
    evaluated: int = 0
    recalled: int = 0
    reason: str = ""
    waiting_seconds: float = 0.0
    seconds: float = 0.0
    passes: float = 0.0
    moves: list[dict[str, Any]] = field(default_factory=list)
    price: dict[str, float] = field(default_factory=dict)
    knee: str = ""


def search(
    problem: Problem,
    space: Space,
    sampler: Sampler,
    evaluator: Evaluator,
    storage: StudyStorage,
    stops: Stops,
    seed: int,
    listener: Listener,
) -> History:
    """Runs the sampler until one of the stops applies or nothing is left to ask.

    Args:
        problem: Costs and limits in numbers.
        space: Says which options the numbers mean.
        sampler: Proposes candidates.
        evaluator: Measures them.
        storage: Where every evaluation is recorded as soon as it is made, and on disk before
            anything is learnt from it.
        stops: When to end.
        seed: Of the order in which parts of the inputs are measured.
        listener: Hears of every candidate.
    """
    history, started = History(), time.perf_counter()
    front = Attainment(problem, problem.front or tuple(problem.resources))
    samples: dict[Indices, NDArray[np.float64]] = {}
    patience = stops.patience or max(LEAST_PATIENCE, PATIENCE * stops.evaluations)
    best, progress = float("inf"), 0.0
    while not history.reason:
        _look_around(history, space, sampler, evaluator, storage)
        asked = sampler.ask(_batch(history, stops))
        if not asked:
            history.reason = "nothing is left to ask"
            break
        rivals = [_rival(sampler, samples, candidate) for candidate in asked]
        order = np.random.default_rng([seed, len(history.steps)]).permutation(
            len(evaluator.proxy.parts)
        )
        trials = []
        known = [storage.find(space.candidate(indices).id) for indices in asked]
        new = [index for index, record in enumerate(known) if record is None]
        history.evaluated += len(new)
        history.recalled += len(asked) - len(new)
        measured = evaluator.race(
            [asked[index] for index in new], [rivals[index] for index in new], order.tolist()
        )
        for indices, rival, found in zip(asked, rivals, known, strict=True):
            record = found
            if record is None:
                candidate = space.candidate(indices)
                begun = time.perf_counter()
                measurement = next(measured)
                history.waiting_seconds += time.perf_counter() - begun
                record = _record(problem, indices, candidate, sampler, measurement)
                storage.add(record, constraints(problem, indices, record.loss))
            trial = trial_of(problem, indices, record)
            trials.append(trial)
            history.passes += record.passes
            if record.error:
                listener.note(f"candidate {record.id} {record.error}: it was given up")
                continue
            improved = False
            if record.complete:
                samples[indices] = record.samples
                gain = front.add(trial)
                improved = gain > 0 and _is_sure(record.samples, rival)
                progress = history.passes if improved else progress
            feasible = record.complete and problem.satisfies(indices, record.loss)
            best = min(best, record.loss) if feasible else best
            spent = time.perf_counter() - started
            history.steps.append(
                Step(
                    len(history.steps) + 1,
                    record,
                    feasible,
                    best,
                    spent,
                    history.passes,
                    improved,
                )
            )
            whole = int(stops.evaluations)
            listener.progress(min(int(history.passes), whole), whole, _summary(best))
        storage.flush()
        sampler.tell(trials)
        history.reason = _ended(history, stops, len(asked), patience, progress)
    history.seconds = time.perf_counter() - started
    return history


def _look_around(
    history: History,
    space: Space,
    sampler: Sampler,
    evaluator: Evaluator,
    storage: StudyStorage,
) -> None:
    """Measures the slopes of the loss where the sampler wants to know them."""
    place = sampler.place()
    if place is None:
        return
    id = space.candidate(place).id
    found = storage.slopes(id)
    if found is None:
        begun = time.perf_counter()
        found = storage.keep_slopes(id, evaluator.slopes(place))
        history.waiting_seconds += time.perf_counter() - begun
    sampler.learn(place, found)
    history.passes += SLOPE_PASSES


def constraints(problem: Problem, indices: Indices, loss: float) -> dict[str, float]:
    """Limit name to how far it is exceeded, relative to the limit; at most zero is feasible."""
    return {
        name: excess(loss if name == LOSS else problem.cost(name, indices), limit)
        for name, limit in problem.limits.items()
    }


def _batch(history: History, stops: Stops) -> int:
    """How many candidates the evaluations that are left may pay for."""
    left = stops.evaluations - history.passes
    return max(1, min(stops.batch, int(np.ceil(left))))


def _rival(
    sampler: Sampler, samples: dict[Indices, NDArray[np.float64]], candidate: Indices
) -> NDArray[np.float64] | None:
    rival = sampler.rival(candidate)
    return samples.get(rival) if rival is not None else None


def _is_sure(mine: NDArray[np.float64], rival: NDArray[np.float64] | None) -> bool:
    """Whether the paired difference to what had to be beaten is larger than its noise."""
    if rival is None or len(mine) < 2:
        return True
    better = rival - mine
    return bool(better.mean() > better.std(ddof=1) / len(better) ** 0.5)


def _ended(history: History, stops: Stops, asked: int, patience: float, progress: float) -> str:
    """Why the search ends after a batch; empty to go on."""
    latest = history.steps[-asked:]
    if any(step.feasible and stops.met(step.record) for step in latest):
        return MET
    if history.passes >= stops.evaluations - 1e-9:
        return "the evaluations are used up"
    if history.passes - progress >= patience:
        return f"the front has not grown for {patience:.0f} evaluations"
    if stops.out_of_time():
        return "the time is used up"
    return ""


def _record(
    problem: Problem,
    indices: Indices,
    candidate: Candidate,
    sampler: Sampler,
    measured: Measurement | Lost,
) -> Record:
    record = Record(
        id=candidate.id,
        choices=candidate.as_dict(),
        loss=float("inf"),
        spread=0.0,
        size_bytes=problem.cost("size_bytes", indices),
        latency_ms=problem.cost("latency_ms", indices),
        origin=sampler.origin.get(indices, ""),
        seconds=0.0,
        attributes=sampler.attributes(indices),
    )
    if isinstance(measured, Lost):
        # It counts as a measurement, so that a search among such candidates ends.
        return replace(record, error=measured.reason)
    return replace(
        record,
        loss=measured.value,
        spread=measured.spread,
        seconds=measured.seconds,
        examples=measured.examples,
        passes=measured.examples / len(measured.samples),
        work=measured.passes,
        doubt=measured.doubt,
        # As stored, so that a resumed run compares the same numbers.
        samples=measured.samples.astype(np.float32).astype(np.float64),
    )


def trial_of(problem: Problem, indices: Indices, record: Record) -> Trial:
    """What a sampler is told of a record."""
    costs: dict[str, float] = {name: problem.cost(name, indices) for name in problem.resources}
    return Trial(indices, record.loss, costs, record.attributes, record.doubt, record.passes)


def _summary(best: float) -> str:
    return "" if best == float("inf") else f"best loss {best:.5f}"
