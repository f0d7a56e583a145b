"""The matrices that stand for the weight of a layer under an option, in the order they apply."""

from __future__ import annotations

from math import prod

from autocompress.model.layer import Layer
from autocompress.search_space.option import Option


def factor_shapes(layer: Layer, option: Option) -> tuple[tuple[int, int], ...]:
    """`(rows, columns)` of each stored matrix: one, two of low rank, or three around a core.

    Outputs that are gone are cut once the rank or the core is chosen, inputs before.

    Args:
        layer: The whole layer.
        option: Says which channels stay and how the weight is factored.
    """
    reads, rows = layer.widths(option.inputs, option.outputs)
    taps = prod(layer.weight_shape[2:])
    read = layer.narrowed(reads) if option.inputs < 1 else layer
    if option.tucker < 1:
        core_in, core_out = read.core(option.tucker)
        return (core_in, reads), (core_out, core_in * taps), (rows, core_out)
    if option.rank < 1:
        rank = read.rank(option.rank)
        return (rank, reads * taps), (rows, rank)
    return ((rows, reads * taps),)


def kernel_index(count: int) -> int:
    """Which of a convolution's `count` matrices has its taps: the first, or of three the core.

    The others are 1x1 convolutions.
    """
    return 1 if count == 3 else 0
