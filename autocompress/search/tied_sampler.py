"""Our sampler where units share widths: a few choices of the widths compete for evaluations.

Each choice of widths that the tables prefer has a `BudgetSampler` of its own.  Their shares follow
what each has earned of late, as the shares of moves do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from autocompress.search.attainment import Attainment
from autocompress.search.budget_sampler import EXPLORE, NOISE, BudgetSampler
from autocompress.search.mix import Mix
from autocompress.search.problem import Candidate, Floats, Problem
from autocompress.search.sampler import Sampler, Trial
from autocompress.search.surrogate import blend
from autocompress.search.widths import Narrowed, Widths, promising, widths_of

ARMS = 4  # choices of widths that compete


class TiedSampler(Sampler):
    """Proposes candidates whose tied units agree; repeats none.

    Args:
        problem: Loss tables, costs, limits and ties.
        rng: Gives the seeds.
        explore: As for `BudgetSampler`.

    Attributes:
        origin: What proposed each candidate, as for `BudgetSampler`.
        moves: What each choice of widths has earned, by its levels such as `widths 0 1 0`.
    """

    def __init__(
        self, problem: Problem, rng: np.random.Generator, explore: float = EXPLORE
    ) -> None:
        self.problem = problem
        self.origin: dict[Candidate, str] = {}
        tables = list(problem.losses.values())
        chosen = promising(problem, blend(tables) if len(tables) > 1 else tables[-1], ARMS)
        self._arms: dict[str, tuple[Narrowed, BudgetSampler]] = {
            _name(fixed.widths): (fixed, BudgetSampler(fixed.problem, rng, explore))
            for fixed in chosen
        }
        self.moves = Mix(list(self._arms))
        self._attained = Attainment(problem, problem.front or tuple(problem.resources))
        self._seed = int(rng.integers(2**62))
        self._asked = 0
        self._latest = next(iter(self._arms))

    def ask(self, n: int) -> list[Candidate]:
        """Up to `n` new candidates; fewer when all that any widths allow are known."""
        if n < 1:
            return []
        rng = np.random.default_rng([self._seed, self._asked])
        batch: list[Candidate] = []
        shares = Counter(self.moves.draw(n, rng))
        # Those that were drawn most first; who has nothing left leaves it to the others.
        for name in sorted(self._arms, key=lambda name: -shares[name]):
            self._ask(batch, name, min(shares[name], n - len(batch)))
        for name in self._arms:
            self._ask(batch, name, n - len(batch))
        self._latest = shares.most_common(1)[0][0]
        self._asked += n
        return batch

    def _ask(self, batch: list[Candidate], name: str, count: int) -> None:
        fixed, sampler = self._arms[name]
        for own in sampler.ask(count) if count > 0 else []:
            candidate = fixed.widen(own)
            self.origin[candidate] = sampler.origin.get(own, "")
            batch.append(candidate)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Takes finished trials; each belongs to the widths that it has."""
        own: dict[str, list[Trial]] = {}
        for trial in trials:
            name = _name(widths_of(self.problem, trial.candidate))
            complete = trial.spread == 0 and bool(np.isfinite(trial.loss))
            gain = self._attained.add(trial) if complete else 0.0
            self.moves.tell(name, gain, trial.passes, complete, NOISE)
            if name in self._arms:
                narrow = self._arms[name][0].narrow(trial.candidate)
                if narrow is not None:
                    own.setdefault(name, []).append(replace(trial, candidate=narrow))
        for name, told in own.items():
            self._arms[name][1].tell(told)

    def place(self) -> Candidate | None:
        """Where the widths that were asked most of late want slopes."""
        fixed, sampler = self._arms[self._latest]
        place = sampler.place()
        return fixed.widen(place) if place is not None else None

    def learn(self, candidate: Candidate, slopes: Floats) -> None:
        """Hands the slopes to the widths that the candidate has."""
        fixed, sampler = self._arms[_name(widths_of(self.problem, candidate))]
        own = fixed.narrow(candidate)
        assert own is not None
        sampler.learn(own, slopes[fixed.columns(self.problem.sizes)])

    def rival(self, candidate: Candidate) -> Candidate | None:
        """The complete trial, of any widths, that a candidate must beat to be of use."""
        trial = self._attained.rival(candidate)
        return trial.candidate if trial is not None else None

    def attributes(self, candidate: Candidate) -> Mapping[str, object]:
        """The candidate's origin, for the record."""
        return {"origin": self.origin[candidate]} if candidate in self.origin else {}


def _name(widths: Widths) -> str:
    return "widths " + " ".join(map(str, widths))
