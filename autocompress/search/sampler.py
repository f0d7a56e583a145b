"""What proposes candidates: the `Sampler` protocol and the record of a finished trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autocompress.search.problem import Candidate, Floats

SLOPE_PASSES = 3.0  # that slopes cost: a forward pass, and a backward pass at twice its work


@dataclass(frozen=True)
class Trial:
    """An evaluated candidate.

    Args:
        candidate: Option index per unit.
        loss: Measured loss of the whole model; NaN or infinity when the evaluation failed.
        resources: Costs by name, such as `size_bytes`.
        attributes: What the sampler gave for this candidate (`Sampler.attributes`), so that a
            sampler that keeps its state in its trials goes on after a restart.
        spread: Relative standard error of `loss`: 0 when measured on every example, more when the
            race dropped the candidate before.
        passes: On which share of the examples it was measured.  (Reused activations save work, but
            how much is a matter of luck that no decision may hang on.)
    """

    candidate: Candidate
    loss: float
    resources: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)
    spread: float = 0.0
    passes: float = 1.0


class Sampler(Protocol):
    """Proposes candidates and learns from trials.

    `origin` says for each proposed candidate what earned it, such as `seed` or `switch`.  What one
    does not need of the last methods (racing, slopes, a state kept in its trials), it inherits.
    """

    origin: dict[Candidate, str]

    def ask(self, n: int) -> list[Candidate]:
        """Up to `n` candidates, none told or asked before; fewer when none are left."""
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """Takes finished trials, whoever proposed them (also those of an earlier process)."""
        ...

    def place(self) -> Candidate | None:
        """A complete trial at which the slopes of the loss would help; None for none."""
        return None

    def learn(self, candidate: Candidate, slopes: Floats) -> None:
        """Takes the slopes at a `place`.

        Args:
            candidate: The place.
            slopes: `(all options,)` in the order of units and options: what switching one unit to
                an option adds to the loss, to first order.
        """
        del candidate, slopes

    def rival(self, candidate: Candidate) -> Candidate | None:
        """The complete trial that a candidate must beat to be of use; None measures it fully."""
        del candidate
        return None

    def attributes(self, candidate: Candidate) -> Mapping[str, object]:
        """Plain JSON to store with the trial of a candidate and to hand back in `Trial`."""
        del candidate
        return {}
