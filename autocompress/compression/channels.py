"""Which channels stay at each width of a channel group, and the narrow layers that follow.

Kept sets are nested: a group gives up its pieces in one order (`eliminate`), whatever is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.compression.eliminate import Reader, eliminate
from autocompress.compression.moments import Statistics
from autocompress.compression.narrow import removal_moment, weight_columns
from autocompress.compression.treated import Narrow, Treated
from autocompress.model.channels import ChannelGroup
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option


@dataclass(frozen=True)
class Channels:
    """The channels that layers keep, by the shares that options name.

    Args:
        groups: Those that may be made narrower.
        orders: For each group its pieces in the order in which they go.
    """

    groups: tuple[ChannelGroup, ...] = ()
    orders: tuple[tuple[int, ...], ...] = ()

    def kept(self, layer: Layer, option: Option) -> Narrow | None:
        """Which channels of a layer an option keeps; None for all."""
        if not option.is_narrow:
            return None
        rows, columns = layer.weight_shape[:2]
        reads, makes = layer.widths(option.inputs, option.outputs)
        inputs = self._stay(layer.name, columns, reads, consumes=True) if reads < columns else None
        outputs = self._stay(layer.name, rows, makes, consumes=False) if makes < rows else None
        return Narrow((rows, columns), outputs, inputs)

    def cut(self, layer: Layer, option: Option, stored: Treated) -> Treated:
        """What is stored for a layer, with the output channels that an option keeps."""
        kept = self.kept(layer, option)
        return (
            stored if kept is None or kept.outputs is None else stored.with_outputs(kept.outputs)
        )

    def _stay(self, name: str, width: int, count: int, consumes: bool) -> Tensor:
        for group, order in zip(self.groups, self.orders, strict=True):
            members = group.consumers if consumes else (*group.producers, *group.passing)
            for member in members:
                if member.name == name:
                    gone = set(member.channels(order[: (width - count) // member.width]))
                    return torch.tensor([c for c in range(width) if c not in gone])
        raise AssertionError(f"layer {name!r} belongs to no channel group")


def order_pieces(
    model: nn.Module,
    groups: Iterable[ChannelGroup],
    statistics: Callable[[str], Statistics],
) -> tuple[tuple[int, ...], ...]:
    """For each group its pieces in the order in which they go, the cheapest first.

    Args:
        model: The dense model.
        groups: Groups that are not frozen.
        statistics: Calibration statistics of a consumer by name.
    """
    orders = []
    for group in groups:
        readers = []
        for member in group.consumers:
            module = model.get_submodule(member.name)
            weight = module.weight.detach().flatten(1)  # type: ignore[operator]
            moment = removal_moment(module, statistics(member.name))
            columns = weight_columns(module, torch.tensor(member.pieces))
            readers.append(Reader(weight, moment, columns))
        orders.append(eliminate(readers).order)
    return tuple(orders)


def usable(groups: Sequence[ChannelGroup], layers: Mapping[str, Layer]) -> list[ChannelGroup]:
    """Groups that a search may make narrower: those of treated layers, each in one group a side.

    Args:
        groups: As found.
        layers: Treated layers by name.
    """
    taken: set[tuple[str, bool]] = set()
    chosen = []
    for group in groups:
        sides = [(member.name, True) for member in group.consumers]
        sides += [(member.name, False) for member in (*group.producers, *group.passing)]
        known = all(name in layers for name, _ in sides)
        # A grouped convolution between can only be narrowed where each channel is a group, and
        # makes one channel of one.
        simple = all(
            layers[member.name].groups == layers[member.name].weight_shape[0]
            and layers[member.name].weight_shape[1] == 1
            for member in group.passing
            if member.name in layers
        )
        # A layer that reads what it makes would need all its options in both widths at once.
        simple = simple and len({name for name, _ in sides}) == len(sides)
        if group.frozen or not known or not simple or taken & set(sides):
            continue
        taken |= set(sides)
        chosen.append(group)
    return chosen
