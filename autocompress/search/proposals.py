"""The moves: each proposes candidates near the best ones of a budget; the surrogate picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np

from autocompress.search.acquisition import pick
from autocompress.search.attainment import Attainment
from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, crossed, descent, single_switches, switches
from autocompress.search.problem import Candidate, Integers, Problem
from autocompress.search.sampler import Trial
from autocompress.search.space import as_tuples
from autocompress.search.surrogate import Surrogate

MOVES = ("relinearise", "switch", "perturb", "crossover")
POOL = 64  # candidates that a move puts before the surrogate
SINGLES = 176  # switches of one unit that are looked at
DRAWS = 6  # perturbed landscapes at a time
SHAKE = 0.03  # of their log factors
STEPS = 4  # most that is gone downhill on one


class Proposer:
    """Makes the candidates of each move.

    * `relinearise`: downhill from the incumbent, on the landscape as corrected around it.
    * `switch`: the incumbent with one or two units changed.
    * `perturb`: downhill under random factors of options (as SPDY does on a table, 2201.13096).
    * `crossover`: units of two archive members.

    Args:
        problem: Menus and costs.
        around: Its menus in order.
        attained: What is known so far.
    """

    def __init__(self, problem: Problem, around: Neighbourhood, attained: Attainment) -> None:
        self._problem = problem
        self._attained = attained
        self._around = around

    def propose(
        self,
        model: Surrogate,
        parents: Sequence[Trial],
        limits: Mapping[str, float],
        moves: Sequence[str],
        best: float,
        seen: Set[Candidate],
        rng: np.random.Generator,
    ) -> list[tuple[Candidate, str]]:
        """One new candidate for each of `moves` with its move, where there are that many.

        Args:
            model: Predicts log losses.
            parents: The best trials of the budget, best first.
            limits: That budget.
            moves: Which moves to make, with repeats.
            best: Log loss to improve on.
            seen: Candidates that must not come back.
            rng: For the random moves.
        """
        local = self._local(model, parents[0].candidate)
        pool: dict[Candidate, str] = {}
        for move in dict.fromkeys(moves):
            for candidate in as_tuples(self._rows(move, parents, local, limits, rng)):
                if candidate not in seen:
                    pool.setdefault(candidate, move)
        if len(pool) < len(moves):
            # So many that they cannot all have been seen, where there are so many.
            wider = switches(
                self._around, local, parents[0].candidate, limits, 4 * POOL + len(seen)
            )
            for candidate in as_tuples(wider):
                if candidate not in seen:
                    pool.setdefault(candidate, "switch")
        if not pool:
            return []
        names = list(pool)
        rows = np.array(names, dtype=np.int64)
        owners = np.array(list(pool.values()))
        chosen = pick(model, rows, owners, moves, best)
        return [(names[index], pool[names[index]]) for index in chosen]

    def _rows(
        self,
        move: str,
        parents: Sequence[Trial],
        local: Landscape,
        limits: Mapping[str, float],
        rng: np.random.Generator,
    ) -> Integers:
        parent = parents[0].candidate
        if move == "switch":
            of = parents[int(rng.integers(len(parents)))].candidate
            return switches(self._around, local, of, limits, POOL, self._around.reach(SINGLES))
        if move == "relinearise":
            return self._downhill(local, parent, limits)
        if move == "perturb":
            found = [parent]
            for _ in range(DRAWS):
                factors = rng.normal(0, SHAKE, len(local.flat))
                shaken = local.with_factors(
                    factors + (0 if local.factors is None else local.factors)
                )
                found += descent(self._around, shaken, parent, limits, STEPS)[1:]
            return np.array(found)
        others = self._attained.trials
        mates = [others[i] for i in rng.choice(len(others), size=min(6, len(others)))]
        rows = crossed(parent, [trial.candidate for trial in mates], 2 * POOL, rng)
        rows = rows[self._problem.feasible(rows, limits)]
        return rows[np.argsort(local.values(rows), kind="stable")[:POOL]]

    def _downhill(
        self, landscape: Landscape, start: Candidate, limits: Mapping[str, float]
    ) -> Integers:
        """The way that a landscape leads from a candidate, and the best around its end."""
        way = descent(self._around, landscape, start, limits)
        near = switches(self._around, landscape, way[-1], limits, POOL // 2, 2)
        return np.concatenate([np.array(way), near])

    def _local(self, model: Surrogate, centre: Candidate) -> Landscape:
        """The landscape corrected, option by option, by the surrogate at single switches."""
        problem, landscape = self._problem, model.basis.around(centre)
        rows, units = single_switches(
            problem, centre, self._around.menus(centre, self._around.reach(SINGLES))
        )
        factors = np.zeros(sum(problem.sizes))
        if len(rows):
            here = np.array([centre], dtype=np.int64)
            rows = np.concatenate([here, rows])
            wrong = model.mean(rows) - np.log(landscape.quadratic(rows))
            options = landscape.starts[units] + rows[np.arange(1, len(rows)), units]
            factors[options] = wrong[1:] - wrong[0]
        return landscape.with_factors(factors)
