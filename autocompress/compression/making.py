"""Makes bank entries of one layer from nothing but the layer and its statistics: wherever a worker
is, with no model and no calibration inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import nn

from autocompress.compression.channels import Channels
from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics
from autocompress.compression.narrow import embed, narrow_layer
from autocompress.compression.treated import Treated, stored_dense
from autocompress.model.layer import Layer
from autocompress.model.memory import give_back, large_blocks_apart
from autocompress.model.shrink import Kept
from autocompress.search_space.option import Option

Made: TypeAlias = tuple[Option, Treated, float]  # and its relative output error


@dataclass(frozen=True)
class Job:
    """Options of one layer.

    Args:
        layer: The layer.
        options: What is wanted of it, the identity not among them.
    """

    layer: Layer
    options: tuple[Option, ...]

    def split(self) -> list[Job]:
        """Jobs that share next to no work: by the channels read, the method, and whether the
        weight is factored.  Factors of all ranks come from one decomposition."""
        parts: dict[tuple[float, str, bool, float], list[Option]] = {}
        for option in self.options:
            key = (option.inputs, option.method, option.rank < 1, option.tucker)
            parts.setdefault(key, []).append(option)
        return [Job(self.layer, tuple(options)) for options in parts.values()]


@dataclass(frozen=True)
class Supplies:
    """What jobs are made from; a source of `study.executors`.

    Args:
        modules: Dense modules by the names of their layers.
        statistics: Of their inputs.
        channels: Which channels narrow options keep.
    """

    modules: Mapping[str, nn.Module]
    statistics: Mapping[str, Statistics]
    channels: Channels

    def open(self, workers: int = 1) -> Sequence[Supplies]:
        """Nothing is written to: all workers of a process share it."""
        return [self] * workers

    def make(self, job: Job) -> Iterator[Made]:
        """Makes the options of a job, those that share work one after the other."""
        layer = job.layer
        module, statistics = self.modules[layer.name], self.statistics[layer.name]
        # Each time it keeps other input channels a narrow layer is compressed.
        for share in dict.fromkeys(option.inputs for option in job.options):
            same = [option for option in job.options if option.inputs == share]
            narrow = self.channels.kept(layer, same[0])
            if narrow is None:
                yield from compress_layer(layer, module, statistics, same)
                continue
            kept = Kept(None, narrow.inputs)
            small = narrow_layer(layer, module, statistics, kept)
            whole = [replace(option, inputs=1.0) for option in same]
            more = [option for option in whole if not option.is_identity]
            found = compress_layer(small.layer, small.module, small.statistics, more)
            plain = [(Option(), stored_dense(small.module), 0.0)] if Option() in whole else []
            for option, treated, error in (*plain, *found):
                # What goes with the channels, and what is done to the others.
                own = embed(treated, module, kept)
                yield replace(option, inputs=share), own, small.error + error


def make_all(supplies: Supplies, job: Job) -> list[Made]:
    """Everything of a job at once, and the memory that it took given back; what a worker does."""
    with large_blocks_apart():
        made = list(supplies.make(job))
    give_back()
    return made
