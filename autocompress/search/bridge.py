"""Candidates between two of the front: where it has its largest steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set

import numpy as np

from autocompress.search.attainment import Attainment
from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, descend
from autocompress.search.problem import Candidate
from autocompress.search.sampler import Trial

SHAKE = 0.1  # of the log factors of options, where the same was found before


def bridges(
    attained: Attainment,
    around: Neighbourhood,
    landscape: Callable[[Candidate], Landscape],
    limits: Mapping[str, float],
    most: int,
    seen: Set[Candidate],
    rng: np.random.Generator,
) -> Iterator[Candidate]:
    """New candidates, one for each of the `most` largest steps where there is any.

    Args:
        attained: The front, of one cost.
        around: Menus and costs.
        landscape: Predicts losses near a candidate.
        limits: On all costs.
        most: Steps that are looked at.
        seen: What must not come back.
        rng: Shakes a landscape that leads to what was seen.
    """
    for cheap, dear, cost in attained.steps(most):
        within = {**limits, attained.names[0]: cost}
        found = _between((cheap, dear), around, landscape, within, seen, rng)
        if found is not None:
            yield found


def _between(
    ends: tuple[Trial, Trial],
    around: Neighbourhood,
    landscape: Callable[[Candidate], Landscape],
    limits: Mapping[str, float],
    seen: Set[Candidate],
    rng: np.random.Generator,
) -> Candidate | None:
    """Where the landscape leads from either end of a step under limits between them."""
    for shake in (0.0, SHAKE):
        for trial in ends:
            guess = landscape(trial.candidate)
            if shake:
                guess = guess.with_factors(rng.normal(0, shake, len(guess.flat)))
            found = descend(around, guess, trial.candidate, limits)
            if found not in seen and around.problem.feasible(np.array([found]), limits)[0]:
                return found
    return None
