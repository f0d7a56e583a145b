"""One contestant, one seed: a run over the whole front, and what it had found at what price."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from memo import Memo

from autocompress.search.catalogue import DEFAULT, make_sampler
from autocompress.search.problem import Candidate, Floats, Integers, Problem
from autocompress.search.resource import Resource
from autocompress.search.sampler import Trial
from autocompress.study.loop import BATCH

SIZE = "size_bytes"
OURS = "ours"
RIVALS = ("cmaes", "tpe", "nsga2", "nsga3", "random")  # samplers, asked like ours
MOST_PROPOSALS = 2  # of a rival, times its passes: what breaks the limit is proposed for nothing
_PATIENCE = 20  # empty answers in a row before a sampler counts as dry


@dataclass(frozen=True)
class Contest:
    """What all contestants share: one problem, one judge.

    Args:
        study: Its name.
        units: Names of the units.
        options: For each unit the ids of its options.
        losses: The loss tables `adjoint` and `swap`.
        resources: Costs by name, `size_bytes` among them.
        labels: For each unit which options `(options,)` are int8; empty when none is.
        original_bytes: What budgets are relative to.
        budgets: Size limits in bytes by the text that the user wrote, the largest first.
        pricing: What each table cost, in full passes of the proxy.
        measure: Loss of a candidate and the seconds of its forward passes.
        memo: Losses that are known.
        full_pass_s: Seconds of one full pass.
        play: Runs ours as a study runs it; None asks it like the others and measures every
            candidate in full.
        products: Those of the loss tables; only ours reads them.
    """

    study: str
    units: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    losses: Mapping[str, tuple[Floats, ...]]
    resources: Mapping[str, Resource]
    labels: tuple[Integers, ...]
    original_bytes: int
    budgets: Mapping[str, float]
    pricing: Mapping[str, float]
    measure: Callable[[Candidate], tuple[float, float]]
    memo: Memo
    full_pass_s: float
    play: Callable[[Entry, Contest], Outcome] | None = None
    products: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        """The largest budget, in bytes: the limit of every run."""
        return max(self.budgets.values())

    def problem(self, tables: Sequence[str] = ("adjoint", "swap")) -> Problem:
        """The whole front of loss and size, up to the largest budget."""
        return Problem(
            units=self.units,
            losses={name: self.losses[name] for name in tables},
            resources=self.resources,
            labels=self.labels,
            limits={SIZE: self.largest},
            front=(SIZE,),
            budgets=tuple({SIZE: limit} for limit in self.budgets.values()),
            products={name: self.products[name] for name in tables if name in self.products},
        )

    def price(self, tables: Sequence[str]) -> float:
        """What the tables cost, in full passes."""
        return sum(self.pricing[name] for name in tables)

    def loss(self, candidate: Candidate) -> float:
        """The loss of a candidate, measured once whoever asks."""
        known = self.memo.get(candidate)
        if known is None:
            known, _ = self.measure(candidate)
            self.memo.put(candidate, known)
        return known


class Evaluator(Protocol):
    """Measures batches.  `forward_s` adds up the seconds of its forward passes."""

    forward_s: float

    def __call__(self, candidates: Sequence[Candidate]) -> list[Trial]:
        """A trial for each; `spread` 0 and the exact loss where it was measured in full."""
        ...


class InFull:
    """Measures every candidate anew on every input, so that time is spent as in a study."""

    def __init__(self, contest: Contest) -> None:
        self.contest = contest
        self.problem = contest.problem()
        self.forward_s = 0.0

    def __call__(self, candidates: Sequence[Candidate]) -> list[Trial]:
        trials = []
        for candidate in candidates:
            loss, seconds = self.contest.measure(candidate)
            self.forward_s += seconds
            trials.append(Trial(candidate, loss, self.problem.resource_costs(candidate)))
        return trials


class Recalled:
    """Measures what nobody has measured yet; each counts as a pass, and costs the time of one.

    What breaks the limit is not measured and free: its bytes are known beforehand, and Optuna
    ranks it by how far it breaks the limit, whatever its loss.
    """

    def __init__(self, contest: Contest) -> None:
        self.contest = contest
        self.problem = contest.problem()
        self.forward_s = 0.0

    def __call__(self, candidates: Sequence[Candidate]) -> list[Trial]:
        trials = []
        for candidate in candidates:
            fits = self.problem.satisfies(candidate)
            loss = self.contest.loss(candidate) if fits else math.inf
            self.forward_s += fits * self.contest.full_pass_s
            costs = self.problem.resource_costs(candidate)
            trials.append(Trial(candidate, loss, costs, passes=float(fits)))
        return trials


@dataclass(frozen=True)
class Entry:
    """One run to make.

    Args:
        name: How it is listed.
        sampler: By the name of the catalogue; empty for a list of candidates.
        tables: The loss tables that it reads: they are charged.
        seed: Of the sampler.
        passes: Full passes that it may spend.
        listed: What is measured where there is no sampler.
    """

    name: str
    sampler: str
    tables: tuple[str, ...]
    seed: int
    passes: float
    listed: tuple[Candidate, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.  A step is a candidate that was measured in full, within the limit.

    Args:
        entry: The run.
        steps: The candidates, in order.
        losses: Their losses `(steps,)`.
        sizes: Their bytes `(steps,)`.
        passes: Full passes `(steps,)` spent when each was known.
        seconds: Seconds `(steps,)` spent when each was known.
        proposals: Distinct candidates proposed.
        spent: Full passes in all.
        work: What these took in multiply-adds, in those of a pass of the whole model; less where
            activations were reused.
        outside_s: Seconds outside of forward passes.
        total_s: Seconds in all.
    """

    entry: Entry
    steps: tuple[Candidate, ...]
    losses: Floats
    sizes: Floats
    passes: Floats
    seconds: Floats
    proposals: int
    spent: float
    work: float
    outside_s: float
    total_s: float


def is_complete(trial: Trial) -> bool:
    """Whether a trial holds the loss on every input, not an estimate or a failure."""
    return trial.spread == 0 and math.isfinite(trial.loss)


def run(entry: Entry, contest: Contest) -> Outcome:
    """Runs one contestant."""
    ours = entry.sampler == DEFAULT
    if ours and contest.play is not None:
        return contest.play(entry, contest)
    evaluate: Evaluator = InFull(contest) if ours else Recalled(contest)
    problem = contest.problem(entry.tables or ("swap",))
    rng = np.random.default_rng([entry.seed, 3])
    sampler = make_sampler(entry.sampler, problem, rng) if entry.sampler else None
    waiting = list(entry.listed)
    trials: list[Trial] = []
    passes: list[float] = []
    seconds: list[float] = []
    spent, outside, empty = 0.0, 0.0, 0
    most = math.inf if ours else MOST_PROPOSALS * entry.passes
    while spent < entry.passes and len(trials) < most and empty < _PATIENCE:
        begun, before = time.process_time(), evaluate.forward_s
        if sampler is None:
            asked, waiting = waiting[:1], waiting[1:]
            if not asked:
                break
        else:
            # Ours in batches as a study asks it; the others learn from every trial at once.
            asked = sampler.ask(BATCH if ours else 1)
        empty = 0 if asked else empty + 1
        thought = time.process_time() - begun
        done = evaluate(asked)
        measured = time.process_time() - begun - thought
        for trial in done:
            if is_complete(trial):
                contest.memo.put(trial.candidate, trial.loss)
        begun = time.process_time()
        if sampler is not None:
            sampler.tell(done)
        thought += time.process_time() - begun
        forward = evaluate.forward_s - before
        # A recalled loss took no time: what counts is the time that it would have taken.
        outside += thought + (max(measured - forward, 0.0) if ours else 0.0)
        spent += sum(trial.passes for trial in done)
        trials += done
        passes += [spent] * len(done)
        seconds += [outside + evaluate.forward_s] * len(done)
    kept = [
        number
        for number, trial in enumerate(trials)
        if is_complete(trial) and problem.satisfies(trial.candidate)
    ]
    return Outcome(
        entry=entry,
        steps=tuple(trials[number].candidate for number in kept),
        losses=np.array([trials[number].loss for number in kept]),
        sizes=np.array([problem.cost(SIZE, trials[number].candidate) for number in kept]),
        passes=np.array(passes)[kept],
        seconds=np.array(seconds)[kept],
        proposals=len(trials),
        spent=spent,
        work=spent,
        outside_s=outside,
        total_s=outside + evaluate.forward_s,
    )
