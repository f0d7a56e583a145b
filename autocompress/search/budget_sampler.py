"""Our sampler: exact seeds from the tables, then neighbours of the best that a surrogate prefers.

It keeps a few *anchors*, the budgets that matter: the limits themselves, or points spread over the
front.  Each batch draws anchors and moves by what they have earned; the moves propose candidates
within the anchor's limits, and the surrogate picks those that it expects to improve most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.errors import InfeasibleError
from autocompress.search.attainment import Attainment
from autocompress.search.integer import closest, solve_integer
from autocompress.search.ladder import ladder
from autocompress.search.lagrange import solve_nearly
from autocompress.search.landscape import Landscape
from autocompress.search.mix import Mix
from autocompress.search.moves import Neighbourhood, additive, descend
from autocompress.search.problem import LOSS, Candidate, Floats, Problem
from autocompress.search.proposals import MOVES, Proposer
from autocompress.search.sampler import Trial
from autocompress.search.seeds import perturbed, scaled_limits, seeds
from autocompress.search.space import LARGEST, Listing, as_tuples
from autocompress.search.surrogate import Basis, Surrogate, blend, fit

SLOTS = 8  # candidates for one anchor at a time
EXPLORE = 0.25  # share of the anchors that are moved along the front
RANGE = (0.5, 2.0)  # of the limits, for those that are moved away from a single budget
WIDEST = 2.0  # times the limits: nothing larger is ever proposed
RUNGS = {1: 16, 2: 24}  # anchors of a front, by the number of its costs
BETWEEN = 6  # further seeds where the budgets are given
STEPS = (0.999, 0.98, 0.95, 0.85, 0.7)  # of the least cost so far, where a cost is made small
MOST_TRAINED = 128  # trials; the fit costs their number cubed
LATEST = 32  # of these are the latest, the others those with a loss like the anchor's
NOISE = 0.002  # falls of the log loss up to this are no progress


class BudgetSampler:
    """Proposes candidates of small loss at every budget that matters; repeats none.

    What is asked depends only on the problem, the seed, and what was asked and told before, in its
    order.  A process that was killed and asks and is told the same again, as `study/loop.py` does,
    goes on in the same way; from trials that it did not ask for, it learns all the same, but not
    which move earned them.

    Args:
        problem: Loss tables, costs and limits.
        rng: Gives the seed; not kept.
        explore: Share of the anchors that are moved along the front.

    Attributes:
        origin: For each candidate proposed: `seed` (solver on the tables), a move
            (`relinearise`, `switch`, `perturb`, `crossover`), or `fill` (nothing better was left).
        limits: The limits that are aimed at: the problem's, or, when they cannot be met, the costs
            of the closest candidate.
        moves: What each move has earned.
    """

    def __init__(
        self, problem: Problem, rng: np.random.Generator, explore: float = EXPLORE
    ) -> None:
        self.problem = problem
        self.origin: dict[Candidate, str] = {}
        self._seed = int(rng.integers(2**62))
        self._explore = explore
        self._tables = list(problem.losses.values())
        if len(self._tables) > 1:
            self._tables.append(blend(self._tables))
        self._bases = [Basis(table) for table in self._tables]
        self._bases += [
            Basis(problem.losses[name], products) for name, products in problem.products.items()
        ]
        self.limits = self._reachable_limits()
        watched = problem.front or tuple(n for n in self.limits if n != LOSS)
        self._names = watched or tuple(problem.resources)
        self._attained = Attainment(problem, self._names)
        self._trials: list[Trial] = []
        self._seen: set[Candidate] = set()
        self._strengths: tuple[int, list[Floats]] = (0, [])
        self._chosen: dict[str, tuple[int, int]] = {}
        self._listing: Listing | None = None
        self._anchors, self._seeds = self._begin()
        self.moves = Mix(MOVES)
        self._turns = Mix([str(index) for index in range(len(self._anchors))])
        self._turn: dict[Candidate, str] = {}
        landscapes = [basis.landscape for basis in self._bases]
        self._proposer = Proposer(problem, landscapes, self._attained)

    def _begin(self) -> tuple[list[dict[str, float]], list[Candidate]]:
        """The anchors, and the solver's answers for them and for a spread of others."""
        resources = {name: limit for name, limit in self.limits.items() if name != LOSS}
        rng = np.random.default_rng([self._seed, 0])
        if not self.problem.front:
            first = self._solve(self._bases[-1].landscape, resources)
            tables = seeds(self.problem, self.limits, self._tables, rng)
            known = [*([first] if first else []), *tables]
            return [resources], list(dict.fromkeys(known))
        landscape = self._bases[-1].landscape
        anchors = [{**resources, **budget} for budget in self.problem.budgets]
        count = BETWEEN if anchors else RUNGS.get(len(self._names), 32)
        rungs = ladder(self.problem, landscape, self._names, count)
        # All tables, though one of them is better as a rule: which one, depends on the budget.
        solved = [
            found
            for basis in self._bases[::-1]
            for limits in anchors
            if (found := self._solve(basis.landscape, limits)) is not None
        ]
        if not anchors:
            solved = rungs
            anchors = [
                {**resources, **{name: self.problem.cost(name, rung) for name in self._names}}
                for rung in rungs
            ]
        return anchors, list(dict.fromkeys([*solved, *rungs]))

    def _solve(self, landscape: Landscape, limits: Mapping[str, float]) -> Candidate | None:
        """Near the optimum of a landscape within limits, None when nothing is found."""
        found = solve_nearly(self.problem, landscape.table, limits)
        if found is None or landscape.products is None:
            return found
        return descend(Neighbourhood(self.problem, landscape.table), landscape, found, limits)

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

    def rival(self, candidate: Candidate) -> Candidate | None:
        """The complete trial that a candidate must beat to be of use; None if there is none."""
        trial = self._attained.rival(candidate)
        return trial.candidate if trial is not None else None

    def tell(self, trials: Sequence[Trial]) -> None:
        """Takes finished trials; a failed one (loss not finite) is only not proposed again."""
        for trial in trials:
            self._see(trial.candidate)
            forbidden = not self.problem.feasible(np.array([trial.candidate]), {})[0]
            if not np.isfinite(trial.loss) or forbidden:
                continue
            self._trials.append(trial)
            complete = trial.spread == 0
            gain = self._attained.add(trial) if complete else 0.0
            move = self.origin.get(trial.candidate, "told")
            self.moves.tell(move, gain, trial.passes, complete, NOISE)
            if trial.candidate in self._turn:
                turn = self._turn[trial.candidate]
                self._turns.tell(turn, gain, trial.passes, complete, NOISE)

    def ask(self, n: int) -> list[Candidate]:
        """Up to `n` new candidates; fewer when all within twice the limits are known."""
        batch: list[Candidate] = []
        for candidate in self._seeds:
            if len(batch) < n and candidate not in self._seen:
                self._propose(batch, candidate, "seed")
        rng = np.random.default_rng([self._seed, 1, len(self._seen)])
        if len(batch) < n and len(self._attained.trials) > 0 and len(self._trials) > 2:
            for start in range(len(batch), n, SLOTS):
                self._refine(batch, min(SLOTS, n - start), rng)
        self._fill(batch, n, rng)
        return batch

    def _propose(self, batch: list[Candidate], candidate: Candidate, origin: str) -> None:
        self._see(candidate)
        self.origin[candidate] = origin
        batch.append(candidate)

    def _see(self, candidate: Candidate) -> None:
        self._seen.add(candidate)
        if self._listing is not None:
            self._listing.see([candidate])

    def _refine(self, batch: list[Candidate], count: int, rng: np.random.Generator) -> None:
        """Proposes `count` candidates for one anchor."""
        turn = self._turns.draw(1, rng)[0]
        limits, best = self._aim(dict(self._anchors[int(turn)]), rng)
        parents = self._attained.best(limits, 3)
        if not parents:
            nearest = self._attained.nearest(limits)
            parents = [nearest] if nearest is not None else []
        if not parents:
            return
        if best is None:
            best = float(np.log(max(parents[0].loss, 1e-300)))
        model = self._surrogate(parents[0], turn)
        moves = self.moves.draw(count, rng)
        for candidate, move in self._proposer.propose(
            model, parents, limits, moves, best, self._seen, rng
        ):
            self._propose(batch, candidate, move)
            self._turn[candidate] = turn

    def _aim(
        self, limits: dict[str, float], rng: np.random.Generator
    ) -> tuple[dict[str, float], float | None]:
        """Limits on resources to propose under, and the log loss to get below if it is given."""
        name = self.problem.minimise
        if name != LOSS:
            most = self.limits.get(LOSS, np.inf)
            met = self._attained.best({**limits, LOSS: most}, len(self._trials))
            if met:
                least = min(self.problem.cost(name, trial.candidate) for trial in met)
                step = float(rng.choice(STEPS))
                limits[name] = min(limits.get(name, np.inf), least * step)
            return limits, float(np.log(max(most, 1e-300))) if np.isfinite(most) else None
        given = bool(self.problem.budgets)
        if self.problem.front and (not given or rng.random() < self._explore):
            # Anchors that were only spread over the front stand for what lies around them.
            return self._between(limits, 1.0 if given else 0.5, rng), None
        if not self.problem.front and limits and rng.random() < self._explore:
            factor = float(np.exp(rng.uniform(*np.log(RANGE))))
            return scaled_limits(self.problem, limits, factor), None
        return limits, None

    def _between(
        self, limits: dict[str, float], share: float, rng: np.random.Generator
    ) -> dict[str, float]:
        """Limits up to a share of the way, in logarithms, to one of the nearest anchors."""
        points = np.log([[a.get(n, np.inf) for n in self._names] for a in self._anchors])
        here = np.log([limits.get(name, np.inf) for name in self._names])
        with np.errstate(invalid="ignore"):
            distance = np.nansum(np.abs(points - here), axis=1)
        others = np.argsort(distance, kind="stable")[1 : 1 + 2 * len(self._names)]
        if not len(others):
            return limits
        other = self._anchors[int(rng.choice(others))]
        way = float(rng.uniform(0, share))
        return {
            name: float(limit ** (1 - way) * other.get(name, limit) ** way)
            for name, limit in limits.items()
        }

    def _surrogate(self, centre: Trial, turn: str) -> Surrogate:
        """The posterior around a trial, under the table that explains the trials there best."""
        nearby = self._nearby(centre)
        # Chosen anew at powers of two: the strengths take long to fit.
        whole = 1 << (len(self._trials).bit_length() - 1)
        if self._strengths[0] != whole:
            places = np.linspace(0, whole - 1, min(whole, MOST_TRAINED)).astype(int)
            trials = [self._trials[place] for place in dict.fromkeys(places.tolist())]
            self._strengths = (whole, [_fit(basis, trials).strengths for basis in self._bases])
        strengths = self._strengths[1]
        if self._chosen.get(turn, (0, 0))[0] != whole:
            pairs = zip(self._bases, strengths, strict=True)
            evidence = [_fit(basis, nearby, given).evidence for basis, given in pairs]
            self._chosen[turn] = (whole, int(np.argmax(evidence)))
        best = self._chosen[turn][1]
        return _fit(self._bases[best], nearby, strengths[best])

    def _nearby(self, centre: Trial) -> list[Trial]:
        """The latest trials, and those with a loss most like that of `centre`."""
        if len(self._trials) <= MOST_TRAINED:
            return self._trials
        losses = np.array([trial.loss for trial in self._trials[:-LATEST]])
        distance = np.abs(np.log(np.maximum(losses, 1e-300) / max(centre.loss, 1e-300)))
        places = np.argsort(distance, kind="stable")[: MOST_TRAINED - LATEST]
        return [*(self._trials[place] for place in places), *self._trials[-LATEST:]]

    def _fill(self, batch: list[Candidate], n: int, rng: np.random.Generator) -> None:
        """Tops the batch up by additive loss, first within the limits, then wider."""
        if len(batch) == n:
            return
        table = self._tables[-1]
        wide = scaled_limits(self.problem, self.limits, WIDEST) if self.limits else {}
        listed = self.problem.space_size <= LARGEST
        if listed and self._listing is None:
            self._listing = Listing(self.problem, wide)
            self._listing.see(self._seen)
        for limits in (self.limits, wide):
            if self._listing is not None:
                rows = self._listing.new(limits)
                order = np.argsort(additive(table, rows), kind="stable")[: n - len(batch)]
                for candidate in as_tuples(rows[order]):
                    self._propose(batch, candidate, "fill")
                continue
            for _ in range(10 * n):
                if len(batch) == n:
                    return
                found = solve_nearly(self.problem, perturbed(table, rng), limits)
                if found is None:
                    break
                if found not in self._seen:
                    self._propose(batch, found, "fill")


def _fit(basis: Basis, trials: Sequence[Trial], strengths: Floats | None = None) -> Surrogate:
    rows = np.array([trial.candidate for trial in trials])
    losses = np.array([trial.loss for trial in trials])
    return fit(basis, rows, losses, np.array([trial.spread for trial in trials]), strengths)
