"""What a candidate costs beyond its loss, and what ties its units: numbers by unit and option.

Costs are additive over units, plus edges that charge the conversion between a float and an int8
neighbour, plus what several int8 units bring about together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Edge:
    """A conversion between two neighbours; `None` is the outside of the model, which is float.

    Args:
        tail: Index of the unit that gives the tensor, or None.
        head: Index of the unit that reads it, or None.
        up: Cost when the tail has label 0 (float) and the head label 1 (int8).
        down: Cost when the tail has label 1 and the head label 0.
    """

    tail: int | None
    head: int | None
    up: float
    down: float


@dataclass(frozen=True)
class Joint:
    """What is charged once where several units have label 1, such as the saving of a residual
    addition that integers do.

    Args:
        units: Indices of these units, each once.
        cost: Less than zero for a saving.
    """

    units: tuple[int, ...]
    cost: float


@dataclass(frozen=True, eq=False)
class Resource:
    """A cost of the whole model, such as `size_bytes` or `latency_ms`; less is better.

    Args:
        constant: What every candidate pays.
        units: For each unit the cost `(options,)` of its options.
        edges: Conversions between neighbours.
        joints: What several units bring about together.
    """

    constant: float
    units: tuple[NDArray[np.float64], ...]
    edges: tuple[Edge, ...] = ()
    joints: tuple[Joint, ...] = ()


@dataclass(frozen=True, eq=False)
class Tie:
    """A width that several units share: their options must be of one level.

    Args:
        name: For messages.
        levels: Index of a unit to the level `(options,)` of each of its options.
    """

    name: str
    levels: Mapping[int, NDArray[np.int64]]
