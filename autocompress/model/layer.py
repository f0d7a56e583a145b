"""The record of one layer of the user's model: what it is, what it costs, why it is left alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod


@dataclass(frozen=True)
class Layer:
    """A module with weights, as seen while the example inputs ran through the model.

    Args:
        name: Dotted module path, such as `features.0`.
        kind: Class name of the module, such as `Conv2d`.
        weight_shape: Shape of `weight`: `(out, in)` or `(out, in / groups, kh, kw)`.
        parameters: Number of values in all parameters of the module, bias included.
        macs: Multiply-adds for the example inputs, all calls together.
        calls: How often the module ran in one forward pass.
        input_shape: Shape of its first input, batch included.
        output_shape: Shape of its output, batch included.
        reason: Why the layer stays dense; empty when it can be treated.
        activation: `relu` or `relu6` when such a node alone reads its output, else empty.
        source: The layer whose output arrives here through operations that keep the range of
            values (rectifiers, max pooling, reshapes), or empty.  Such a pair shares one int8
            grid.
        groups: Groups of a convolution: each output channel reads `1 / groups` of the inputs.
        tied: Embeddings that read the layer's weight, and so are decided with it.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    parameters: int
    macs: int
    calls: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    reason: str = ""
    activation: str = ""
    source: str = ""
    groups: int = 1
    tied: tuple[str, ...] = ()

    @property
    def is_treated(self) -> bool:
        return not self.reason

    @property
    def is_operator(self) -> bool:
        """Whether it can run on other kernels than its dense weight does.  A layer that is only
        stored in fewer bytes cannot: its float weight is made when the model is loaded."""
        return self.kind in ("Linear", "Conv2d")

    @property
    def full_rank(self) -> int:
        """Largest rank of the weight seen as a matrix `(out, in / groups * kh * kw)`."""
        rows, columns = matrix_shape(self.weight_shape)
        return min(rows, columns)

    def rank(self, share: float) -> int:
        """Whole number of ranks that `share` of the full rank means, at least one."""
        return max(1, round(share * self.full_rank))

    def core(self, share: float) -> tuple[int, int]:
        """Input and output channels of a core that keeps `share` of both, at least one of each.

        Neither is more than the other can fill: `(outputs, inputs * kh * kw)` has no such rank.
        """
        rows, columns = self.weight_shape[:2]
        taps = prod(self.weight_shape[2:])
        reads, makes = max(1, round(share * columns)), max(1, round(share * rows))
        return min(reads, makes * taps), min(makes, reads * taps)

    def narrowed(self, inputs: int | None = None, outputs: int | None = None) -> Layer:
        """The record of the layer with fewer channels.

        Args:
            inputs: Input channels (features) that stay; None for all.
            outputs: Output channels that stay; a depthwise convolution has as many inputs.
        """
        rows, columns, *taps = self.weight_shape
        depthwise = self.groups > 1 and self.groups == rows
        kept = rows if outputs is None else outputs
        read = columns if inputs is None else inputs
        values = kept * read
        for tap in taps:
            values *= tap
        has_bias = self.parameters > prod(self.weight_shape)
        channel = -3 if taps else -1
        arriving = kept if depthwise else read * self.groups
        return replace(
            self,
            weight_shape=(kept, read, *taps),
            parameters=values + kept * has_bias,
            macs=round(self.macs * values / prod(self.weight_shape)),
            input_shape=_resized(self.input_shape, channel, arriving),
            output_shape=_resized(self.output_shape, channel, kept),
            groups=kept if depthwise else self.groups,
        )

    def widths(self, inputs: float, outputs: float) -> tuple[int, int]:
        """Whole numbers of input and output channels that shares of them mean."""
        rows, columns = self.weight_shape[:2]
        return max(1, round(inputs * columns)), max(1, round(outputs * rows))


def _resized(shape: tuple[int, ...], dimension: int, size: int) -> tuple[int, ...]:
    sizes = list(shape)
    sizes[dimension] = size
    return tuple(sizes)


def matrix_shape(weight_shape: tuple[int, ...]) -> tuple[int, int]:
    """`(out, in / groups * kh * kw)` of a weight."""
    columns = 1
    for size in weight_shape[1:]:
        columns *= size
    return weight_shape[0], columns
