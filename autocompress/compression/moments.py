"""One calibration pass: second moments of every layer's input, and the int8 grids of its values.

The second moment `H = E[x x^T]` is all that pruning, rounding and factorising need of the
data: the output error of a weight change `D` is `tr(D H D^T)`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compression.treated import FakeQuantize, Grid
from autocompress.model.layer import Layer
from autocompress.model.matrix import groups_of, is_operator, rows_of
from autocompress.model.task import Inputs, batches

SAMPLE_EXAMPLES = 128  # examples kept of every layer's input, to set the grid between two factors
SAMPLE_BYTES = 2**24  # most that these take of one batch
UNFOLDED = 2**28  # bytes of a batch's patches whose products are taken
SAMPLE_VALUES = 100_000  # values looked at to choose a grid
DAMPING = 0.01  # share of the mean diagonal that is added before a moment is inverted


@dataclass(frozen=True)
class Statistics:
    """What calibration says about one layer.

    Args:
        second_moment: `(d, d)` float64 mean of `x x^T` over all rows that the weight meets, where
            `d = in / groups * kh * kw`.  Groups of a convolution share one: the mean over groups
            of each one's moment, scaled to a mean diagonal of 1.
        mean: `(d,)` float64 mean of `x`.
        sample: Some of the inputs, `(n, ...)` float32; none of a layer that is only stored.
        input_grid: int8 grid of the input.
        output_grid: int8 grid of the output, after the activation where one follows.
        damping: Share of the mean diagonal that `damped` adds.
        row_weights: `(out,)` mean diagonal of each output channel's own moment, where groups
            share `second_moment`; of an embedding how often each entry is read, one reading more
            added to all; else None.
    """

    second_moment: Tensor
    mean: Tensor
    sample: Tensor
    input_grid: Grid
    output_grid: Grid
    damping: float = DAMPING
    row_weights: Tensor | None = None


def collect(
    model: nn.Module,
    layers: Sequence[Layer],
    inputs: Inputs,
    batch: int = 128,
    damping: float = DAMPING,
    only: Collection[str] | None = None,
    run: Callable[[], object] | None = None,
    grids: Mapping[str, Grid] = MappingProxyType({}),
) -> dict[str, Statistics]:
    """Runs the calibration inputs through the dense model once.

    Args:
        model: In evaluation mode.
        layers: The layers that are treated.
        inputs: `(n, ...)` for each input of the model.
        batch: Examples in one forward pass.
        damping: What `Statistics` records for those who invert the moments.
        only: Names of the layers that are asked for; None for all.  What is found of a layer does
            not depend on it.
        run: Runs the inputs through the part of the model that these layers are in; None runs all
            of it.
        grids: Output grids of layers that were collected before.
    """
    wanted = [layer for layer in layers if only is None or layer.name in only]
    # Of the layers whose grid another one takes over, only the output is looked at.
    sources = {layer.source for layer in wanted} - {layer.name for layer in wanted} - {*grids}
    lent = [layer for layer in layers if layer.name in sources]
    watchers = {layer.name: _Watcher(model.get_submodule(layer.name), layer) for layer in wanted}
    lenders = {layer.name: _Watcher(model.get_submodule(layer.name), layer) for layer in lent}
    handles = [w.module.register_forward_hook(w.hook) for w in watchers.values()]
    handles += [w.module.register_forward_hook(w.look) for w in lenders.values()]
    try:
        with torch.no_grad():
            if run is not None:
                run()
            else:
                for parts in batches(inputs, batch):
                    model(*parts)
    finally:
        for handle in handles:
            handle.remove()
    outputs = {name: watcher.output_grid() for name, watcher in {**watchers, **lenders}.items()}
    outputs = {**grids, **outputs}
    return {
        layer.name: watchers.pop(layer.name).statistics(
            # A pair that shares a tensor shares its grid, so that no requantisation lies between.
            outputs.get(layer.source),
            outputs[layer.name],
            damping,
        )
        for layer in wanted
    }


class _Watcher:
    """Sums up one layer's inputs and outputs while batches pass."""

    def __init__(self, module: nn.Module, layer: Layer) -> None:
        self.module = module
        self.activation = layer.activation
        self.rows = 0
        self.second: Tensor | float = 0.0
        self.first: Tensor | float = 0.0
        self.samples: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        x = inputs[0]
        if isinstance(module, nn.Embedding):
            # What is multiplied are rows of an identity, each of which reads one entry.
            self.first = self.first + torch.bincount(x.flatten(), minlength=module.num_embeddings)
            self.look(module, inputs, output)
            return
        rows = rows_of(module, some(module, x, output))
        self.rows += len(rows)
        # Products of a batch in single precision, their sum in double.
        self.second = self.second + _products(module, rows).double()
        self.first = self.first + rows.sum(0).double()
        if is_operator(module) and sum(map(len, self.samples)) < SAMPLE_EXAMPLES:
            room = max(1, SAMPLE_BYTES // (x[0].numel() * x.element_size()))
            self.samples.append(x.detach()[:room].clone())
        self.inputs.append(_thinned(x, SAMPLE_VALUES // 16))
        self.look(module, inputs, output)

    def look(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Of the output only."""
        del module, inputs
        self.outputs.append(_thinned(activate(output, self.activation), SAMPLE_VALUES // 16))

    def output_grid(self) -> Grid:
        return fit_grid(torch.cat(self.outputs))

    def statistics(self, source: Grid | None, output_grid: Grid, damping: float) -> Statistics:
        assert isinstance(self.first, Tensor)
        if isinstance(self.module, nn.Embedding):
            return _of_entries(self.module, self.first, output_grid, damping)
        assert isinstance(self.second, Tensor)
        second, row_weights = self.second / self.rows, None
        if second.dim() == 3:
            assert isinstance(self.module, nn.modules.conv._ConvNd)
            # Each group meets its share of the rows.
            second, row_weights = _shared(len(second) * second, self.module.out_channels)
        return Statistics(
            second_moment=second,
            mean=self.first / self.rows,
            sample=_joined(self.samples)[:SAMPLE_EXAMPLES],
            input_grid=source or fit_grid(torch.cat(self.inputs)),
            output_grid=output_grid,
            damping=damping,
            row_weights=row_weights,
        )


def _joined(samples: Sequence[Tensor]) -> Tensor:
    """Samples of all batches; as rows where examples do not come first in them."""
    if not samples:
        return torch.zeros(0)
    if len({sample.shape[1:] for sample in samples}) > 1:
        samples = [sample.reshape(-1, sample.shape[-1]) for sample in samples]
    return torch.cat([*samples])


def activate(x: Tensor, activation: str) -> Tensor:
    """`x` after a layer's `activation`: `relu`, `relu6` or none."""
    if activation == "relu6":
        return x.clamp(0, 6)
    return x.relu() if activation == "relu" else x


def some(module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """Evenly spaced examples of a batch, as many as unfold within `UNFOLDED` bytes; mostly all."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return x
    read = module.in_channels * prod(module.kernel_size)
    each = max(1, output[0, 0].numel() * read * x.element_size())
    return x[:: max(1, -(-len(x) * each // UNFOLDED))]


def _of_entries(
    module: nn.Embedding, counts: Tensor, output_grid: Grid, damping: float
) -> Statistics:
    """Statistics of an embedding, whose entries were read so often."""
    width = module.embedding_dim
    often = counts.double() + 1
    return Statistics(
        second_moment=torch.eye(width, dtype=torch.float64),
        mean=torch.zeros(width, dtype=torch.float64),
        sample=torch.zeros(0),
        input_grid=Grid(1.0, 0),
        output_grid=output_grid,
        damping=damping,
        row_weights=often / often.sum(),
    )


def _products(module: nn.Module, rows: Tensor) -> Tensor:
    """`(d, d)` sum of the rows' outer products, or `(groups, d, d)`."""
    groups = groups_of(module)
    if groups == 1:
        return rows.T @ rows
    grouped = rows.reshape(-1, groups, rows.shape[1])
    return torch.einsum("ngi,ngj->gij", grouped, grouped)


def _shared(moments: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """One moment for all groups, and each output channel's weight; `(d, d)` and `(outputs,)`.

    Within a row only the shape of the moment counts, and neighbouring pixels are alike in every
    channel; how much one row counts beside another is its scale.
    """
    scale = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    shape = (moments / scale[:, None, None]).mean(0)
    return shape, scale.repeat_interleave(outputs // len(moments))


def fit_grid(values: Tensor) -> Grid:
    """The grid with the least mean squared rounding and clipping error over `values`."""
    values = _thinned(values, SAMPLE_VALUES)
    low, high = float(values.min()), float(values.max())
    best, least = Grid.covering(low, high), float("inf")
    for shrink in torch.linspace(1.0, 0.4, 25).tolist():
        grid = Grid.covering(low * shrink, high * shrink)
        rounded = torch.fake_quantize_per_tensor_affine(
            values, grid.scale, grid.zero_point, 0, 255
        )
        error = float((rounded - values).double().square().mean())
        if error < least:
            best, least = grid, error
    return best


def middle_grids(
    steps: Sequence[nn.Module], x: Tensor, grid: Grid | None = None
) -> tuple[Grid, ...]:
    """Grids of the values between the factors of a layer.

    Args:
        steps: What the factors compute, in order, without any rounding.
        x: Inputs of the layer.
        grid: Of the input; the values then arrive rounded everywhere, else nowhere.
    """
    grids = []
    with torch.no_grad():
        for step in steps[:-1]:
            x = step(x if grid is None else FakeQuantize(grid)(x))
            grids.append(fit_grid(x.flatten()))
            grid = None if grid is None else grids[-1]
    return tuple(grids)


def damped(second_moment: Tensor, share: float = DAMPING) -> Tensor:
    """`H` with `share` of its mean diagonal added, so that it can be inverted."""
    mean = second_moment.diagonal().mean().clamp_min(1e-12)
    result = second_moment.clone()
    result.diagonal().add_(share * mean)
    return result


def _thinned(values: Tensor, count: int) -> Tensor:
    """A copy of about `count` evenly spaced values, and the extremes; always the same ones."""
    flat = values.detach().flatten()
    if len(flat) <= count:
        return flat.clone()  # the model may go on in place
    return torch.cat([flat[:: len(flat) // count], flat.min()[None], flat.max()[None]])
