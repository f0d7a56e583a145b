"""A landscape made right at a few candidates: there it has the measured loss and its slopes.

Far from the original the pushes of layers are no longer those that single swaps showed.  A
backward pass at a candidate `c0` tells to first order what each switch does *there*; the quadratic
part is kept, from there: `F(c) = F(c0) + slopes . (c - c0) + r |sum_u (w_u(c) - w_u(c0))|^2`,
where `r` is the factor by which the landscape is too low at `c0`.  Each candidate is judged by the
nearest such place; the farther it is, the more by the landscape times `r` alone.
"""

from __future__ import annotations

import numpy as np

from autocompress.search.landscape import LEAST, Landscape
from autocompress.search.problem import Candidate, Floats, Integers

TRUST = 0.1  # of a place's loss: the squared push within which its slopes are believed


class Tangents:
    """Losses predicted from the nearest of several places.

    Args:
        landscape: With products; its own place is the original.
    """

    def __init__(self, landscape: Landscape) -> None:
        self.landscape = landscape
        count = len(landscape.flat)
        self._places: set[Candidate] = set()
        self._pulls = np.zeros((0, count))
        self._shifts = np.zeros((0, count))
        # For each place: its loss, the landscape's there, squared push, and what completes F.
        self._numbers = np.zeros((0, 4))

    def __contains__(self, candidate: object) -> bool:
        return candidate in self._places

    def add(self, candidate: Candidate, loss: float, slopes: Floats) -> None:
        """Takes a place; one that is known already is left as it is.

        Args:
            candidate: Where.
            loss: Measured there, positive.
            slopes: `(all options,)` what switching one unit to an option changes, to first order.
        """
        products = self.landscape.products
        assert products is not None
        if candidate in self._places:
            return
        self._places.add(candidate)
        here = self.landscape.starts + np.array(candidate)
        pull = products[:, here].sum(axis=1)
        form = float(self.landscape.quadratic(np.array([candidate]))[0])
        scale = max(1.0, loss / form)
        # The shift trades the landscape's own slopes at this place for those that were measured.
        shift = slopes - 2 * scale * pull
        offset = loss - scale * form - float(shift[here].sum())
        self._pulls = np.vstack([self._pulls, pull])
        self._shifts = np.vstack([self._shifts, shift])
        self._numbers = np.vstack([self._numbers, [loss, form, pull[here].sum(), offset]])

    def log_losses(self, candidates: Integers) -> Floats:
        """Log losses `(n,)` of candidates `(n, units)`."""
        form = self.landscape.quadratic(candidates)
        if not self._places:
            return np.log(form)
        chosen = self.landscape.starts + candidates
        distances = self._distances(form, chosen)
        nearest = np.argmin(distances, axis=0)
        loss, own, _, offset = self._numbers[nearest].T
        scale = np.maximum(1.0, loss / own)
        plain = form * loss / own
        sloped = scale * form + self._shifts[nearest[:, None], chosen].sum(axis=1) + offset
        sloped = np.maximum(sloped, LEAST * plain)
        distance = np.maximum(distances[nearest, np.arange(len(nearest))], 0.0)
        trust = np.exp(-distance / (TRUST * loss))
        return np.asarray(trust * np.log(sloped) + (1 - trust) * np.log(plain))

    def around(self, candidate: Candidate) -> Landscape:
        """The landscape of the place nearest to a candidate."""
        if not self._places:
            return self.landscape
        place = int(np.argmin(self._near(candidate)))
        loss, own, _, offset = self._numbers[place].tolist()
        return self.landscape.shifted(max(1.0, loss / own), self._shifts[place], offset)

    def distance(self, candidate: Candidate) -> float:
        """Squared push from the nearest place to a candidate, in units of loss; infinite
        without one."""
        return float(self._near(candidate).min(initial=np.inf))

    def _near(self, candidate: Candidate) -> Floats:
        rows = np.array([candidate], dtype=np.int64)
        form = self.landscape.quadratic(rows)
        return self._distances(form, self.landscape.starts + rows)[:, 0]

    def _distances(self, form: Floats, chosen: Integers) -> Floats:
        """`(places, n)` from every place, given the quadratic form and options `(n, units)`."""
        pulled = self._pulls[:, chosen].sum(axis=2)
        return np.asarray(form + self._numbers[:, 2:3] - 2 * pulled)
