"""Builds the narrower model of some kept channels, and the masked one that it must equal."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.errors import ConfigError
from autocompress.model.channels import ChannelGroup
from autocompress.model.taint import passing_channels


@dataclass(frozen=True)
class Kept:
    """What stays of one module.

    Args:
        rows: Output channels that stay, ascending; None for all.
        columns: Input channels (features of a Linear) that stay, ascending; None for all.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None


def kept_channels(
    model: nn.Module, kept: Mapping[ChannelGroup, Collection[int]]
) -> dict[str, Kept]:
    """What stays of every module that some group makes narrower.

    Args:
        model: The model in which the groups were found.
        kept: Group to the pieces that stay; a group that is missing stays whole.

    Returns:
        Module name to what stays; groups that are kept whole leave no trace.

    Raises:
        ConfigError: If a group is frozen, keeps nothing, or has no such piece.
    """
    rows: dict[str, list[int]] = {}
    columns: dict[str, list[int]] = {}
    for group, pieces in kept.items():
        gone = _gone(group, pieces)
        for members, lists in (
            (group.producers, rows),
            (group.consumers, columns),
            (group.passing, columns),
        ):
            for member in members if gone else ():
                lists.setdefault(member.name, []).extend(member.channels(gone))
    return {
        name: Kept(
            _without(_outputs(model.get_submodule(name)), rows.get(name)),
            _without(_inputs(model.get_submodule(name)), columns.get(name)),
        )
        for name in {**rows, **columns}
    }


def shrink(model: nn.Module, kept: Mapping[ChannelGroup, Collection[int]]) -> nn.Module:
    """A physically narrower copy of a model.

    Args:
        model: Not changed.
        kept: Group to the pieces that stay; a group that is missing stays whole.

    Raises:
        ConfigError: If a group is frozen, keeps nothing, or has no such piece.
    """
    small = copy.deepcopy(model)
    for name, stays in kept_channels(model, kept).items():
        slice_module(small.get_submodule(name), stays)
    for group, pieces in kept.items():
        staying = len(set(pieces))
        for counter in group.counters if staying < group.size else ():
            module = small.get_submodule(counter.module)
            setattr(module, counter.attribute, counter.each * staying)
    return small


def masked(model: nn.Module, kept: Mapping[ChannelGroup, Collection[int]]) -> nn.Module:
    """A copy of a model whose consumers do not read what is removed; nothing else changes.

    Args:
        model: Not changed.
        kept: Group to the pieces that stay; a group that is missing stays whole.

    Raises:
        ConfigError: If a group is frozen, keeps nothing, or has no such piece.
    """
    same = copy.deepcopy(model)
    for group, pieces in kept.items():
        gone = _gone(group, pieces)
        for member in group.consumers if gone else ():
            weight = same.get_submodule(member.name).weight
            assert isinstance(weight, Tensor)
            with torch.no_grad():
                weight[:, member.channels(gone)] = 0
    return same


def slice_module(module: nn.Module, kept: Kept) -> None:
    """Removes channels from a module, in place.

    Args:
        module: A Linear or Conv2d, or a passing module, of which `kept.columns` counts.
        kept: What stays.

    Raises:
        ConfigError: If grouped channels would be cut apart.
    """
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = _slice_weight(module, kept)
    elif isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1:
            _slice_grouped(module, kept.columns)
        else:
            module.out_channels, module.in_channels = _slice_weight(module, kept)
    elif kept.columns is not None:
        _slice_channels(module, kept.columns)


def whole_blocks(channels: Sequence[int] | Tensor, width: int) -> list[int] | None:
    """Numbers of the blocks of `width` that some channels fill; None if one is filled in part."""
    numbers = sorted({int(channel) // width for channel in channels})
    return numbers if len(channels) == width * len(numbers) else None


def _slice_weight(module: nn.Module, kept: Kept) -> tuple[int, int]:
    for name, parameter in list(module._parameters.items()):
        if parameter is None:
            continue
        values = parameter.detach()
        if kept.rows is not None:
            values = values[kept.rows]
        if kept.columns is not None and name == "weight":
            values = values[:, kept.columns]
        _put(module, name, values)
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0], weight.shape[1]


def _slice_grouped(module: nn.modules.conv._ConvNd, columns: Tensor | None) -> None:
    if columns is None:
        return
    width = module.in_channels // module.groups
    multiple = module.out_channels // module.groups
    blocks = whole_blocks(columns, width)
    if blocks is None:
        raise ConfigError(f"groups of {width} channels of a convolution would be cut apart")
    rows = (torch.tensor(blocks)[:, None] * multiple + torch.arange(multiple)).flatten()
    for name, parameter in list(module._parameters.items()):
        if parameter is not None:
            _put(module, name, parameter.detach()[rows])
    module.groups = len(blocks)
    module.in_channels, module.out_channels = len(blocks) * width, len(rows)


def _slice_channels(module: nn.Module, columns: Tensor) -> None:
    """A norm or PReLU: every tensor that has one value a channel is sliced."""
    channels = passing_channels(module)
    if isinstance(module, nn.GroupNorm):
        width = channels // module.num_groups
        blocks = whole_blocks(columns, width)
        if blocks is None:
            raise ConfigError(f"groups of {width} channels of a norm would be cut apart")
        module.num_groups = len(blocks)
    for name, parameter in list(module._parameters.items()):
        if parameter is not None:
            _put(module, name, parameter.detach()[columns])
    for name, buffer in list(module._buffers.items()):
        if buffer is not None and buffer.shape == (channels,):
            module._buffers[name] = buffer[columns].clone()
    for attribute in ("num_features", "num_channels", "num_parameters"):
        if hasattr(module, attribute):
            setattr(module, attribute, len(columns))


def _put(module: nn.Module, name: str, values: Tensor) -> None:
    old = module._parameters[name]
    assert old is not None
    module._parameters[name] = nn.Parameter(values.clone(), requires_grad=old.requires_grad)


def _gone(group: ChannelGroup, pieces: Collection[int]) -> list[int]:
    """Pieces that are removed."""
    staying = set(pieces)
    where = f"channel group {group.name!r}"
    if not staying <= set(range(group.size)):
        wrong = sorted(staying - set(range(group.size)))
        raise ConfigError(f"{where} has {group.size} pieces; there is no piece {wrong[0]}")
    if not staying:
        raise ConfigError(f"{where}: at least one of its {group.size} pieces must stay")
    gone = [piece for piece in range(group.size) if piece not in staying]
    if gone and group.frozen:
        raise ConfigError(f"{where} cannot shrink: {group.frozen}")
    return gone


def _without(count: int, gone: list[int] | None) -> Tensor | None:
    if not gone:
        return None
    mask = torch.ones(count, dtype=torch.bool)
    mask[gone] = False
    return mask.nonzero()[:, 0]


def _outputs(module: nn.Module) -> int:
    for attribute in ("out_channels", "out_features"):
        if hasattr(module, attribute):
            return int(getattr(module, attribute))
    return 0


def _inputs(module: nn.Module) -> int:
    return int(module.in_features) if isinstance(module, nn.Linear) else passing_channels(module)
