"""The search loop: ask, look up, evaluate, record, tell.  Start reading here.

A resumed run asks the same questions in the same order, and what the storage already knows is not
evaluated again; so an interrupted run ends where an undisturbed one would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autocompress.objective.quality import Measurement
from autocompress.search.problem import LOSS, Problem, excess
from autocompress.search.problem import Candidate as Indices
from autocompress.search.sampler import Sampler, Trial
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.space import Space
from autocompress.study.events import Listener
from autocompress.study.storage import Record, StudyStorage

BATCH = 4  # candidates asked for at a time


@dataclass
class Step:
    """One line of the search's history; `best_loss` is infinite until a candidate is feasible."""

    evaluation: int
    record: Record
    feasible: bool
    best_loss: float
    seconds: float


@dataclass
class History:
    """What a search did, in order.

    Args:
        steps: Every candidate told to the sampler.
        evaluated: Those that were measured.
        recalled: Those that the storage knew already.
        moves: One record a move: `move`, `asked`, `complete`, `improved`, `earned`, `passes`,
            `share`.
        price: What candidates cost: `candidates`, `passes`, `mean`, `full_pass_ms`, `engine_ms`,
            `pricing_passes`.
        knee: Id of the candidate at the knee of the front; empty when it has none.
        stopped: Why the search ended, in a few words.
    """

    steps: list[Step] = field(default_factory=list)
    evaluated: int = 0
    recalled: int = 0
    moves: Sequence[Mapping[str, Any]] = ()
    price: Mapping[str, float] = field(default_factory=dict)
    knee: str = ""
    stopped: str = ""


def search(
    problem: Problem,
    space: Space,
    sampler: Sampler,
    evaluate: Callable[[Candidate], Measurement],
    storage: StudyStorage,
    evaluations: int,
    listener: Listener,
    out_of_time: Callable[[], bool] = lambda: False,
) -> History:
    """Runs the sampler until the evaluations or the time are used up, or nothing is left to ask.

    Args:
        problem: Costs and limits in numbers.
        space: Says which options the numbers mean.
        sampler: Proposes candidates.
        evaluate: Measures the proxy of one candidate.
        storage: Where every evaluation is recorded before the next begins.
        evaluations: Candidates to tell the sampler, recalled ones included.
        listener: Hears of every candidate.
        out_of_time: Asked before every batch but the first, so that something can be confirmed.
    """
    history = History()
    started = time.perf_counter()
    best = float("inf")
    while len(history.steps) < evaluations and not (history.steps and out_of_time()):
        asked = sampler.ask(min(BATCH, evaluations - len(history.steps)))
        if not asked:
            break
        trials = []
        for indices in asked:
            candidate = space.candidate(indices)
            record = storage.find(candidate.id)
            if record is None:
                record = _evaluate(problem, indices, candidate, sampler, evaluate)
                storage.add(record, constraints(problem, indices, record.loss))
                history.evaluated += 1
            else:
                history.recalled += 1
            trials.append(_trial(problem, indices, record))
            feasible = problem.satisfies(indices, record.loss)
            best = min(best, record.loss) if feasible else best
            spent = time.perf_counter() - started
            history.steps.append(Step(len(history.steps) + 1, record, feasible, best, spent))
            listener.progress(len(history.steps), evaluations, _summary(best))
        sampler.tell(trials)
    return history


def constraints(problem: Problem, indices: Indices, loss: float) -> dict[str, float]:
    """Limit name to how far it is exceeded, relative to the limit; at most zero is feasible."""
    return {
        name: excess(loss if name == LOSS else problem.cost(name, indices), limit)
        for name, limit in problem.limits.items()
    }


def _evaluate(
    problem: Problem,
    indices: Indices,
    candidate: Candidate,
    sampler: Sampler,
    evaluate: Callable[[Candidate], Measurement],
) -> Record:
    started = time.perf_counter()
    measured = evaluate(candidate)
    return Record(
        id=candidate.id,
        choices=candidate.as_dict(),
        loss=measured.value,
        spread=measured.spread,
        size_bytes=problem.cost("size_bytes", indices),
        latency_ms=problem.cost("latency_ms", indices),
        origin=sampler.origin.get(indices, ""),
        seconds=time.perf_counter() - started,
        attributes=sampler.attributes(indices),
    )


def _trial(problem: Problem, indices: Indices, record: Record) -> Trial:
    costs = {name: problem.cost(name, indices) for name in problem.resources}
    return Trial(indices, record.loss, costs, record.attributes)


def _summary(best: float) -> str:
    return "" if best == float("inf") else f"best loss {best:.5f}"
