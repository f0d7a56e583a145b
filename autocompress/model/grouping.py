"""Finds the channel groups of a model and verifies each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from autocompress.model.channels import STEP, ChannelGroup, Member
from autocompress.model.counters import guesses
from autocompress.model.layer import Layer
from autocompress.model.reach import Edges, edges, inputs_reach
from autocompress.model.shrink import whole_blocks
from autocompress.model.taint import OUTPUT, Taint
from autocompress.model.task import Inputs
from autocompress.model.verify import fault, samples


def find_groups(
    model: nn.Module,
    layers: Sequence[Layer],
    example_inputs: Inputs,
    step: int = STEP,
    rng: np.random.Generator | None = None,
) -> tuple[ChannelGroup, ...]:
    """Every channel group, in model order; those that must keep their width say why.

    Args:
        model: In evaluation mode; not changed.
        layers: What the trace found; those treated make and read channels, except that
            convolutions in groups lie between.
        example_inputs: On which groups are found and verified.
        step: Channels by which widths change on the device.
        rng: Draws the pieces that are kept when a group is verified.

    Raises:
        TaskError: If the model fails on the example inputs, or on NaN.
    """
    rng = rng or np.random.default_rng(0)
    names = [
        layer.name
        for layer in layers
        if layer.is_treated
        and layer.is_operator
        and layer.calls == 1
        and not layer.tied
        and getattr(model.get_submodule(layer.name), "groups", 1) == 1
    ]
    taint = Taint(model, names, example_inputs)
    groups = _named(_groups(taint, edges(taint)))
    touched = _touched(taint)
    checked = []
    for group in groups:
        if not group.frozen:
            group = _verified(model, names, example_inputs, group, samples(group, step, rng))
        elif group.frozen == _MIXED:
            group = replace(group, frozen=_MIXED.format(group.width))
        else:
            checked.append(group)
            continue
        also = _readers(group, touched) if group.frozen else ()
        if also:
            more = f" and {len(also) - _LISTED} more" if len(also) > _LISTED else ""
            reason = f"{group.frozen}; its columns also read {', '.join(also[:_LISTED])}{more}"
            group = replace(group, frozen=reason)
        checked.append(group)
    return _together(model, names, example_inputs, checked, rng)


_LISTED = 3  # sources that a reason lists
_MIXED = "its {} channels are mixed with each other"


def _verified(
    model: nn.Module,
    names: Sequence[str],
    inputs: Inputs,
    group: ChannelGroup,
    samples: Sequence[Sequence[int]],
) -> ChannelGroup:
    """The group with the attributes that count its pieces, or with the reason why it is frozen."""
    frozen = fault(model, names, inputs, [{group: pieces} for pieces in samples])
    if not frozen:
        return group
    for guess in guesses(model, group):
        counted = replace(group, counters=guess)
        if not fault(model, names, inputs, [{counted: pieces} for pieces in samples]):
            return counted
    return replace(group, frozen=frozen)


def _together(
    model: nn.Module,
    names: Sequence[str],
    inputs: Inputs,
    groups: Sequence[ChannelGroup],
    rng: np.random.Generator,
) -> tuple[ChannelGroup, ...]:
    """Freezes groups that are right alone but not with those before them."""
    kept = {
        group: sorted(rng.permutation(group.size)[: max(1, group.size // 2)].tolist())
        for group in groups
        if not group.frozen
    }
    if len(kept) < 2 or not fault(model, names, inputs, [kept]):
        return tuple(groups)
    fine: dict[ChannelGroup, list[int]] = {}
    result = []
    for group in groups:
        wrong = ""
        if group in kept:
            wrong = fault(model, names, inputs, [{**fine, group: kept[group]}])
            if not wrong:
                fine[group] = kept[group]
        result.append(replace(group, frozen=f"with other groups, {wrong}") if wrong else group)
    return tuple(result)


@dataclass
class _Piece:
    """What one connected component holds, by module."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    columns: dict[str, list[int]] = field(default_factory=dict)
    passing: dict[str, list[int]] = field(default_factory=dict)
    leaks: bool = False  # into the model's output

    def key(self) -> tuple[object, ...]:
        parts = (self.rows, self.columns, self.passing)
        return (self.leaks, *(tuple((n, len(c)) for n, c in part.items()) for part in parts))


def _groups(taint: Taint, found: Sequence[Edges]) -> list[ChannelGroup]:
    alike: dict[tuple[object, ...], list[_Piece]] = {}
    for piece in _pieces(taint, found):
        alike.setdefault(piece.key(), []).append(piece)
    order = {name: index for index, name in enumerate(taint.layers)}
    groups = []
    for pieces in alike.values():
        first = pieces[0]
        producers = tuple(_member(name, [p.rows[name] for p in pieces]) for name in first.rows)
        groups.append(
            ChannelGroup(
                name=producers[0].name,
                producers=producers,
                consumers=tuple(
                    _member(name, [p.columns[name] for p in pieces]) for name in first.columns
                ),
                passing=tuple(
                    _member(name, [p.passing[name] for p in pieces]) for name in first.passing
                ),
                frozen=_frozen(taint, pieces),
            )
        )
    return sorted(groups, key=lambda g: (order[g.name], g.producers[0].pieces))


def _member(name: str, pieces: Sequence[Sequence[int]]) -> Member:
    return Member(name, tuple(tuple(piece) for piece in pieces))


def _frozen(taint: Taint, pieces: Sequence[_Piece]) -> str:
    """Why a group cannot shrink, as far as its connections tell."""
    first = pieces[0]
    if first.leaks:
        return "reaches the model's output"
    if not first.columns:
        return "no layer reads it, as far as marks can tell"
    if len(pieces) == 1 and any(len(rows) > 1 for rows in first.rows.values()):
        return _MIXED
    if len(pieces) == 1:
        return "it is one channel"
    for name in first.passing:
        width = _block(taint.passing[name])
        if any(whole_blocks(piece.passing[name], width) is None for piece in pieces):
            kind = type(taint.passing[name]).__name__
            return f"cuts through the groups of {width} channels of {kind} {name!r}"
    return ""


def _block(module: nn.Module) -> int:
    """Channels that a passing module works on together."""
    if isinstance(module, nn.GroupNorm):
        return int(module.num_channels // module.num_groups)
    if isinstance(module, nn.modules.conv._ConvNd):
        return int(module.in_channels // module.groups)
    return 1


def _pieces(taint: Taint, found: Sequence[Edges]) -> list[_Piece]:
    """Connected components of channels and columns that hold a channel."""
    places: dict[tuple[str, str], int] = {}
    count = 0
    for kind, sizes in (("row", taint.layers), ("column", taint.columns)):
        for name, size in sizes.items():
            places[kind, name] = count
            count += size
    leaks = np.zeros(count, bool)
    ends: list[NDArray[np.int64]] = [np.empty((2, 0), np.int64)]
    for edge in found:
        rows = edge.channels.numpy() + places["row", edge.producer]
        if edge.observer == OUTPUT:
            leaks[rows] = True  # the output joins nothing
        else:
            columns = edge.columns.numpy() + places["column", edge.observer]
            ends.append(np.stack([rows, columns]))
    start, stop = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(start), np.int8), (start, stop)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    pieces: dict[int, _Piece] = {}
    for name, size in taint.layers.items():
        for channel in range(size):
            node = places["row", name] + channel
            piece = pieces.setdefault(int(labels[node]), _Piece())
            piece.rows.setdefault(name, []).append(channel)
            piece.leaks |= bool(leaks[node])
    for name, size in taint.columns.items():
        for column in range(size):
            owner = pieces.get(int(labels[places["column", name] + column]))
            if owner is not None and name != OUTPUT:
                lists = owner.passing if name in taint.passing else owner.columns
                lists.setdefault(name, []).append(column)
    return list(pieces.values())


def _named(groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """Groups with names that differ: the second that begins with `conv` is `conv#2`."""
    seen: Counter[str] = Counter()
    named = []
    for group in groups:
        seen[group.name] += 1
        number = seen[group.name]
        named.append(replace(group, name=f"{group.name}#{number}") if number > 1 else group)
    return named


def _touched(taint: Taint) -> dict[str, dict[str, set[int]]]:
    """What else arrives at columns: source in words, to observer, to columns."""
    found = {"the model's input": inputs_reach(taint)}
    for source, arrived in taint.parameters_reach():
        found[f"parameters of {source}"] = {name: seen[0] for name, seen in arrived.items()}
    return {
        source: {
            name: set(columns.nonzero()[:, 0].tolist())
            for name, columns in reached.items()
            if bool(columns.any())
        }
        for source, reached in found.items()
    }


def _readers(
    group: ChannelGroup, touched: Mapping[str, Mapping[str, set[int]]]
) -> tuple[str, ...]:
    members = (*group.consumers, *group.passing)
    return tuple(
        source
        for source, reached in touched.items()
        if any(
            not reached.get(member.name, set()).isdisjoint(piece)
            for member in members
            for piece in member.pieces
        )
    )
