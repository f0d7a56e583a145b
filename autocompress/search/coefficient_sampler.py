"""CMA-ES over per-unit coefficients of a loss table that a solver turns into candidates.

SPDY (2201.13096) searches the coefficients at random; here they are learnt: the table of unit `u`
is multiplied by `exp(z_u)`, the near-exact solver allocates under the budget, and CMA-ES moves `z`
towards allocations that measure well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cmaes import CMA

from autocompress.errors import InfeasibleError
from autocompress.search.integer import closest
from autocompress.search.lagrange import solve_nearly
from autocompress.search.moves import additive, single_switches
from autocompress.search.problem import LOSS, Candidate, Floats, Problem, Tables
from autocompress.search.sampler import Sampler, Trial
from autocompress.search.seeds import perturbed
from autocompress.search.solver import solve
from autocompress.search.space import as_tuples

RUNGS = 9  # budgets of the default ladder
SIGMA = 0.5  # of the first coefficients
WIDER, WIDEST = 1.5, 2.0  # each restart draws wider, up to so much
MOST_DOUBLED = 5  # restarts that double the population
STALE = 2  # generations without a candidate that is new to the rung, then a restart
_REPEATS, _FEWEST = 64, 4  # fruitless draws per rung before the batch is filled
_FACTORS = (*[1.0] * 6, *[1.25] * 3, *[1.6] * 3, *[2.0] * 6)  # times the limits, of the fill
_WORST = 1e30  # stands for what failed or breaks a measured limit
_NODES, _GAP = 50, 1e-2


class CoefficientSampler(Sampler):
    """One CMA-ES for every budget of a ladder, served in turn.

    A coefficient vector that decodes to a known candidate is told its known value without an
    evaluation.  Every draw is seeded by its place, so the state is a function of the seed and the
    told values alone: a process that was killed and is told the same trials goes on from there.
    The coefficients of a small model lead to few candidates; once no vector gives a new one,
    neighbours of its solutions fill the batch.

    Args:
        problem: Loss tables (the last one is used), costs and limits.
        seed: Of all draws.
        budgets: Limits by resource name, one mapping a rung.  None: the problem's budgets, or its
            limits, or, with a front, budgets evenly spaced in the logarithm over the range of the
            front's resources, together and, if there are several, each alone.

    Attributes:
        origin: For each candidate proposed: `cmaes`, or `fill` for neighbours.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        budgets: Sequence[Mapping[str, float]] | None = None,
    ) -> None:
        self.problem = problem
        self.origin: dict[Candidate, str] = {}
        self._table: Tables = list(problem.losses.values())[-1]
        units = len(problem.units)
        rungs = ladder(problem) if budgets is None else budgets
        self._rungs = [
            _Rung(self._reachable({**problem.limits, **limits}), (seed, number), units)
            for number, limits in enumerate(rungs)
        ]
        self._seed = seed
        self._turn = 0
        self._patience = _REPEATS
        self._known: dict[Candidate, Trial] = {}
        self._pending: set[Candidate] = set()
        self._drawn: set[Candidate | None] = set()

    def _reachable(self, limits: Mapping[str, float]) -> dict[str, float]:
        """The limits or, where no candidate keeps them, the costs of the closest one."""
        resources = {name: limit for name, limit in limits.items() if name != LOSS}
        if not resources or solve_nearly(self.problem, self._table, resources) is not None:
            return dict(limits)
        near = closest(self.problem, self._table, resources)
        costs = self.problem.resource_costs(near)
        return {
            name: limit if name == LOSS else max(limit, costs[name])
            for name, limit in limits.items()
        }

    def ask(self, n: int) -> list[Candidate]:
        """Up to `n` new candidates; fewer when all that is drawn is known."""
        batch: list[Candidate] = []
        fruitless = 0
        while len(batch) < n and fruitless < self._patience * len(self._rungs):
            rung = self._rungs[self._turn % len(self._rungs)]
            self._turn += 1
            candidate = self._decode(rung)
            self._learn(rung)
            # After a restart the draws of the process before come again: that is not idling.
            fruitless = fruitless + 1 if candidate in self._drawn else 0
            self._drawn.add(candidate)
            self._propose(batch, candidate, "cmaes")
        # Where the coefficients lead to nothing new, the next batch tries less long.
        self._patience = _REPEATS if batch else max(self._patience // 2, _FEWEST)
        self._fill(batch, n)
        return batch

    def _propose(self, batch: list[Candidate], candidate: Candidate | None, origin: str) -> None:
        """Adds a candidate to the batch if it is new."""
        if candidate is None or candidate in self._known or candidate in self._pending:
            return
        self._pending.add(candidate)
        batch.append(candidate)
        self.origin[candidate] = origin

    def _fill(self, batch: list[Candidate], n: int) -> None:
        """Tops the batch up with the best neighbours of perturbed solutions, one unit away.

        First within the limits, then, when these hold nothing new, over them.
        """
        for attempt, factor in enumerate(_FACTORS):
            if len(batch) == n:
                return
            seen = len(self._known) + len(self._pending)
            rng = np.random.default_rng([self._seed, attempt, seen])
            limits = self._rungs[seen % len(self._rungs)].limits
            limits = {name: factor * limit for name, limit in limits.items()}
            found = self._solve(perturbed(self._table, rng, SIGMA), limits)
            if found is None:
                continue
            around = single_switches(self.problem, found)[0]
            around = around[self.problem.feasible(around, limits)]
            order = np.argsort(additive(self._table, around), kind="stable")
            for candidate in [found, *as_tuples(around[order])]:
                if len(batch) < n:
                    self._propose(batch, candidate, "fill")

    def tell(self, trials: Sequence[Trial]) -> None:
        """Takes finished trials, whoever proposed them."""
        for trial in trials:
            self._known[trial.candidate] = trial
            self._pending.discard(trial.candidate)
        for rung in self._rungs:
            self._learn(rung)

    def _decode(self, rung: _Rung) -> Candidate | None:
        """Draws coefficients and solves under the rung's limits; None if nothing meets them."""
        place, coefficients = rung.draw()
        table = [values * np.exp(z) for values, z in zip(self._table, coefficients, strict=True)]
        candidate = self._solve(table, rung.limits)
        if place is not None:
            rung.generation.append((coefficients, candidate))
        return candidate

    def _solve(self, table: Tables, limits: Mapping[str, float]) -> Candidate | None:
        if self.problem.minimise == LOSS or self.problem.front:
            return solve_nearly(self.problem, table, limits)
        try:
            # The limit on the loss bounds the sum of the table, whose scale CMA-ES learns.
            return solve(self.problem, table, limits, nodes=_NODES, gap=_GAP)
        except InfeasibleError:
            return None

    def _learn(self, rung: _Rung) -> None:
        """Tells CMA-ES a generation when every candidate of it was measured."""
        if not rung.is_full:
            return
        if all(candidate is None or candidate in self._known for _, candidate in rung.generation):
            rung.learn([self._value(candidate) for _, candidate in rung.generation])

    def _value(self, candidate: Candidate | None) -> float:
        if candidate is None:
            return _WORST
        loss = self._known[candidate].loss
        if not np.isfinite(loss):
            return _WORST
        if self.problem.front:
            return loss
        excess = self.problem.violation(candidate, loss)
        if excess:
            return _WORST * excess / (1 + excess)
        return self.problem.objective(candidate, loss)


def ladder(problem: Problem, rungs: int = RUNGS) -> list[dict[str, float]]:
    """The problem's budgets, or a range of them for its front; else one rung without any.

    The cheapest rung lies one step above the smallest cost, the dearest at the limit or, without
    one, at the largest cost.
    """
    if problem.budgets:
        return [dict(budget) for budget in problem.budgets]
    names = list(problem.front)
    if not names:
        return [{}]
    ranges = {}
    for name in names:
        costs = list(zip(problem.unit_costs(name), problem.allowed, strict=True))
        constant = problem.resources[name].constant
        low = constant + sum(float(values[allowed].min()) for values, allowed in costs)
        high = constant + sum(float(values[allowed].max()) for values, allowed in costs)
        ranges[name] = (low, max(low, min(high, problem.limits.get(name, high))))
    steps = np.arange(rungs, 0, -1) / rungs
    groups = [names] if len(names) == 1 else [names, *([name] for name in names)]
    return [
        {name: _between(*ranges[name], float(step)) for name in group}
        for group in groups
        for step in steps
    ]


def _between(low: float, high: float, share: float) -> float:
    """A share of the way, in the logarithm where the costs are positive."""
    if low <= 0:
        return low + share * (high - low)
    return float(low * (high / low) ** share)


@dataclass
class _Rung:
    """CMA-ES at one budget, restarted with twice the population when it stalls (IPOP).

    Args:
        limits: What the solver must keep.
        seed: Of all draws.
        dimensions: Number of coefficients.
        generation: Coefficients and candidates drawn for the present generation.
    """

    limits: Mapping[str, float]
    seed: tuple[int, ...]
    dimensions: int
    generation: list[tuple[Floats, Candidate | None]] = field(default_factory=list)
    _restarts: int = 0
    _stale: int = 0
    _extra: int = 0
    _seen: set[Candidate | None] = field(default_factory=set)
    _optimizer: CMA = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        plain = CMA(np.zeros(self.dimensions), SIGMA).population_size
        self._optimizer = CMA(
            mean=np.zeros(self.dimensions),
            sigma=min(SIGMA * WIDER**self._restarts, WIDEST),
            population_size=plain * 2 ** min(self._restarts, MOST_DOUBLED),
        )
        self._stale = 0

    @property
    def is_full(self) -> bool:
        """Whether the generation has all its members."""
        return len(self.generation) == int(self._optimizer.population_size)

    def draw(self) -> tuple[int | None, Floats]:
        """The next coefficients `(dimensions,)` and their place in the generation.

        While a full generation waits for its values, further ones are drawn outside of it (their
        place is None): they are worth an evaluation but teach CMA-ES nothing.
        """
        place = None if self.is_full else len(self.generation)
        if place == 0 and not self._restarts and not self._optimizer.generation:
            return place, np.zeros(self.dimensions)  # the table as it is
        self._extra += place is None
        where = (0, place) if place is not None else (1, self._extra)
        key = [*self.seed, self._restarts, self._optimizer.generation, *where]
        self._optimizer.reseed_rng(int(np.random.SeedSequence(key).generate_state(1)[0]))
        return place, self._optimizer.ask()

    def learn(self, values: Sequence[float]) -> None:
        """Ends the generation; `values` are of its members, in the order of their draws."""
        vectors = [coefficients for coefficients, _ in self.generation]
        fresh = {candidate for _, candidate in self.generation} - self._seen
        self._seen |= fresh
        self._stale = 0 if fresh else self._stale + 1
        self._optimizer.tell(list(zip(vectors, values, strict=True)))
        self.generation.clear()
        if self._stale == STALE or self._optimizer.should_stop():
            self._restarts += 1
            self._start()
