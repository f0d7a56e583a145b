"""Makes a file smaller while its weights are trained.

The coded length is part of the loss; its weight is turned up or down so that the bytes follow a
falling line to the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from autocompress.compression.code_length import CodeLength
from autocompress.compression.trainable import TrainableLayer
from autocompress.compression.treated import Treated


@dataclass(frozen=True)
class Squeeze:
    """A limit on bytes that training is to reach.

    Args:
        limit: Bytes of the file.
        size: Bytes of the file that treated layers make.
        shrinking: Share of the steps in which the size falls, geometrically, to the limit.
    """

    limit: int
    size: Callable[[Mapping[str, Treated]], int]
    shrinking: float = 0.6


class Pressure:
    """Weighs the coded length in the loss so that the file's size follows a falling line.

    Args:
        layers: What is trained.
        squeeze: The limit.
    """

    EVERY = 1 / 1000  # share of the steps after which the weight is changed
    # Of the logarithm of the excess, and the largest change of the weight's.
    GAIN, MOST = 0.2, 0.05
    FIRST = 0.05  # nats that all bits together count at first
    IDLE = 1e-3  # share of that where the limit is kept as it is
    AIM = 0.98  # share of the limit that is aimed at

    def __init__(self, layers: Mapping[str, TrainableLayer], squeeze: Squeeze) -> None:
        tensors = [tensor for layer in layers.values() for tensor in layer.coded_tensors]
        self._length = CodeLength(tensors)
        self._squeeze = squeeze
        self._beside = float(
            squeeze.size({name: layer.treated() for name, layer in layers.items()})
            - self._length.bytes
        )
        self._first = self._length.bytes
        self._changed_at = 0.0
        self.weight = self.FIRST / max(1.0, 8 * self._length.bytes)
        if self._length.bytes + self._beside <= squeeze.limit:
            self.weight *= self.IDLE

    def __call__(self, progress: float, rate: float) -> Tensor:
        """The penalty.

        Args:
            progress: Share of the steps that are done.
            rate: Share of the learning rate: where weights hardly move any more, the bytes do not
                either, and a weight that grew with the excess would only do harm.
        """
        if progress - self._changed_at >= self.EVERY:
            self._changed_at = progress
            wanted = max(1.0, self.AIM * self._squeeze.limit - self._beside)
            left = max(0.0, 1 - progress / self._squeeze.shrinking)
            goal = wanted * (max(self._first, wanted) / wanted) ** left
            excess = math.log(max(1.0, self._length.refresh()) / goal)
            self.weight *= math.exp(rate * max(-self.MOST, min(self.MOST, self.GAIN * excess)))
        return self.weight * self._length.penalty()

    def learn(self, size: int) -> None:
        """Takes the true size of the file: what lies beside the estimate changes slowly."""
        self._beside = size - self._length.refresh()
