"""Where a search looks next: an anchor that is drawn by what it has earned, and limits near it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.search.attainment import Attainment
from autocompress.search.mix import Mix
from autocompress.search.problem import LOSS, Problem
from autocompress.search.sampler import Trial
from autocompress.search.seeds import scaled_limits

RANGE = (0.5, 2.0)  # of the limits, for those that are moved away from a single budget
STEPS = (0.999, 0.98, 0.95, 0.85, 0.7)  # of the least cost so far, where a cost is made small
ASIDE = 0.5  # of the way to the next anchor of a front, at most


@dataclass(frozen=True)
class Plan:
    """Where the next candidates are looked for.

    Args:
        turn: Name of the anchor.
        limits: On resources.
        parents: The best trials within them, best first; at least one.
        best: Log loss to improve on.
    """

    turn: str
    limits: Mapping[str, float]
    parents: Sequence[Trial]
    best: float


class Aim:
    """Draws plans.

    Args:
        problem: What is asked.
        limits: Those that can be kept.
        anchors: Limits on resources by name, for each anchor.
        attained: What is known.
        explore: Share of the plans that look away from a single budget.

    Attributes:
        turns: What the anchors have earned.
    """

    def __init__(
        self,
        problem: Problem,
        limits: Mapping[str, float],
        anchors: Sequence[Mapping[str, float]],
        attained: Attainment,
        explore: float,
    ) -> None:
        self.turns = Mix([str(index) for index in range(len(anchors))])
        self._problem = problem
        self._limits = limits
        self._anchors = anchors
        self._attained = attained
        self._explore = explore

    def plan(self, rng: np.random.Generator) -> Plan | None:
        """A plan for an anchor; each has its first turn before any has another.  None as long as
        nothing is known."""
        if not self._attained.trials:
            return None
        fresh = [name for name in self.turns.names if name not in self.turns.moves]
        turn = fresh[0] if fresh else self.turns.draw(1, rng)[0]
        limits, best = self._aim(dict(self._anchors[int(turn)]), rng)
        nearest = self._attained.nearest(limits)
        assert nearest is not None
        parents = self._attained.best(limits, 3) or [nearest]
        if best is None:
            best = float(np.log(max(parents[0].loss, 1e-300)))
        return Plan(turn, limits, parents, best)

    def _aim(
        self, limits: dict[str, float], rng: np.random.Generator
    ) -> tuple[dict[str, float], float | None]:
        """Limits on resources to propose under, and the log loss to get below if it is given."""
        name = self._problem.minimise
        if name != LOSS:
            most = self._limits.get(LOSS, np.inf)
            known = len(self._attained.trials)
            met = self._attained.best({**limits, LOSS: most}, known)
            if met:
                least = min(self._problem.cost(name, trial.candidate) for trial in met)
                step = float(rng.choice(STEPS))
                limits[name] = min(limits.get(name, np.inf), least * step)
            return limits, float(np.log(max(most, 1e-300))) if np.isfinite(most) else None
        if self._problem.front and not self._problem.budgets:
            # Anchors that were only spread over the front stand for what lies around them.
            return self._beside(limits, rng), None
        if not self._problem.front and limits and rng.random() < self._explore:
            factor = float(np.exp(rng.uniform(*np.log(RANGE))))
            return scaled_limits(self._problem, limits, factor), None
        return limits, None

    def _beside(self, limits: dict[str, float], rng: np.random.Generator) -> dict[str, float]:
        """Limits a part of the way, in logarithms, to one of the nearest anchors."""
        names = self._attained.names
        points = np.log([[a.get(n, np.inf) for n in names] for a in self._anchors])
        here = np.log([limits.get(name, np.inf) for name in names])
        with np.errstate(invalid="ignore"):
            distance = np.nansum(np.abs(points - here), axis=1)
        others = np.argsort(distance, kind="stable")[1 : 1 + 2 * len(names)]
        if not len(others):
            return limits
        other = self._anchors[int(rng.choice(others))]
        way = float(rng.uniform(0, ASIDE))
        return {
            name: float(limit ** (1 - way) * other.get(name, limit) ** way)
            for name, limit in limits.items()
        }
