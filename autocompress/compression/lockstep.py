"""The original and a candidate side by side: what reaches layers in the one while the other is
made, for all inputs at once or block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.model.blocks import find_chain
from autocompress.model.chain import Chain, Stopped, Walk
from autocompress.model.task import Inputs, batches

BOUNDARIES = 6  # values between blocks that are kept at a time: of both models, before and after


def affordable(
    model: nn.Module, names: Sequence[str], inputs: Inputs, memory: int
) -> tuple[int, Chain | None]:
    """How many examples the memory holds the layers' inputs of, and the chain to walk along if
    that lets it hold more of them.

    Args:
        model: The dense model.
        names: Layers whose inputs are wanted.
        inputs: All examples.
        memory: Bytes.
    """
    one = tuple(tensor[:1] for tensor in inputs)
    each = _sizes(caught_inputs(model, names, lambda: run_all(model, one, 1)))
    count = max(1, min(len(inputs[0]), memory // max(1, sum(each.values()))))
    chain = find_chain(model, one) if count < len(inputs[0]) else None
    if chain is None:
        return count, None
    first = chain.names[0]
    boundary = _sizes(caught_inputs(model, [first], lambda: run_all(model, one, 1), chain.slot))[
        first
    ]
    stages: dict[int, int] = {}
    for name, size in each.items():
        stages[chain.stage(name)] = stages.get(chain.stage(name), 0) + size
    most = max(stages.values()) + BOUNDARIES * boundary
    more = min(len(inputs[0]), memory // most)
    return (more, chain) if more > count else (count, None)


def some_of(inputs: Inputs, count: int) -> Inputs:
    """Evenly spaced examples, or all."""
    if count == len(inputs[0]):
        return inputs
    places = torch.linspace(0, len(inputs[0]) - 1, count).round().long()
    return tuple(tensor[places] for tensor in inputs)


def run_all(model: nn.Module, inputs: Inputs, batch: int) -> None:
    """Runs all examples, a batch at a time."""
    with torch.no_grad():
        for parts in batches(inputs, batch):
            model(*parts)


def _sizes(caught: Mapping[str, Sequence[Tensor]]) -> dict[str, int]:
    return {
        name: sum(part.numel() * part.element_size() for part in parts)
        for name, parts in caught.items()
    }


def caught_inputs(
    model: nn.Module,
    names: Iterable[str],
    run: Callable[[], object],
    slot: int | str = 0,
) -> dict[str, list[Tensor]]:
    """Layer to the inputs that it has while something runs, one for each call.

    Args:
        model: What runs.
        names: Its layers.
        run: Lets it run.
        slot: Position or name of the argument that counts.
    """
    caught: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            value = keywords[slot] if isinstance(slot, str) else arguments[slot]
            caught[name].append(value.clone())  # the model may go on in place

        return hook

    handles = [
        model.get_submodule(name).register_forward_pre_hook(keep(name), with_kwargs=True)
        for name in caught
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return caught


def walk_along(
    model: nn.Module,
    compressed: nn.Module,
    chain: Chain,
    names: Sequence[str],
    arriving: dict[str, list[Tensor]],
    inputs: Inputs,
    batch: int,
) -> None:
    """Lets both models run block by block; of the dense inputs those of one block are kept.

    Args:
        model: The dense model.
        compressed: The candidate, whose modules wait for what is put into `arriving`.
        chain: The blocks of both.
        names: Layers whose dense inputs are wanted.
        arriving: Is filled before each block of the candidate runs.
        inputs: Examples.
        batch: How many the dense model takes at a time.
    """
    dense, own = Walk(model, chain, inputs, batch), Walk(compressed, chain, inputs, len(inputs[0]))
    # What runs behind the blocks may be defined before them.
    for stage, group in groupby(sorted(names, key=chain.stage), chain.stage):
        arriving.update(caught_inputs(model, list(group), partial(dense.run, stage)))
        with suppress(Stopped):
            own.run(stage)
