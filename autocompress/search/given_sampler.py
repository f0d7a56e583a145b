"""Candidates that are known beforehand, such as the front of an earlier run, asked one by one."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.search.problem import Candidate
from autocompress.search.sampler import Sampler, Trial


class GivenSampler(Sampler):
    """Asks for the candidates it is given, in their order, each once and measured in full.

    Args:
        candidates: Option index per unit.
        origin: What their trials say proposed them.
    """

    def __init__(self, candidates: Sequence[Candidate], origin: str) -> None:
        self.origin: dict[Candidate, str] = dict.fromkeys(candidates, origin)
        self._left = list(self.origin)

    def ask(self, n: int) -> list[Candidate]:
        """The next `n` candidates."""
        asked, self._left = self._left[:n], self._left[n:]
        return asked

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing is learnt."""
        del trials
