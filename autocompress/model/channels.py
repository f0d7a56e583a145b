"""Channel groups: what has to be removed together when a model is made narrower.

A *piece* is the smallest thing that can be removed: some channels of the layers that make them
(*producers*), the input columns of the layers that read them (*consumers*), and the channels of
what lies between, such as batch norms and depthwise convolutions (*passing* modules).  Pieces that
have the same layers in the same proportions form a group; which of its pieces stay is one choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autocompress.errors import ConfigError

STEP = 8  # channels by which widths change where kernels work on eight int8 values at once


@dataclass(frozen=True)
class Member:
    """The part of one module in a group.

    Args:
        name: Dotted module path.
        pieces: For each piece, the channels that it owns: outputs of a producer, inputs of a
            consumer or passing module.  Inputs are the input channels of a convolution and the
            features of a Linear.  All pieces own equally many.
    """

    name: str
    pieces: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """Channels in one piece."""
        return len(self.pieces[0])

    def channels(self, pieces: Sequence[int]) -> list[int]:
        """Channels of the given pieces, ascending."""
        return sorted(channel for piece in pieces for channel in self.pieces[piece])


@dataclass(frozen=True)
class Counter:
    """An integer attribute of a module that counts the pieces of a group.

    Args:
        module: Dotted module path; empty for the model itself.
        attribute: Name of the attribute.
        each: What it counts for each piece: 1 for a number of heads.
    """

    module: str
    attribute: str
    each: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together, piece by piece.

    Args:
        name: Its first producer, with a number where that begins more than one group.
        producers: Layers whose output channels belong to the group, in model order.
        consumers: Layers whose input columns do; these alone decide what a removal costs.
        passing: Modules between whose channels are sliced with the pieces.
        counters: Attributes that change with the number of pieces.
        frozen: Why the group must keep its width; empty when it may shrink.
    """

    name: str
    producers: tuple[Member, ...]
    consumers: tuple[Member, ...]
    passing: tuple[Member, ...] = ()
    counters: tuple[Counter, ...] = ()
    frozen: str = ""

    @property
    def size(self) -> int:
        """Number of pieces."""
        return len(self.producers[0].pieces)

    @property
    def width(self) -> int:
        """Channels of the narrowest producer in one piece: 1, or the head's width."""
        return min(member.width for member in self.producers)

    def counts(self, step: int = STEP) -> tuple[int, ...]:
        """Numbers of pieces that may be kept, ascending: below `size`, in whole steps.

        Args:
            step: Channels by which the device's kernels want widths to change, at least 1.

        Raises:
            ConfigError: If `step` is not positive.
        """
        if step < 1:
            raise ConfigError(f"ChannelGroup.counts(step={step}): must be at least 1")
        if self.frozen:
            return ()
        return tuple(n for n in range(1, self.size) if n * self.width % step == 0)


def group_rows(groups: Sequence[ChannelGroup], step: int = STEP) -> list[dict[str, Any]]:
    """One row a group, in plain JSON, for tables.

    Args:
        groups: What `find_groups` found.
        step: Channels by which widths change on the device.
    """
    return [
        {
            "name": group.name,
            "producers": [member.name for member in group.producers],
            "consumers": [member.name for member in group.consumers],
            "passing": [member.name for member in group.passing],
            "pieces": group.size,
            "channels": group.size * group.width,
            "widths": [count * group.width for count in group.counts(step)],
            "step": step,
            "frozen": group.frozen,
        }
        for group in groups
    ]
