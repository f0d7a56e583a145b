"""The surrogate around a trial, fitted to the trials that say most about its surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autocompress.search.problem import Floats
from autocompress.search.sampler import Trial
from autocompress.search.surrogate import Basis, Surrogate, fit

MOST_TRAINED = 128  # trials; the fit costs their number cubed
LATEST = 32  # of these are the latest, the others those with a loss like the centre's


class Trained:
    """Trials, and what is learnt from them.

    Args:
        bases: What the surrogate may correct; the one that explains the trials best is chosen.

    Attributes:
        trials: All with a finite loss, in order.
    """

    def __init__(self, bases: Sequence[Basis]) -> None:
        self.trials: list[Trial] = []
        self._bases = bases
        self._strengths: tuple[int, list[Floats]] = (0, [])
        self._chosen: dict[str, tuple[int, int]] = {}

    def around(self, centre: Trial, turn: str) -> Surrogate:
        """The posterior around a trial, under the basis that explains the trials there best.

        Args:
            centre: The trial.
            turn: Name of what it stands for; the choice is kept for each.
        """
        nearby = _nearby(centre, self.trials)
        # Chosen anew at powers of two, from the trials up to there: the strengths take long to
        # fit, and a restart at any trial chooses the same.
        whole = 1 << (len(self.trials).bit_length() - 1)
        if self._strengths[0] != whole:
            places = np.linspace(0, whole - 1, min(whole, MOST_TRAINED)).astype(int)
            trials = [self.trials[place] for place in dict.fromkeys(places.tolist())]
            self._strengths = (whole, [_fit(basis, trials).strengths for basis in self._bases])
        strengths = self._strengths[1]
        if self._chosen.get(turn, (0, 0))[0] != whole:
            pairs = zip(self._bases, strengths, strict=True)
            known = _nearby(centre, self.trials[:whole])
            evidence = [_fit(basis, known, given).evidence for basis, given in pairs]
            self._chosen[turn] = (whole, int(np.argmax(evidence)))
        best = self._chosen[turn][1]
        return _fit(self._bases[best], nearby, strengths[best])


def _nearby(centre: Trial, trials: list[Trial]) -> list[Trial]:
    """The latest trials, and those with a loss most like that of `centre`."""
    if len(trials) <= MOST_TRAINED:
        return trials
    losses = np.array([trial.loss for trial in trials[:-LATEST]])
    distance = np.abs(np.log(np.maximum(losses, 1e-300) / max(centre.loss, 1e-300)))
    places = np.argsort(distance, kind="stable")[: MOST_TRAINED - LATEST]
    return [*(trials[place] for place in places), *trials[-LATEST:]]


def _fit(basis: Basis, trials: Sequence[Trial], strengths: Floats | None = None) -> Surrogate:
    rows = np.array([trial.candidate for trial in trials])
    losses = np.array([trial.loss for trial in trials])
    return fit(basis, rows, losses, np.array([trial.spread for trial in trials]), strengths)
