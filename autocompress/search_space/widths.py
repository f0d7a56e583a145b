"""Widths that several units share, and the options that keep to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.model.channels import ChannelGroup
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option


@dataclass(frozen=True)
class SharedWidth:
    """The widths that a channel group may have; level 0 is the full one.

    Args:
        name: That of the group.
        inputs: Layer that reads the channels to the share of its inputs that stays at each level.
        outputs: Layer that makes them, or filters each of them, to the share of its outputs.
    """

    name: str
    inputs: Mapping[str, tuple[float, ...]]
    outputs: Mapping[str, tuple[float, ...]]

    @property
    def levels(self) -> int:
        """Number of widths."""
        return len(next(iter(self.inputs.values())))

    @property
    def units(self) -> tuple[str, ...]:
        """Every layer that has the width, once."""
        return tuple(dict.fromkeys((*self.inputs, *self.outputs)))

    def level(self, unit: str, option: Option) -> int | None:
        """The level of an option of one of the layers; None if it is of none."""
        pairs = ((self.inputs, option.inputs), (self.outputs, option.outputs))
        found = {
            shares[unit].index(share) if share in shares[unit] else None
            for shares, share in pairs
            if unit in shares
        }
        return found.pop() if len(found) == 1 else None


def share_widths(
    groups: Sequence[ChannelGroup], layers: Mapping[str, Layer], shares: Sequence[float], step: int
) -> tuple[SharedWidth, ...]:
    """The widths of groups for the shares that a preset names, in whole steps.

    Args:
        groups: Groups that may be made narrower.
        layers: Their layers by name.
        shares: Shares of the channels that stay.
        step: Channels by which the device wants widths to change.
    """
    made = []
    for group in groups:
        allowed = group.counts(step)
        # The nearest whole step to each share; two shares of few channels may mean the same.
        near = {
            min(allowed, key=lambda count: abs(count / group.size - share))
            for share in shares
            if share < 1 and allowed
        }
        counts = [group.size, *sorted(near, reverse=True)]
        if len(counts) < 2:
            continue
        sides: list[dict[str, tuple[float, ...]]] = []
        for members, axis in (
            (group.consumers, 1),
            ((*group.producers, *group.passing), 0),
        ):
            sides.append(
                {
                    m.name: tuple(
                        round(
                            1 - (group.size - n) * m.width / layers[m.name].weight_shape[axis], 6
                        )
                        for n in counts
                    )
                    for m in members
                }
            )
        made.append(SharedWidth(group.name, *sides))
    return tuple(made)


def narrow_pairs(unit: str, widths: Sequence[SharedWidth]) -> list[tuple[float, float]]:
    """Every pair of shares of inputs and outputs that a layer may keep; the full ones first."""
    inputs: tuple[float, ...] = (1.0,)
    outputs: tuple[float, ...] = (1.0,)
    for width in widths:
        inputs = width.inputs.get(unit, inputs)
        outputs = width.outputs.get(unit, outputs)
    both = [w for w in widths if unit in w.inputs and unit in w.outputs]
    pairs = [(i, o) for i in inputs for o in outputs]
    for width in both:
        pairs = [
            (i, o) for i, o in pairs if width.inputs[unit].index(i) == width.outputs[unit].index(o)
        ]
    return pairs


def at_levels(
    menus: Mapping[str, Sequence[Option]],
    widths: Sequence[SharedWidth],
    levels: Mapping[str, int],
) -> dict[str, list[Option]]:
    """Menus with the options of some levels only.

    Args:
        menus: Layer to options.
        widths: What they share.
        levels: Name of a width to its level.
    """
    return {
        unit: [
            option
            for option in menu
            if all(w.level(unit, option) == levels[w.name] for w in widths if unit in w.units)
        ]
        for unit, menu in menus.items()
    }
