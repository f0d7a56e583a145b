"""Our sampler: exact seeds from the tables, then neighbours of the best that a surrogate prefers.

It keeps a few *anchors*, the budgets that matter: the limits themselves, or points spread over the
front.  Each batch draws an anchor and moves by what they have earned; the moves propose candidates
within the anchor's limits, and the surrogate picks those that it expects to improve most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.search.aim import Aim, Plan
from autocompress.search.attainment import Attainment
from autocompress.search.bridge import bridges
from autocompress.search.lagrange import solve_nearly
from autocompress.search.mix import Mix
from autocompress.search.moves import Neighbourhood, additive
from autocompress.search.opening import opening, reachable_limits
from autocompress.search.problem import LOSS, Candidate, Floats, Problem
from autocompress.search.proposals import MOVES, Proposer
from autocompress.search.sampler import SLOPE_PASSES, Sampler, Trial
from autocompress.search.seeds import perturbed, scaled_limits
from autocompress.search.space import LARGEST, Listing, as_tuples
from autocompress.search.surrogate import Basis, blend
from autocompress.search.trained import Trained

SLOTS = 8  # candidates for one anchor at a time
EXPLORE = 0.25  # share of the candidates that are looked for away from the budgets
WIDEST = 2.0  # times the limits: nothing larger is ever proposed
NOISE = 0.002  # falls of the log loss up to this are no progress
DRAWS = 8  # plans in a row that may lead nowhere
TRIED = 4  # steps of the front that are looked at for each that is bridged
RADIUS = 0.05  # of the loss: the squared push up to which the slopes of a place hold
SLOPES = 0.3  # share of the passes that may go into slopes


class BudgetSampler(Sampler):
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
            (`relinearise`, `switch`, `perturb`, `crossover`), `bridge` (between two of the front),
            or `fill` (nothing better was left).
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
        landscape = self._bases[-1].landscape
        self.limits = reachable_limits(problem, self._tables[-1])
        names = problem.front or tuple(n for n in self.limits if n != LOSS)
        names = names or tuple(problem.resources)
        anchors, self._seeds = opening(
            problem,
            self.limits,
            names,
            self._tables,
            landscape,
            np.random.default_rng([self._seed, 0]),
        )
        self.moves = Mix(MOVES)
        self._around = Neighbourhood(problem, landscape.table)
        self._attained = Attainment(problem, names)
        self._aim = Aim(problem, self.limits, anchors, self._attained, explore)
        self._trained = Trained(self._bases)
        self._proposer = Proposer(problem, self._around, self._attained)
        self._seen: set[Candidate] = set()
        self._complete: dict[Candidate, float] = {}
        self._turn: dict[Candidate, str] = {}
        self._planned: tuple[tuple[int, int], Plan | None] = ((-1, 0), None)
        self._passes = 0.0
        self._sloped: set[Candidate] = set()
        self._listing: Listing | None = None

    def attributes(self, candidate: Candidate) -> Mapping[str, object]:
        """The candidate's origin, for the record; nothing of it is needed when told."""
        return {"origin": self.origin[candidate]} if candidate in self.origin else {}

    def rival(self, candidate: Candidate) -> Candidate | None:
        """The complete trial that a candidate must beat to be of use; None if there is none."""
        trial = self._attained.rival(candidate)
        return trial.candidate if trial is not None else None

    def place(self) -> Candidate | None:
        """The best trial where it will look next, when it is far from all places with slopes."""
        if any(seed not in self._seen for seed in self._seeds):
            return None
        plan = self._plan()
        tangents = [basis.tangents for basis in self._bases if basis.tangents is not None]
        spent = self._passes + SLOPE_PASSES * len(self._sloped)
        paid = SLOPE_PASSES * (len(self._sloped) + 1) <= SLOPES * (spent + SLOPE_PASSES)
        if plan is None or not tangents or not paid:
            return None
        best = plan.parents[0]
        if best.loss <= 0 or best.candidate in self._sloped:
            return None
        far = tangents[0].distance(best.candidate) > RADIUS * best.loss
        return best.candidate if far else None

    def learn(self, candidate: Candidate, slopes: Floats) -> None:
        """Takes the slopes of the loss at a complete trial that was told before."""
        self._sloped.add(candidate)
        for basis in self._bases:
            if basis.tangents is not None:
                basis.tangents.add(candidate, self._complete[candidate], slopes)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Takes finished trials; a failed one (loss not finite) is only not proposed again."""
        for trial in trials:
            self._see(trial.candidate)
            self._passes += trial.passes
            forbidden = not self.problem.feasible(np.array([trial.candidate]), {})[0]
            if not np.isfinite(trial.loss) or forbidden:
                continue
            self._trained.trials.append(trial)
            complete = trial.spread == 0
            if complete:
                self._complete[trial.candidate] = trial.loss
            gain = self._attained.add(trial) if complete else 0.0
            move = self.origin.get(trial.candidate, "told")
            self.moves.tell(move, gain, trial.passes, complete, NOISE)
            if trial.candidate in self._turn:
                turn = self._turn[trial.candidate]
                self._aim.turns.tell(turn, gain, trial.passes, complete, NOISE)

    def ask(self, n: int) -> list[Candidate]:
        """Up to `n` new candidates; fewer when all within twice the limits are known."""
        batch: list[Candidate] = []
        for candidate in self._seeds:
            if len(batch) < n and candidate not in self._seen:
                self._propose(batch, candidate, "seed")
        rng = np.random.default_rng([self._seed, 1, len(self._seen)])
        fruitless = 0
        while len(batch) < n and fruitless < DRAWS:
            plan = self._plan(fruitless)
            if plan is None:
                break
            before = len(batch)
            count = min(SLOTS, n - before)
            self._bridge(batch, before + round(self._explore * count), rng)
            self._refine(batch, before + count, plan, rng)
            # Limits that were drawn may be so tight that all within them is known.
            fruitless = 0 if len(batch) > before else fruitless + 1
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

    def _plan(self, draw: int = 0) -> Plan | None:
        """Where to look next, the same until something new is seen; None if little is known.

        `draw` counts those that led nowhere.
        """
        state = (len(self._seen), draw)
        if self._planned[0] != state:
            rng = np.random.default_rng([self._seed, 2, *state])
            known = len(self._trained.trials) > 2
            self._planned = (state, self._aim.plan(rng) if known else None)
        return self._planned[1]

    def _bridge(self, batch: list[Candidate], most: int, rng: np.random.Generator) -> None:
        """Fills the batch up to `most` from between the trials of a front with given budgets."""
        if len(self.problem.front) != 1 or not self.problem.budgets:
            return
        tried = TRIED * (most - len(batch))
        near = self._bases[-1].around
        found = bridges(self._attained, self._around, near, self.limits, tried, self._seen, rng)
        while len(batch) < most and (candidate := next(found, None)) is not None:
            self._propose(batch, candidate, "bridge")

    def _refine(
        self, batch: list[Candidate], most: int, plan: Plan, rng: np.random.Generator
    ) -> None:
        """Fills the batch up to `most` from around the best of one anchor."""
        model = self._trained.around(plan.parents[0], plan.turn)
        moves = self.moves.draw(most - len(batch), rng)
        for candidate, move in self._proposer.propose(
            model, plan.parents, plan.limits, moves, plan.best, self._seen, rng
        ):
            self._propose(batch, candidate, move)
            self._turn[candidate] = plan.turn

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
