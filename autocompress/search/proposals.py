"""The moves: each proposes candidates near the best ones of a budget; the surrogate picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np

from autocompress.search.acquisition import pick
from autocompress.search.attainment import Attainment
from autocompress.search.lagrange import solve_nearly
from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, crossed, descend, single_switches, switches
from autocompress.search.problem import Candidate, Integers, Problem
from autocompress.search.sampler import Trial
from autocompress.search.seeds import perturbed
from autocompress.search.space import as_tuples
from autocompress.search.surrogate import Surrogate

MOVES = ("relinearise", "switch", "perturb", "crossover")
POOL = 64  # candidates that a move puts before the surrogate
REACH = 4  # places in a menu, ordered by loss, that a switch spans
SIGMA = 0.3  # of the log-normal factors of units
DRAWS = 12  # perturbed tables at a time


class Proposer:
    """Makes the candidates of each move.

    * `relinearise`: downhill from the incumbent, on the landscape as corrected around it.
    * `switch`: the incumbent with one or two units changed.
    * `perturb`: solves one of the tables under random factors (SPDY, 2201.13096).
    * `crossover`: units of two archive members.

    Args:
        problem: Menus and costs.
        landscapes: Of all tables; the last one orders the menus.
        attained: What is known so far.
    """

    def __init__(
        self, problem: Problem, landscapes: Sequence[Landscape], attained: Attainment
    ) -> None:
        self._problem = problem
        self._attained = attained
        self._landscapes = landscapes
        self._around = Neighbourhood(problem, landscapes[-1].table)

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
            wider = switches(self._around, local, parents[0].candidate, limits, 4 * POOL)
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
            return switches(self._around, local, of, limits, POOL, REACH)
        if move == "relinearise":
            return self._downhill(local, parent, limits)
        if move == "perturb":
            # Any table: to look only where the best landscape leads teaches little of its errors.
            landscape = self._landscapes[int(rng.integers(len(self._landscapes)))]
            found = [
                solve_nearly(self._problem, shaken, limits, polish=False)
                for shaken in (perturbed(landscape.table, rng, SIGMA) for _ in range(DRAWS))
            ]
            return np.array([row for row in found if row is not None]).reshape(-1, len(parent))
        others = self._attained.trials
        mates = [others[i] for i in rng.choice(len(others), size=min(6, len(others)))]
        rows = crossed(parent, [trial.candidate for trial in mates], 2 * POOL, rng)
        rows = rows[self._problem.feasible(rows, limits)]
        return rows[np.argsort(local.values(rows), kind="stable")[:POOL]]

    def _downhill(
        self, landscape: Landscape, start: Candidate, limits: Mapping[str, float]
    ) -> Integers:
        """Where a landscape leads from a candidate, and the best around it."""
        found = descend(self._around, landscape, start, limits)
        near = switches(self._around, landscape, found, limits, POOL // 2, 2)
        return np.concatenate([np.array([found]), near])

    def _local(self, model: Surrogate, centre: Candidate) -> Landscape:
        """The landscape corrected, option by option, by the surrogate at single switches."""
        problem, landscape = self._problem, model.basis.landscape
        rows, units = single_switches(problem, centre, self._around.menus(centre, REACH))
        factors = np.zeros(sum(problem.sizes))
        if len(rows):
            here = np.array([centre], dtype=np.int64)
            rows = np.concatenate([here, rows])
            wrong = model.mean(rows) - np.log(landscape.quadratic(rows))
            options = landscape.starts[units] + rows[np.arange(1, len(rows)), units]
            factors[options] = wrong[1:] - wrong[0]
        return landscape.with_factors(factors)
