"""Compresses a chosen candidate again, in sequence, on the inputs that really arrive.

Bank entries are fitted to the dense model's inputs, so that they can be stitched in any
combination. Once the combination is known, each layer's target becomes the dense output given
compressed inputs (the asymmetric calibration of GPTAQ, 2504.02692):
`W* = W E[x y^T] E[y y^T]^-1` with `x` the dense and `y` the delivered input; the bias takes up
what is left of the mean.  The candidate runs once, and each layer is fitted when its input
arrives.  Where not all inputs fit the memory, a chain of blocks is walked through block by block,
original and candidate side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from autocompress.compression.carry import carry
from autocompress.compression.lockstep import (
    affordable,
    caught_inputs,
    run_all,
    some_of,
    walk_along,
)
from autocompress.compression.moments import DAMPING, damped
from autocompress.compression.narrow import weight_columns
from autocompress.compression.rounded import swap_sums
from autocompress.compression.treated import Treated, build_module
from autocompress.model.chain import Stopped
from autocompress.model.layer import Layer
from autocompress.model.matrix import rows_of
from autocompress.model.shrink import Kept, slice_module
from autocompress.model.swap import swap
from autocompress.model.task import Inputs
from autocompress.search_space.option import Option

MEMORY = 2**30  # bytes of dense inputs that are kept while the candidate runs
ROWS = 64  # rows for each column that a moment is taken over, if there are more
FEWEST_ROWS = 2**15


@dataclass(frozen=True)
class Moments:
    """What a layer's dense input `x` and delivered input `y` say together, all float64.

    Args:
        delivered: `(d, d)` mean of `y y^T`.
        cross: `(d, d)` mean of `x y^T`.
        dense_mean: `(d,)` mean of `x`.
        mean: `(d,)` mean of `y`.
    """

    delivered: Tensor
    cross: Tensor
    dense_mean: Tensor
    mean: Tensor


def resolve(
    model: nn.Module,
    layers: Sequence[Layer],
    entries: Mapping[str, Treated],
    choices: Mapping[str, Option],
    inputs: Inputs,
    batch: int = 128,
    damping: float = DAMPING,
    memory: int = MEMORY,
) -> dict[str, Treated]:
    """What is stored for each treated layer of a candidate, fitted in sequence.

    Args:
        model: The dense model; not changed.
        layers: In the order in which they run.  Those that are only stored, that run more than
            once or whose weight others read keep their entries.
        entries: Layer to its bank entry under its option: gives survivors and int8 grids.
        choices: Layer to option; identities stay dense.
        inputs: Calibration inputs, of which as many are used as fit into `memory`.
        batch: Examples in one forward pass of the dense model and in one product.
        damping: Share of the mean diagonal that is added to moments before they are inverted.
        memory: Bytes that may be kept.
    """
    chosen = {
        layer.name: choices[layer.name]
        for layer in layers
        if not choices.get(layer.name, Option()).is_identity
    }
    if not chosen:
        return {}
    kept = {
        layer.name: entries[layer.name]
        for layer in layers
        if layer.name in chosen and not (layer.is_operator and layer.calls == 1 and not layer.tied)
    }
    fitted = [layer.name for layer in layers if layer.name in chosen and layer.name not in kept]
    count, chain = affordable(model, fitted, inputs, memory)
    inputs = some_of(inputs, count)
    arriving: dict[str, list[Tensor]] = {}
    compressed = copy.deepcopy(model)
    fitters: dict[str, _Fitter] = {}
    for layer in layers:
        if layer.name in kept:
            module = build_module(model.get_submodule(layer.name), entries[layer.name])
            swap(compressed, layer.name, module)
        elif layer.name in chosen:
            dense = model.get_submodule(layer.name)
            fitters[layer.name] = _Fitter(
                dense,
                layer,
                chosen[layer.name],
                entries[layer.name],
                arriving,
                batch,
                damping,
                layer.name == fitted[-1],
            )
            swap(compressed, layer.name, fitters[layer.name])
    swap_sums(compressed, {name: entries[name] for name in chosen}.get)
    with torch.no_grad():
        if chain is None:
            arriving.update(caught_inputs(model, fitted, partial(run_all, model, inputs, batch)))
            with suppress(Stopped):
                compressed(*inputs)
        else:
            walk_along(model, compressed, chain, fitted, arriving, inputs, batch)
    found = {name: fitter.treated for name, fitter in fitters.items()}
    return {name: kept.get(name) or found[name] for name in chosen}  # type: ignore[misc]


class _Fitter(nn.Module):
    """Stands in the place of a layer: fits it to the input that arrives, then computes it.  The
    last one ends the pass: what comes behind it is of no use."""

    treated: Treated | None = None

    def __init__(
        self,
        dense: nn.Module,
        layer: Layer,
        option: Option,
        entry: Treated,
        arriving: dict[str, list[Tensor]],
        batch: int,
        damping: float,
        is_last: bool,
    ) -> None:
        super().__init__()
        # In a list, or the dense layer's weights would become this module's.
        self.dense = [dense]
        self.layer = layer
        self.option = option
        self.entry = entry
        self.arriving = arriving
        self.batch = batch
        self.damping = damping
        self.is_last = is_last

    def forward(self, y: Tensor) -> Tensor:
        (dense,) = self.dense
        if self.treated is None:
            self.treated = self._treat(dense, y)
            if self.is_last:
                raise Stopped
        output: Tensor = build_module(dense, self.treated)(y)
        return output

    def _treat(self, dense: nn.Module, y: Tensor) -> Treated:
        parts = self.arriving.pop(self.layer.name)
        if self.layer.groups > 1:
            return _shift_bias(dense, self.entry, parts, y)
        x, paired = _examples_first(parts, y)
        moments = _paired(dense, x, paired, self.batch)
        moment = damped(moments.delivered, self.damping)
        return _correct_bias(dense, self._fit(dense, moments, moment, y), moments)

    def _fit(self, dense: nn.Module, moments: Moments, moment: Tensor, y: Tensor) -> Treated:
        inputs = self.entry.narrow.inputs if self.entry.narrow else None
        if inputs is None:
            target = _target(dense, moments, moment)
            return carry(self.layer, dense, target, moment, y, self.option, self.entry)
        columns = weight_columns(dense, inputs)
        small = copy.deepcopy(dense)
        slice_module(small, Kept(None, inputs))
        treated = carry(
            self.layer.narrowed(len(inputs)),
            small,
            _target(dense, moments, moment, columns),
            moment[columns][:, columns],
            y.index_select(-1 if isinstance(dense, nn.Linear) else -3, inputs),
            replace(self.option, inputs=1.0),
            replace(self.entry, narrow=None),
        )
        return replace(treated, narrow=self.entry.narrow)


def _target(
    dense: nn.Module, moments: Moments, moment: Tensor, columns: Tensor | None = None
) -> Tensor:
    """The weight `(out, d)` on all or some columns that best restores the dense output."""
    weight = dense.weight.detach().flatten(1).double()  # type: ignore[operator]
    # The damping pulls towards the dense weight, not towards zero.
    wanted = weight @ (moments.cross + (moment - moments.delivered))
    if columns is not None:
        wanted, moment = wanted[:, columns], moment[columns][:, columns]
    solved: Tensor = torch.linalg.solve(moment, wanted, left=False)
    return solved


def _correct_bias(dense: nn.Module, treated: Treated, moments: Moments) -> Treated:
    """Adds the mean output error to the bias, if there is one: `b + W E[x] - W' E[y]`."""
    if treated.bias is None:
        return treated
    weight = dense.weight.detach().flatten(1).double()  # type: ignore[operator]
    bias = dense.bias.detach().double()  # type: ignore[operator]
    corrected = bias + weight @ moments.dense_mean - treated.matrix().double() @ moments.mean
    return replace(treated, bias=corrected.to(treated.bias.dtype))


def _shift_bias(dense: nn.Module, entry: Treated, x: list[Tensor], y: Tensor) -> Treated:
    """The entry with the mean error of its output added to the bias, if there is one.

    A grouped convolution has few weights a row: their least-squares fit is left out.
    """
    if entry.bias is None:
        return entry
    plain = build_module(dense, Treated(entry.weights, entry.bias, entry.grids[:1] + (None,)))
    wanted = sum(dense(part).double().sum((0, 2, 3)) for part in x)
    found = sum(plain(part).double().sum((0, 2, 3)) for part in torch.split(y, len(x[0])))
    positions = plain(y[:1])[0, 0].numel() * len(y)
    bias = entry.bias.double() + (wanted - found) / positions
    return replace(entry, bias=bias.to(entry.bias.dtype))


def _examples_first(x: list[Tensor], y: Tensor) -> tuple[list[Tensor], Tensor]:
    """Inputs of all batches in the dense model, and of all examples in the candidate, so that the
    same rows meet; sequences may come with their steps first."""
    if sum(map(len, x)) == len(y):
        return x, y
    return [part.transpose(0, 1) for part in x], y.transpose(0, 1)


def _paired(dense: nn.Module, x: list[Tensor], y: Tensor, batch: int) -> Moments:
    second, cross, dense_sum, total = [torch.zeros((), dtype=torch.float64)] * 4
    rows = taken = step = 0
    for xs, ys in zip(x, torch.split(y, batch), strict=True):
        left, right = rows_of(dense, xs), rows_of(dense, ys)
        rows += len(left)
        # Products of a batch in single precision, their sum in double.
        dense_sum, total = dense_sum + left.sum(0).double(), total + right.sum(0).double()
        # Neighbouring positions of an image say nearly the same: some are enough for products.
        enough = max(FEWEST_ROWS, ROWS * left.shape[1])
        step = step or max(1, len(left) * len(x) // enough)
        left, right = left[::step], right[::step]
        taken += len(left)
        second, cross = second + (right.T @ right).double(), cross + (left.T @ right).double()
    return Moments(second / taken, cross / taken, dense_sum / rows, total / rows)
