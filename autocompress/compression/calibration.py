"""Calibration statistics of all layers, a few layers at a time.

All second moments together can outweigh the model: a layer of `d` inputs takes `8 d^2` bytes for
its moment and `4 d * out` for its weights.  They are collected for groups of successive layers
that fit an allowance; no more than one group is held.  Where the model is a chain of blocks, only
the block that a group is in runs, on what the blocks before have given; else the calibration
inputs pass through the whole model for each group.  What is found of a layer depends on neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from math import prod

from torch import nn

from autocompress.compression.moments import (
    DAMPING,
    SAMPLE_BYTES,
    SAMPLE_EXAMPLES,
    Statistics,
    collect,
)
from autocompress.compression.treated import Grid
from autocompress.model.blocks import find_chain
from autocompress.model.chain import Chain, Walk
from autocompress.model.layer import Layer, matrix_shape
from autocompress.model.memory import allowance, give_back
from autocompress.model.task import Inputs

SHARE = 0.25  # of the model's bytes, for one group
LEAST = 2**26  # granted to small models
FEW = 2  # groups up to which passes of the whole model are cheap
BATCH = 128  # examples in one forward pass


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
        passes: How often the calibration inputs went through the whole model.
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
        self._room = room
        self.groups = _grouped(self._layers, len(inputs[0]), room)
        self._chain: Chain | None = None
        self._walk: Walk | None = None
        if len(self.groups) > FEW:
            self._chain = find_chain(model, tuple(tensor[:1] for tensor in inputs))
        if self._chain is not None:
            self.groups = _grouped(self._layers, len(inputs[0]), room, self._chain.stage)
        self.passes = 0
        self._held: dict[str, Statistics] = {}
        self._grids: dict[str, Grid] = {}  # of outputs, for layers behind that take them over

    def __getitem__(self, name: str) -> Statistics:
        if name not in self._held:
            group = next((group for group in self.groups if name in group), None)
            if group is None:
                raise KeyError(name)
            self.release()  # before the next ones are made
            self._held = collect(
                self._model,
                self._layers,
                self._inputs,
                damping=self._damping,
                only=group,
                run=self._run_of(group),
                grids=self._grids,
            )
            self._grids |= {found: own.output_grid for found, own in self._held.items()}
            if group is self.groups[-1]:
                self._walk = None
            give_back()
        return self._held[name]

    def _run_of(self, group: Collection[str]) -> Callable[[], object] | None:
        """What runs the block that a group is in; None where the whole model has to run."""
        chain = self._chain
        sources = {layer.source for layer in self._layers if layer.name in group and layer.source}
        needed = {*group, *(sources - {*self._grids})}
        stages = {chain.stage(name) for name in needed} if chain else set()
        stage = stages.pop() if len(stages) == 1 else 0
        # What runs outside of the blocks may do so on both sides of them.
        if chain is None or stage in (0, chain.last):
            self.passes += 1
            return None
        if self._walk is None:
            self.passes += 1
            self._walk = Walk(self._model, chain, self._inputs, BATCH, self._room // 2)
        return partial(self._walk.run, stage)

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


def _grouped(
    layers: Sequence[Layer],
    examples: int,
    room: int,
    stage: Callable[[str], int] = lambda name: 0,
) -> tuple[tuple[str, ...], ...]:
    """Successive layers of one stage that fit the room."""
    groups: list[list[str]] = []
    taken = 0
    for layer in layers:
        size = statistics_bytes(layer, examples)
        if not groups or taken + size > room or stage(groups[-1][-1]) != stage(layer.name):
            groups.append([])
            taken = 0
        groups[-1].append(layer.name)
        taken += size
    return tuple(map(tuple, groups))
