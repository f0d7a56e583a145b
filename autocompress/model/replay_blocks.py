"""Runs candidates block by block, where a model is a chain of blocks: from the last value between
two blocks that is still true.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autocompress.model.chain import Chain, enter, handed_on, leave
from autocompress.model.task import Inputs

Values = dict[Any, Any]
TENSOR, CALL = "tensor", "call"  # what is kept at a cut


def block_cuts(
    chain: Chain,
    units: Sequence[str],
    readers: Mapping[str, Sequence[str]],
    left: Sequence[float],
    count: int,
) -> list[tuple[int, int]]:
    """Where a run may start: the first unit that runs there, and the stage of its block.

    Args:
        chain: The blocks.
        units: Names of layers, in the order in which their weights are first read.
        readers: Layer to the embeddings that read its weight as well.
        left: For each unit the share of the work that it and those behind it take.
        count: About how many there are, with equal amounts of work between them.

    Returns:
        Nothing if the units come in another order than their blocks.
    """
    stages = [min(chain.stage(name) for name in (unit, *readers.get(unit, ()))) for unit in units]
    if stages != sorted(stages):
        return []
    cuts, band = [], count
    for stage in range(1, chain.last):
        unit = bisect_left(stages, stage)
        if 0 < unit < len(units) and int(count * left[unit] - 1e-9) != band:
            band = int(count * left[unit] - 1e-9)
            cuts.append((unit, stage))
    return cuts


def run_blocks(
    model: nn.Module,
    chain: Chain,
    inputs: Inputs,
    start: int,
    kept: Values,
    pass_by: Callable[[int, Values], None],
) -> Tensor:
    """A model's output.

    Args:
        model: The candidate.
        chain: Its blocks.
        inputs: Of the whole model.
        start: Stage of the block that runs first; 0 runs what is before the blocks too.
        kept: What `pass_by` was given there; nothing where `start` is 0.
        pass_by: Called before each block but the first one with its stage, and with what is needed
            to start there.
    """
    if start:
        call, tensor = kept[CALL], kept[TENSOR]
    else:
        call = enter(model, chain, inputs)
        call, tensor = call.without(), call.handed
    for stage, name in enumerate(chain.names, start=1):
        if stage < start:
            continue
        if stage > start:
            pass_by(stage, {TENSOR: tensor, CALL: call})
        tensor = handed_on(call.on(model.get_submodule(name), tensor))
    output: Tensor = leave(model, chain, inputs, tensor)
    return output
