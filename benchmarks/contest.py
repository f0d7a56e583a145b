"""One sampler under one size limit, and what it had found after how many evaluations."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.objective.adjoint import adjoint_prices
from autocompress.search.catalogue import DEFAULT, make_sampler
from autocompress.search.problem import Candidate, Problem
from autocompress.search.sampler import Trial
from autocompress.search.solver import solve
from autocompress.study.loop import BATCH
from autocompress.study.prepare import Prepared
from autocompress.study.pricing import ADJOINT_EXAMPLES, FIRST_CUT

RIVALS = ("tpe", "nsga2", "nsga3", "random")
SIZE = "size_bytes"
CHECKPOINTS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
_PATIENCE = 20  # empty answers in a row before a sampler counts as dry


@dataclass(frozen=True)
class Entry:
    """One run to make.

    Args:
        name: How it is listed.
        sampler: By the name of the catalogue; empty for the exact solver's one answer.
        tables: The loss tables that it may read.
        budget: The size limit as the user wrote it.
        limit_bytes: The same in bytes.
        seed: Of the sampler.
        evaluations: Those that count.
        more: Further ones, only shown.
    """

    name: str
    sampler: str
    tables: tuple[str, ...]
    budget: str
    limit_bytes: float
    seed: int
    evaluations: int
    more: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        entry: The run.
        kl: Best KL within the limit after `entry.evaluations`; infinite when none was within it.
        kl_after: The same after other numbers of evaluations.
        better: Every evaluation that was better than all before, with its KL.
        candidate: The one with that KL; None when there is none.
        evaluations: Distinct candidates it proposed.
        within: How many of these kept the limit.
        ask_tell_ms: CPU time of the sampler for each of them.
    """

    entry: Entry
    kl: float
    kl_after: dict[int, float]
    better: tuple[tuple[int, float], ...]
    candidate: Candidate | None
    evaluations: int
    within: int
    ask_tell_ms: float


class Judge:
    """The KL of candidates, each measured once however many samplers propose it.

    Args:
        prepared: Model, bank, prices and proxy.
        known: Candidate to KL; shared by all runs.
    """

    def __init__(self, prepared: Prepared, known: MutableMapping[Candidate, float]) -> None:
        self.prepared = prepared
        self.known = known

    def __call__(self, candidate: Candidate) -> float:
        loss = self.known.get(candidate)
        if loss is None:
            loss = self.prepared.evaluate(self.prepared.space.candidate(candidate)).value
            self.known[candidate] = loss
        return loss


def size_problem(prepared: Prepared, tables: Sequence[str], limit_bytes: float) -> Problem:
    """Smallest KL under a size limit alone."""
    prices = prepared.prices
    return Problem(
        units=tuple(prepared.space.units),
        losses={name: prices.losses[name] for name in tables},
        resources={SIZE: prices.size},
        limits={SIZE: limit_bytes},
    )


def price_passes(prepared: Prepared, tables: Sequence[str]) -> int:
    """What the tables cost in full proxy passes; for the adjoint an upper bound.

    The adjoint takes one forward pass, its backward passes (at two forward passes each) and one
    pass of each layer for each option that the first cut left.
    """
    passes = 0
    if "adjoint" in tables:
        probes = inspect.signature(adjoint_prices).parameters["probes"].default
        examples = min(ADJOINT_EXAMPLES, len(prepared.model.cost_inputs[0]))
        share = examples / len(prepared.model.search_inputs[0])
        passes += math.ceil(share * (1 + 2 * probes + FIRST_CUT * prepared.study.space.menu))
    if "swap" in tables:
        passes += prepared.prices.swap_passes
    return passes


def run(entry: Entry, judge: Judge) -> Outcome:
    """Runs a sampler, or the exact solver when `entry.sampler` is empty."""
    problem = size_problem(judge.prepared, entry.tables, entry.limit_bytes)
    if not entry.sampler:
        candidate = solve(problem, problem.losses[entry.tables[0]])
        loss = judge(candidate)
        return Outcome(entry, loss, {1: loss}, ((1, loss),), candidate, 1, 1, 0.0)
    ours = entry.sampler == DEFAULT
    sampler = make_sampler(entry.sampler, problem, np.random.default_rng([entry.seed, 3]))
    total = entry.evaluations + entry.more
    best: tuple[float, Candidate | None] = (math.inf, None)
    counted, within = best, 0
    best_after: list[float] = []
    spent, empty = 0.0, 0
    while len(best_after) < total and empty < _PATIENCE:
        begun = time.process_time()
        # Ours in batches as a study asks it; the others learn from every trial at once.
        asked = sampler.ask(min(BATCH if ours else 1, total - len(best_after)))
        spent += time.process_time() - begun
        empty = 0 if asked else empty + 1
        trials = []
        for candidate in asked:
            fits = problem.satisfies(candidate)
            # Optuna ranks what breaks a constraint by how far it does, whatever its value: such a
            # candidate counts as an evaluation but need not be measured.
            loss = judge(candidate) if fits or ours else math.inf
            trials.append(Trial(candidate, loss, problem.resource_costs(candidate)))
            within += fits
            if fits and loss < best[0]:
                best = (loss, candidate)
            best_after.append(best[0])
            if len(best_after) <= entry.evaluations:
                counted = best
        begun = time.process_time()
        sampler.tell(trials)
        spent += time.process_time() - begun
    done = len(best_after)
    wanted = {count for count in CHECKPOINTS if count <= done} | {entry.evaluations, done}
    curve = {count: best_after[min(count, done) - 1] for count in sorted(wanted)}
    steps = enumerate(zip([math.inf, *best_after], best_after, strict=False), 1)
    better = tuple((number, now) for number, (before, now) in steps if now < before)
    ask_tell_ms = 1000 * spent / max(done, 1)
    return Outcome(entry, counted[0], curve, better, counted[1], done, within, ask_tell_ms)
