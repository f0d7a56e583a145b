"""Finds for every output channel of every layer which columns of other layers read it.

Marking one channel at a time takes as many runs as there are channels.  Most columns are read from
one channel number only, so a code finds them all in one batch: one copy with all channels of each
layer marked, and two copies for each binary digit of the channel number, marked where the digit
is 0 and where it is 1.  Columns whose digits contradict each other are looked at again, one
channel at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.model.taint import OUTPUT, Taint

PROBES = 4  # channels that speak for a layer: if each reaches everything, all of them do


@dataclass(frozen=True)
class Edges:
    """Channels of one layer and columns of one observer that they reach, pairwise.

    Args:
        producer: Name of the layer.
        observer: Name of the layer, passing module or output.
        channels: `(n,)` output channels of the producer.
        columns: `(n,)` columns of the observer.
    """

    producer: str
    observer: str
    channels: Tensor
    columns: Tensor


def edges(taint: Taint) -> list[Edges]:
    """All direct connections between channels and columns.

    Where every channel of a layer reaches the same columns, they are connected in a star, which
    joins them as well as all pairs would.

    Args:
        taint: The model with its layers cut.
    """
    found, unclear = _decode(taint)
    mixed = _mixing(taint, unclear)
    for name, where in unclear.items():
        if name in mixed:
            found += _star(name, taint.layers[name], where)
    exact = {name: where for name, where in unclear.items() if name not in mixed}
    for batch in _disjoint(exact):
        found += _one_by_one(taint, batch)
    return found


def _decode(taint: Taint) -> tuple[list[Edges], dict[str, dict[str, Tensor]]]:
    """Edges that the code settles; and for each layer the columns that it leaves unclear."""
    names = list(taint.layers)
    digits = max(1, (max(taint.layers.values(), default=1) - 1).bit_length())
    rows = len(names) + 2 * digits
    marks = {}
    for index, name in enumerate(names):
        numbers = torch.arange(taint.layers[name])
        ones = (numbers >> torch.arange(digits)[:, None]) % 2 == 1
        whole = torch.zeros(len(names), len(numbers), dtype=torch.bool)
        whole[index] = True
        marks[name] = torch.cat([whole, ~ones, ones])
    seen = taint(marks, torch.zeros(rows, dtype=torch.bool))
    found: list[Edges] = []
    unclear: dict[str, dict[str, Tensor]] = {}
    for observer, arrived in seen.items():
        who, zeros, ones = torch.split(arrived, [len(names), digits, digits])
        channel = (ones.long() << torch.arange(digits)[:, None]).sum(0)
        clear = (zeros ^ ones).all(0)
        for index, name in enumerate(names):
            settled = who[index] & clear & (channel < taint.layers[name])
            if bool(settled.any()):
                columns = settled.nonzero()[:, 0]
                found.append(Edges(name, observer, channel[columns], columns))
            if bool((who[index] & ~settled).any()):
                unclear.setdefault(name, {})[observer] = who[index] & ~settled
    return found, unclear


def _mixing(taint: Taint, unclear: Mapping[str, Mapping[str, Tensor]]) -> set[str]:
    """Layers of which each probed channel reaches every unclear column of the layer."""
    if not unclear:
        return set()
    rows = PROBES * len(unclear)
    marks = {}
    for index, name in enumerate(unclear):
        channels = torch.linspace(0, taint.layers[name] - 1, PROBES).long()
        marks[name] = torch.zeros(rows, taint.layers[name], dtype=torch.bool)
        marks[name][torch.arange(PROBES) + PROBES * index, channels] = True
    seen = taint(marks, torch.zeros(rows, dtype=torch.bool))
    return {
        name
        for index, (name, where) in enumerate(unclear.items())
        if all(
            bool(seen[observer][PROBES * index : PROBES * (index + 1)][:, columns].all())
            for observer, columns in where.items()
        )
    }


def _star(name: str, channels: int, where: Mapping[str, Tensor]) -> list[Edges]:
    numbers, found = torch.arange(channels), []
    for observer, reached in where.items():
        columns = reached.nonzero()[:, 0]
        found.append(Edges(name, observer, numbers, columns[:1].expand(channels)))
        found.append(Edges(name, observer, numbers[:1].expand(len(columns)), columns))
    return found


def _disjoint(
    unclear: Mapping[str, Mapping[str, Tensor]],
) -> list[dict[str, Mapping[str, Tensor]]]:
    """Layers in batches, within which no column is reached by two: these can run together."""
    batches: list[dict[str, Mapping[str, Tensor]]] = []
    for name, where in unclear.items():
        for batch in batches:
            if not any(
                bool((columns & other[observer]).any())
                for other in batch.values()
                for observer, columns in where.items()
                if observer in other
            ):
                batch[name] = where
                break
        else:
            batches.append({name: where})
    return batches


def _one_by_one(taint: Taint, batch: Mapping[str, Mapping[str, Tensor]]) -> list[Edges]:
    rows = max(taint.layers[name] for name in batch)
    marks = {name: torch.eye(rows, taint.layers[name], dtype=torch.bool) for name in batch}
    seen = taint(marks, torch.zeros(rows, dtype=torch.bool))
    found = []
    for name, where in batch.items():
        for observer, columns in where.items():
            pairs = (seen[observer][: taint.layers[name]] & columns).nonzero()
            found.append(Edges(name, observer, pairs[:, 0], pairs[:, 1]))
    return found


def inputs_reach(taint: Taint) -> dict[str, Tensor]:
    """Observer to `(columns,)` bool, true where the model's own float inputs arrive directly."""
    seen = taint({}, torch.ones(1, dtype=torch.bool))
    return {name: arrived[0] for name, arrived in seen.items() if name != OUTPUT}
