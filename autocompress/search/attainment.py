"""What has been attained so far: for any limits the least loss among complete trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.search.problem import LOSS, Candidate, Floats, Problem, slack
from autocompress.search.sampler import Trial

# Costs this much larger count as equal: a candidate must beat what costs a little more than it.
NEAR = 0.01
FIRST = 0.05  # gain of a candidate that is cheaper than all others


class Attainment:
    """The complete trials that no other one beats in loss and in every watched cost.

    Args:
        problem: Gives the costs.
        names: Resources that are watched.
    """

    def __init__(self, problem: Problem, names: Sequence[str]) -> None:
        self.problem = problem
        self.names = tuple(names)
        self.trials: list[Trial] = []
        self._costs = np.zeros((0, len(self.names)))
        self._losses = np.zeros(0)

    def cost(self, candidate: Candidate) -> Floats:
        """Watched costs `(names,)`."""
        row = np.array([candidate], dtype=np.int64)
        return np.array([self.problem.costs(name, row)[0] for name in self.names])

    def add(self, trial: Trial) -> float:
        """Takes a complete trial.

        Returns:
            How far the log loss fell below that of the rival: at least 0; `FIRST` if nothing was
            known that costs so little.
        """
        costs = self.cost(trial.candidate)
        rival = self.rival(trial.candidate)
        if (((self._costs <= costs).all(axis=1)) & (self._losses <= trial.loss)).any():
            return 0.0
        gain = FIRST
        if rival is not None:
            gain = float(np.log(max(rival.loss, 1e-300) / max(trial.loss, 1e-300)))
        beaten = (self._costs >= costs).all(axis=1) & (self._losses >= trial.loss)
        self.trials = [t for t, gone in zip(self.trials, beaten, strict=True) if not gone]
        self._costs = np.vstack([self._costs[~beaten], costs])
        self._losses = np.append(self._losses[~beaten], trial.loss)
        self.trials.append(trial)
        return max(gain, 0.0)

    def rival(self, candidate: Candidate) -> Trial | None:
        """The trial that a new candidate must beat: the best that costs at most a little more."""
        within = (self._costs <= self.cost(candidate) * (1 + NEAR)).all(axis=1)
        if not within.any():
            return None
        places = np.flatnonzero(within)
        place = int(places[int(np.argmin(self._losses[within]))])
        return self.trials[place]

    def best(self, limits: Mapping[str, float], count: int = 1) -> list[Trial]:
        """The `count` trials of least loss within limits on watched resources; fewer if so."""
        within = self._within(limits)
        places = np.flatnonzero(within)
        order = np.argsort(self._losses[within], kind="stable")[:count]
        return [self.trials[place] for place in places[order]]

    def steps(self, count: int) -> list[tuple[Trial, Trial, float]]:
        """The `count` largest steps of a front of one cost, in the plane of logarithms.

        Returns:
            For each the trials at its cheaper and its dearer end, and the cost halfway.
        """
        order = np.argsort(self._costs[:, 0], kind="stable")
        costs, losses = self._costs[order, 0], self._losses[order]
        wide = np.diff(np.log(costs))
        high = -np.diff(np.log(np.maximum(losses, 1e-300)))
        largest = np.argsort(-wide * high, kind="stable")[:count]
        return [
            (
                self.trials[order[place]],
                self.trials[order[place + 1]],
                float(np.sqrt(costs[place] * costs[place + 1])),
            )
            for place in largest
        ]

    def nearest(self, limits: Mapping[str, float]) -> Trial | None:
        """The trial that exceeds the limits least, None when there is no trial."""
        if not self.trials:
            return None
        over = np.zeros(len(self.trials))
        for index, name in enumerate(self.names):
            if name in limits:
                over += np.maximum(0.0, self._costs[:, index] / slack(limits[name]) - 1)
        return self.trials[int(np.lexsort((self._losses, over))[0])]

    def _within(self, limits: Mapping[str, float]) -> np.ndarray:
        within = np.ones(len(self.trials), dtype=np.bool_)
        for name, limit in limits.items():
            if name == LOSS:
                within &= self._losses <= slack(limit)
            elif name in self.names:
                within &= self._costs[:, self.names.index(name)] <= slack(limit)
        return within
