"""Compresses a chosen candidate again, in sequence, on the inputs that really arrive.

Bank entries are fitted to the dense model's inputs, so that they can be stitched in any
combination. Once the combination is known, each layer's target becomes the dense output given
compressed inputs (the asymmetric calibration of GPTAQ, 2504.02692):
`W* = W E[x y^T] E[y y^T]^-1` with `x` the dense and `y` the delivered input; the bias takes up
what is left of the mean.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics, damped, unfold
from autocompress.compression.treated import Treated, build_module
from autocompress.model.layer import Layer
from autocompress.model.swap import swap
from autocompress.model.task import Inputs, batches
from autocompress.search_space.option import Option


def resolve(
    model: nn.Module,
    layers: Sequence[Layer],
    statistics: Mapping[str, Statistics],
    choices: Mapping[str, Option],
    inputs: Inputs,
    batch: int = 128,
) -> dict[str, Treated]:
    """What is stored for each treated layer of a candidate, fitted in sequence.

    Args:
        model: The dense model; not changed.
        layers: In the order in which they run.
        statistics: Of the dense model; gives the int8 grids.
        choices: Layer to option; identities stay dense.
        inputs: Calibration inputs.
        batch: Examples in one forward pass.
    """
    compressed = copy.deepcopy(model)
    done: dict[str, Treated] = {}
    for layer in layers:
        option = choices.get(layer.name, Option())
        if option.is_identity:
            continue
        dense = model.get_submodule(layer.name)
        paired = _paired_moments(model, compressed, layer.name, inputs, batch)
        target, moved = _retarget(dense, statistics[layer.name], *paired)
        treated = next(compress_layer(layer, target, moved, [option]))[1]
        treated = _correct_bias(dense, treated, paired[2], moved.mean)
        swap(compressed, layer.name, build_module(dense, treated))
        done[layer.name] = treated
    return done


def _retarget(
    dense: nn.Module,
    statistics: Statistics,
    delivered: Tensor,
    cross: Tensor,
    _: Tensor,
    mean: Tensor,
) -> tuple[nn.Module, Statistics]:
    """A copy of the layer with the weight that best restores the dense output; its moments."""
    moment = damped(delivered, statistics.damping)
    weight = dense.weight.detach().flatten(1).double()  # type: ignore[operator]
    # The damping pulls towards the dense weight, not towards zero.
    wanted = weight @ (cross + (moment - delivered))
    solved = torch.linalg.solve(moment, wanted, left=False)
    target = copy.deepcopy(dense)
    target.weight = nn.Parameter(
        solved.float().reshape(dense.weight.shape),
        requires_grad=False,
    )
    return target, replace(statistics, second_moment=delivered, mean=mean)


def _correct_bias(dense: nn.Module, treated: Treated, dense_mean: Tensor, mean: Tensor) -> Treated:
    """Adds the mean output error to the bias, if there is one: `b + W E[x] - W' E[y]`."""
    if treated.bias is None:
        return treated
    weight = dense.weight.detach().flatten(1).double()  # type: ignore[operator]
    bias = dense.bias.detach().double()  # type: ignore[operator]
    corrected = bias + weight @ dense_mean - treated.matrix().double() @ mean
    return replace(treated, bias=corrected.to(treated.bias.dtype))


def _paired_moments(
    model: nn.Module, compressed: nn.Module, name: str, inputs: Inputs, batch: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`E[y y^T]`, `E[x y^T]`, `E[x]`, `E[y]` of a layer's dense `x` and delivered `y`."""
    caught: list[Tensor] = []

    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        caught.append(unfold(module, arguments[0].clone()))  # the model may go on in place

    handles = [m.get_submodule(name).register_forward_pre_hook(hook) for m in (model, compressed)]
    sums: list[Tensor | float] = [0.0] * 4
    rows = 0
    try:
        with torch.no_grad():
            for parts in batches(inputs, batch):
                caught.clear()
                model(*parts)
                compressed(*parts)
                x, y = caught
                rows += len(x)
                for index, term in enumerate((y.T @ y, x.T @ y, x.sum(0), y.sum(0))):
                    # Products of a batch in single precision, their sum in double.
                    sums[index] = sums[index] + term.double()
    finally:
        for handle in handles:
            handle.remove()
    second, cross, dense_mean, mean = (torch.as_tensor(total) / rows for total in sums)
    return second, cross, dense_mean, mean
