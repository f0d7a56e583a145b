"""Calibration statistics of all layers, a few layers at a time.

All second moments together can outweigh the model: a layer of `d` inputs takes `8 d^2` bytes for
its moment and `4 d * out` for its weights.  They are collected for groups of successive layers
that fit an allowance, with one pass of the calibration inputs for each group; no more than one
group is held.  What is found of a layer does not depend on the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from torch import nn

from autocompress.compression.moments import (
    DAMPING,
    SAMPLE_BYTES,
    SAMPLE_EXAMPLES,
    Statistics,
    collect,
)
from autocompress.model.layer import Layer, matrix_shape
from autocompress.model.memory import allowance, give_back
from autocompress.model.task import Inputs

SHARE = 0.25  # of the model's bytes, for one group
LEAST = 2**26  # granted to small models


class Calibration(Mapping[str, Statistics]):
    """Layer to its statistics, collected when one of its group is asked for.

    Cheapest when layers are asked for in their order.

    Args:
        model: In evaluation mode; not changed.
        layers: The layers that are treated, in running order.
        inputs: `(n, ...)` for each input of the model.
        damping: What `Statistics` records for those who invert the moments.
        room: Bytes that the statistics of one group may take; a layer that takes more is a group
            of its own.  None is a share of the model's size.

    Attributes:
        groups: Names of the layers of each group.
        passes: How often the calibration inputs went through the model.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        inputs: Inputs,
        damping: float = DAMPING,
        room: int | None = None,
    ) -> None:
        self._model = model
        self._layers = tuple(layers)
        self._inputs = inputs
        self._damping = damping
        room = allowance(model, SHARE, LEAST) if room is None else room
        self.groups = _grouped(self._layers, len(inputs[0]), room)
        self.passes = 0
        self._held: dict[str, Statistics] = {}

    def __getitem__(self, name: str) -> Statistics:
        if name not in self._held:
            group = next((group for group in self.groups if name in group), None)
            if group is None:
                raise KeyError(name)
            self.release()  # before the next ones are made
            self._held = collect(
                self._model, self._layers, self._inputs, damping=self._damping, only=group
            )
            self.passes += 1
            give_back()
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return (layer.name for layer in self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def release(self) -> None:
        """Drops what is held; it is collected again when it is asked for."""
        self._held = {}


def statistics_bytes(layer: Layer, examples: int) -> int:
    """About how many bytes the statistics of a layer take while they are collected.

    Args:
        layer: As it was traced.
        examples: How many calibration examples there are.
    """
    columns = matrix_shape(layer.weight_shape)[1]
    each = 4 * prod(layer.input_shape[1:])
    samples = min(examples * each, max(each, SAMPLE_BYTES), SAMPLE_EXAMPLES * each)
    return 8 * columns**2 * layer.groups + samples


def _grouped(layers: Sequence[Layer], examples: int, room: int) -> tuple[tuple[str, ...], ...]:
    groups: list[list[str]] = []
    taken = 0
    for layer in layers:
        size = statistics_bytes(layer, examples)
        if not groups or taken + size > room:
            groups.append([])
            taken = 0
        groups[-1].append(layer.name)
        taken += size
    return tuple(map(tuple, groups))
