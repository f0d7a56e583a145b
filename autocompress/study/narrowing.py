"""Which channel groups of a model a search may make narrower, and in which order channels go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from autocompress.compression.bank import recipe
from autocompress.compression.channels import Channels, order_pieces
from autocompress.compression.moments import Statistics
from autocompress.compression.narrow import narrow_dense
from autocompress.errors import StorageError
from autocompress.files import read_json, write_json
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.model.channels import ChannelGroup
from autocompress.model.task import Inputs
from autocompress.study.traced import is_faithful

NAME = "channels.json"
SCHEMA = 1


def held_by_graph(
    graph: FloatGraph, model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: Inputs
) -> list[ChannelGroup]:
    """Groups that the exported graph can hold at half their width, together with those before.

    A reshape may name how many channels there are where the model itself does not.  What fixes a
    width is not searched for: the graph is run, for one batch and for two, and compared.

    Args:
        graph: Of the model in full width.
        model: The dense model.
        groups: Groups that are not frozen.
        example_inputs: Positional inputs of one forward pass.

    Raises:
        TaskError: If the model fails.
    """
    batches = [example_inputs]
    if not graph.static_batch:
        batches.append(tuple(torch.cat([tensor, tensor]) for tensor in example_inputs))
    held: list[ChannelGroup] = []
    for group in groups:
        kept = {item: range(max(1, item.size // 2)) for item in (*held, group)}
        treated = narrow_dense(model, kept)
        try:
            if all(is_faithful(graph, model, batch, treated) for batch in batches):
                held.append(group)
        except Exception:  # noqa: BLE001 - the runtime's errors have no common class
            continue
    return held


def ordered_channels(
    model: nn.Module,
    groups: tuple[ChannelGroup, ...],
    statistics: Callable[[str], Statistics],
    content: str,
    path: Path,
) -> Channels:
    """The order in which the groups' channels go, read from a run's file where it is known.

    A run that goes on need not pass the calibration inputs through the model again.

    Args:
        model: The dense model.
        groups: Those that are made narrower.
        statistics: Gives the calibration statistics of a layer; only called where the order is
            not known.
        content: What they depend on: weights, calibration inputs and knobs.
        path: `channels.json` of the run.

    Raises:
        StorageError: If the file cannot be written.
    """
    if not groups:
        return Channels()
    key = hashlib.sha256(json.dumps([content, recipe(), repr(groups)]).encode()).hexdigest()
    orders = _known(path, key, [group.size for group in groups])
    if orders is None:
        orders = order_pieces(model, groups, statistics)
        write_json(path, {"schema": SCHEMA, "key": key, "orders": orders})
    return Channels(groups, orders)


def _known(path: Path, key: str, sizes: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
    """The recorded orders; None where there are none for this key, or the file is damaged."""
    try:
        record = read_json(path) if path.is_file() else {}
        if record["schema"] != SCHEMA or record["key"] != key:
            return None
        orders = tuple(tuple(map(int, order)) for order in record["orders"])
    except (StorageError, KeyError, TypeError, ValueError):
        return None
    if len(orders) != len(sizes):
        return None
    # All pieces but one, each once.
    for order, size in zip(orders, sizes, strict=True):
        if len(order) != size - 1 or len({*order} & {*range(size)}) != len(order):
            return None
    return orders
