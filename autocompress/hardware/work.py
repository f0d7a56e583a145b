"""What an operator has to do, whoever runs it: multiply-adds and bytes moved."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autocompress.model.layer import Layer, matrix_shape
from autocompress.search_space.factors import factor_shapes
from autocompress.search_space.option import Option

ELEMENT_BYTES = {"float32": 4.0, "int8": 1.0, "dynamic": 4.0}  # of an activation


@dataclass(frozen=True)
class Work:
    """One run of one operator.

    Args:
        kind: Type of its arithmetic, `float32` or `int8`.
        macs: Multiply-adds.
        read_bytes: Bytes of the activations that it reads.
        written_bytes: Bytes of the activations that it writes.
        weight_bytes: Bytes of the weights that it reads, as the kernel has them: weights of eight
            bits or fewer with float activations are unfolded when the model is loaded, those of
            a layer that rounds its inputs at each call stay packed.
    """

    kind: str
    macs: float
    read_bytes: float
    written_bytes: float
    weight_bytes: float = 0.0

    @property
    def moved_bytes(self) -> float:
        """All bytes, each moved once."""
        return self.read_bytes + self.written_bytes + self.weight_bytes


def layer_work(layer: Layer, option: Option) -> tuple[Work, ...]:
    """One call of a layer under an option: one operator, or two or three where it is factored."""
    size = ELEMENT_BYTES[option.activations]
    kind = "float32" if option.activations == "float32" else "int8"
    stored = size if option.activations != "dynamic" else (4 if option.bits <= 4 else 8) / 8
    shapes = factor_shapes(layer, option)
    reads, makes = layer.widths(option.inputs, option.outputs)
    layer = layer.narrowed(reads, makes) if option.is_narrow else layer
    rows, columns = matrix_shape(layer.weight_shape)
    inputs, outputs = math.prod(layer.input_shape), math.prod(layer.output_shape)
    bias = 4 * max(0, layer.parameters - rows * columns)
    places = layer.macs / layer.calls / (rows * columns)  # positions of the output, batch included
    if not option.is_factored:
        weights = stored * rows * columns + bias
        return (Work(kind, layer.macs / layer.calls, size * inputs, size * outputs, weights),)
    # What comes before the taps runs at every position of the input.
    first = inputs / reads if len(shapes) == 3 else places
    positions = [first, *[places] * (len(shapes) - 1)]
    written = [size * at * made for at, (made, _) in zip(positions, shapes, strict=True)]
    read = [size * inputs, *written[:-1]]
    written[-1] = size * outputs
    return tuple(
        Work(
            kind,
            at * made * taken,
            read[index],
            written[index],
            stored * made * taken + (bias if index == len(shapes) - 1 else 0),
        )
        for index, (at, (made, taken)) in enumerate(zip(positions, shapes, strict=True))
    )


def boundary_work(operator: str, shape: tuple[int, ...]) -> Work:
    """`QuantizeLinear` or `DequantizeLinear` of a tensor: no products, but bytes."""
    count = math.prod(shape)
    sizes = (4 * count, count)
    read, written = sizes if operator == "QuantizeLinear" else sizes[::-1]
    return Work("float32", 0.0, read, written)
