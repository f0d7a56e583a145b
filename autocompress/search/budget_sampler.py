"""Our sampler: exact seeds from the tables, then neighbours of the best that a surrogate prefers.

The surrogate is fitted to the told trials; its value of every single switch at the incumbent gives
a re-linearised table that is solved again (measured switches replace the model's).  What the
solver gives, switches of a few units and solutions of perturbed tables compete by expected gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.errors import InfeasibleError
from autocompress.search.acquisition import pick
from autocompress.search.integer import closest, solve_integer
from autocompress.search.lagrange import solve_nearly
from autocompress.search.moves import additive, single_switches, switches
from autocompress.search.problem import LOSS, Candidate, Floats, Integers, Problem, Tables, slack
from autocompress.search.sampler import Trial
from autocompress.search.seeds import perturbed, scaled_limits, seeds
from autocompress.search.space import LARGEST, Listing, as_tuples
from autocompress.search.surrogate import Surrogate, blend, fit

FRONT_EVERY = 4  # one candidate in so many serves another budget than the target
FRONT_RANGE = (0.5, 2.0)
WIDEST = 2.0  # times the limits: nothing larger is ever proposed
REFIT_EVERY = 8  # trials
MOST_TRAINED = 200  # trials; the fit costs their number cubed
POOL = 2000
PARENTS = 3
REFINE_SIGMA = 0.2


class BudgetSampler:
    """Proposes candidates near the limits with a small loss; repeats none.

    What is asked depends only on the problem, the seed, and the trials told so far, in their
    order: a process that was killed and is told the same trials goes on in the same way.

    Args:
        problem: Loss tables, costs and limits.
        rng: Gives the seed; not kept.

    Attributes:
        origin: For each candidate proposed: `seed` (solver on the tables), `relinearise` (solver
            on the table measured at the incumbent, or near that), `switch` (a few units changed),
            `perturb` (solver on a perturbed table, or near that), `screen` (found by listing a
            small space), `front` (for another budget), `fill` (nothing better was left).
        limits: The limits that are aimed at: the problem's, or, when they cannot be met, the costs
            of the closest candidate.
    """

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem = problem
        self.origin: dict[Candidate, str] = {}
        self._seed = int(rng.integers(2**62))
        self._tables = list(problem.losses.values())
        if len(self._tables) > 1:
            self._tables.append(blend(self._tables))
        self.limits = self._reachable_limits()
        self._trials: list[Trial] = []
        self._seen: set[Candidate] = set()
        self._model: tuple[int, Surrogate] | None = None
        self._chosen: tuple[int, int, Floats] | None = None
        wide = scaled_limits(problem, self.limits, WIDEST) if self.limits else {}
        self._space = Listing(problem, wide) if problem.space_size <= LARGEST else None
        self._wide = wide
        seeding = np.random.default_rng([self._seed, 0])
        self._seeds = list(dict.fromkeys(seeds(problem, self.limits, self._tables, seeding)))

    def _reachable_limits(self) -> dict[str, float]:
        limits = dict(self.problem.limits)
        resources = {name: limit for name, limit in limits.items() if name != LOSS}
        if solve_nearly(self.problem, self._tables[-1], resources) is not None:
            return limits
        try:
            solve_integer(self.problem, self._tables[-1], resources, gap=1.0, nodes=1000)
        except InfeasibleError:
            near = closest(self.problem, self._tables[-1], resources)
            for name, limit in resources.items():
                limits[name] = max(limit, self.problem.cost(name, near))
        return limits

    def attributes(self, candidate: Candidate) -> Mapping[str, object]:
        """The candidate's origin, for the record; nothing of it is needed when told."""
        return {"origin": self.origin[candidate]} if candidate in self.origin else {}

    def tell(self, trials: Sequence[Trial]) -> None:
        """Takes finished trials; a failed one (loss not finite) is only not proposed again."""
        for trial in trials:
            self._see(trial.candidate)
            forbidden = not self.problem.feasible(np.array([trial.candidate]), {})[0]
            if np.isfinite(trial.loss) and not forbidden:
                self._trials.append(trial)

    def ask(self, n: int) -> list[Candidate]:
        """Up to `n` new candidates; fewer when all within twice the limits are known."""
        batch: list[Candidate] = []
        for candidate in self._seeds:
            if len(batch) < n and candidate not in self._seen:
                self._propose(batch, candidate, "seed")
        rng = np.random.default_rng([self._seed, 1, len(self._seen)])
        if len(batch) < n and len(self._trials) > 2:
            first = len(self._seen)
            wanted = range(first, first + n - len(batch))
            fronts = sum(index % FRONT_EVERY == 0 for index in wanted)
            self._refine(batch, self.limits, len(wanted) - fronts, rng, "")
            for _ in range(fronts):
                self._serve_front(batch, rng)
        self._fill(batch, n, rng)
        return batch

    def _serve_front(self, batch: list[Candidate], rng: np.random.Generator) -> None:
        """One candidate for a random budget; small ones may be out of reach, so try a few."""
        before = len(batch)
        low, high = np.log(FRONT_RANGE)
        for _ in range(4):
            self._refine(
                batch, self._scaled(float(np.exp(rng.uniform(low, high)))), 1, rng, "front"
            )
            if len(batch) > before:
                return

    def _scaled(self, factor: float) -> dict[str, float]:
        names = (LOSS,) if self.problem.minimise != LOSS and LOSS in self.limits else ()
        return scaled_limits(self.problem, self.limits, factor, names)

    def _propose(self, batch: list[Candidate], candidate: Candidate, origin: str) -> None:
        self._see(candidate)
        self.origin[candidate] = origin
        batch.append(candidate)

    def _see(self, candidate: Candidate) -> None:
        self._seen.add(candidate)
        if self._space is not None:
            self._space.see([candidate])

    def _refine(
        self,
        batch: list[Candidate],
        limits: Mapping[str, float],
        count: int,
        rng: np.random.Generator,
        origin: str,
    ) -> None:
        if count < 1:
            return
        model = self._surrogate()
        pool = self._pool(model, limits, rng, 1 if origin else min(PARENTS, 1 + count))
        if not pool:
            return
        names = list(pool)
        rows = np.array(names, dtype=np.int64)
        ranked, feasible = self._ranked(limits)
        if self.problem.minimise == LOSS:
            chosen = pick(model, rows, count, float(np.log(max(ranked[0].loss, 1e-300))))
        else:
            costs = self.problem.costs(self.problem.minimise, rows)
            best = self._cost(ranked[0]) if feasible else 1.01 * float(costs.max())
            limit = float(np.log(max(limits.get(LOSS, np.inf), 1e-300)))
            chosen = pick(model, rows, count, best, costs, limit)
        for index in chosen:
            self._propose(batch, names[index], origin or pool[names[index]])

    def _cost(self, trial: Trial) -> float:
        return self.problem.objective(trial.candidate, trial.loss)

    def _ranked(self, limits: Mapping[str, float]) -> tuple[list[Trial], int]:
        """Told trials, those within the limits by objective, then the others by violation.

        The number is that of the trials within the limits.
        """
        rows = np.array([trial.candidate for trial in self._trials])
        losses = np.array([trial.loss for trial in self._trials])
        over = np.zeros(len(rows))
        for name, limit in limits.items():
            values = losses if name == LOSS else self.problem.costs(name, rows)
            over += np.maximum(0.0, (values - slack(limit)) / max(abs(limit), 1e-12))
        goal = losses
        if self.problem.minimise != LOSS:
            goal = self.problem.costs(self.problem.minimise, rows)
        order = np.lexsort((goal, over))
        return [self._trials[index] for index in order], int((over == 0).sum())

    def _surrogate(self) -> Surrogate:
        """The posterior of the told trials, under the table that explains them best."""
        count = len(self._trials)
        if self._model is None or self._model[0] != count:
            # From whole blocks of trials, so that a restarted process chooses the same.
            whole = max(count - count % REFIT_EVERY, min(count, REFIT_EVERY))
            if self._chosen is None or self._chosen[0] != whole:
                fits = [self._fit(table, whole) for table in self._tables]
                best = max(range(len(fits)), key=lambda index: fits[index].evidence)
                self._chosen = (whole, best, fits[best].strengths)
            _, best, strengths = self._chosen
            self._model = (count, self._fit(self._tables[best], count, strengths))
        return self._model[1]

    def _fit(self, table: Tables, count: int, strengths: Floats | None = None) -> Surrogate:
        """On the first `count` trials; of many, the latest and those with a loss like theirs."""
        trials = self._trials[:count]
        if count > MOST_TRAINED:
            half = MOST_TRAINED // 2
            latest = trials[-half:]
            usual = float(np.median([np.log(max(trial.loss, 1e-300)) for trial in latest]))
            trials.sort(key=lambda trial: abs(np.log(max(trial.loss, 1e-300)) - usual))
            trials = list({t.candidate: t for t in latest + trials[:half]}.values())
        rows = np.array([trial.candidate for trial in trials])
        return fit(table, rows, np.array([trial.loss for trial in trials]), strengths)

    def _pool(
        self,
        model: Surrogate,
        limits: Mapping[str, float],
        rng: np.random.Generator,
        parents_wanted: int,
    ) -> dict[Candidate, str]:
        """New candidates within the limits, with their origin."""
        parents = [trial.candidate for trial in self._ranked(limits)[0][:parents_wanted]]
        targets = self._targets(limits)
        pool: dict[Candidate, str] = {}

        def add(rows: Integers, origin: str) -> None:
            for candidate in as_tuples(rows):
                if candidate not in self._seen:
                    pool.setdefault(candidate, origin)

        local = self._local_table(model, parents[0])
        for target in targets:
            if self._space is not None:
                fresh = self._space.new(target)
                add(_lowest(fresh, local, POOL // len(targets)), "screen")
                add(_lowest(fresh, model.table, POOL // len(targets)), "screen")
                continue
            starts: list[tuple[Candidate, str]] = []
            tables = [(local, "relinearise")]
            if parents_wanted > 1:
                tables.append((perturbed(model.table, rng, REFINE_SIGMA), "perturb"))
            for table, origin in tables:
                found = solve_nearly(self.problem, table, target)
                if found is not None:
                    add(np.array([found]), origin)
                    starts.append((found, origin))
            share = POOL // (len(targets) * (len(parents) + len(starts)))
            for parent in parents:
                add(switches(self.problem, local, parent, target, share), "switch")
            for start, origin in starts:
                add(switches(self.problem, local, start, target, share), origin)
        for candidate in [c for c in pool if pool[c] == "screen"]:
            if sum(a != b for a, b in zip(candidate, parents[0], strict=True)) <= 3:
                pool[candidate] = "switch"
        return pool

    def _targets(self, limits: Mapping[str, float]) -> list[dict[str, float]]:
        """Limits on resources under which a smaller loss helps."""
        target = {name: limit for name, limit in limits.items() if name != LOSS}
        name = self.problem.minimise
        if name == LOSS:
            return [target]
        ranked, feasible = self._ranked(limits)
        best = self._cost(ranked[0])
        steps = (0.999, 0.98, 0.95, 0.9) if feasible else (1.0, 1.1)
        return [{**target, name: min(target.get(name, np.inf), best * step)} for step in steps]

    def _local_table(self, model: Surrogate, centre: Candidate) -> tuple[Floats, ...]:
        """Loss of every single switch at `centre`: measured where told, else the model's."""
        rows, units = single_switches(self.problem, centre)
        table = [np.full(size, np.inf) for size in self.problem.sizes]
        measured = {trial.candidate: trial.loss for trial in self._trials}
        if len(rows):
            values = np.exp(model.predict(rows)[0])
            for row, unit, value in zip(as_tuples(rows), units, values, strict=True):
                table[unit][row[unit]] = measured.get(row, value)
        for unit, option in enumerate(centre):
            table[unit][option] = measured[centre]
        # Differences to the centre are what counts; a share of it keeps the sums near the loss.
        shift = measured[centre] * (1 - 1 / len(centre))
        return tuple(values - shift for values in table)

    def _fill(self, batch: list[Candidate], n: int, rng: np.random.Generator) -> None:
        """Tops the batch up by additive loss, first within the limits, then wider."""
        table = self._tables[-1]
        for limits in (self.limits, self._wide):
            if len(batch) == n:
                return
            if self._space is not None:
                rows = _lowest(self._space.new(limits), table, n - len(batch))
                for candidate in as_tuples(rows):
                    self._propose(batch, candidate, "fill")
                continue
            for _ in range(10 * n):
                found = solve_nearly(self.problem, perturbed(table, rng), limits)
                if found is None or len(batch) == n:
                    break
                around = switches(self.problem, table, found, limits, POOL)
                fresh = [c for c in [found, *as_tuples(around)] if c not in self._seen]
                for candidate in fresh[: n - len(batch)]:
                    self._propose(batch, candidate, "fill")


def _lowest(rows: Integers, table: Sequence[Floats], count: int) -> Integers:
    if len(rows) <= count:
        return rows
    total = additive(table, rows)
    best = np.argpartition(total, count)[:count]
    return rows[best[np.argsort(total[best], kind="stable")]]
