"""Which move proposes next: shares follow what each move has earned for its price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.search.problem import Floats

FLOOR = 0.5  # share that is dealt out evenly: what pays changes during a search
MEMORY = 0.97  # weight of the past at each trial of a move
LARGEST_GAIN = 1.0  # a log loss can fall without bounds where little was known


@dataclass
class Move:
    """What a move has done.

    Args:
        name: Such as `switch`.
        asked: Candidates it proposed.
        complete: Those that were measured on all examples.
        improved: Those that moved the front.
        earned: Sum of the falls of the log loss that they brought.
        passes: What all of them cost.
    """

    name: str
    asked: int = 0
    complete: int = 0
    improved: int = 0
    earned: float = 0.0
    passes: float = 0.0


class Mix:
    """Draws moves in proportion to their recent earnings a pass, with a floor.

    Args:
        names: The moves that compete.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.moves: dict[str, Move] = {}
        # Optimistic starts: every move is worth a try.
        self._earned = dict.fromkeys(self.names, 0.1)
        self._passes = dict.fromkeys(self.names, 1.0)

    def tell(self, name: str, gain: float, passes: float, complete: bool, floor: float) -> None:
        """Counts a finished trial.

        Args:
            name: The move that proposed it; one that does not compete is only counted.
            gain: Fall of the log loss.
            passes: What it cost.
            complete: Whether it was measured on all examples.
            floor: Gains up to this are noise.
        """
        move = self.moves.setdefault(name, Move(name))
        earned = min(gain, LARGEST_GAIN) if gain > floor else 0.0
        move.asked += 1
        move.complete += complete
        move.improved += earned > 0
        move.earned += earned
        move.passes += passes
        if name in self._earned:
            self._earned[name] = MEMORY * self._earned[name] + earned
            self._passes[name] = MEMORY * self._passes[name] + passes

    def shares(self) -> Floats:
        """Probability of each of `names`."""
        rates = np.array([self._earned[n] / max(self._passes[n], 1e-9) for n in self.names])
        total = rates.sum()
        rates = rates / total if total > 0 else np.full(len(rates), 1 / len(rates))
        return np.asarray(FLOOR / len(rates) + (1 - FLOOR) * rates)

    def draw(self, count: int, rng: np.random.Generator) -> list[str]:
        """The moves of the next `count` proposals."""
        return [str(name) for name in rng.choice(self.names, size=count, p=self.shares())]
