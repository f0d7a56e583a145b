"""What every switch of one layer does to the loss of a compressed model, to first order.

One backward pass gives the gradient at the weights of every layer; an option's slope is its inner
product with the difference of the weights.  Rounded activations are passed straight through
(Bengio et al., 1308.3432): what another rounding changes is not in the slope.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from autocompress.compression.treated import FakeQuantize
from autocompress.model.matrix import OPERATORS, STORED, matrix_of, weight_gradient
from autocompress.model.tied import built_matrix
from autocompress.objective.caught import Caught, affordable
from autocompress.objective.quality import Proxy
from autocompress.search_space.factors import kernel_index
from autocompress.search_space.option import Option

BATCH = 64  # most examples in one pass, whose activations are kept for the way back


def slopes(
    model: nn.Module,
    menus: Mapping[str, Sequence[Option]],
    build: Callable[[str, Option], nn.Module],
    chosen: Mapping[str, Option],
    proxy: Proxy,
) -> NDArray[np.float64]:
    """Slopes `(all options,)` in the order of units and options; 0 for those that are chosen.

    Args:
        model: The stitched candidate, in evaluation mode.
        menus: Unit to options.
        build: The module of a unit under an option.
        chosen: The candidate.
        proxy: Its loss, over all of its inputs.
    """
    gradients = _weight_gradients(model, menus, proxy)
    result = []
    for name, menu in menus.items():
        along = [_along(gradients[name], build(name, option)) for option in menu]
        here = along[menu.index(chosen[name])]
        result += [value - here for value in along]
    return np.array(result)


def _weight_gradients(
    model: nn.Module, names: Mapping[str, Sequence[Option]], proxy: Proxy
) -> dict[str, Tensor]:
    """Gradient of the mean loss at the matrix `(out, in * kh * kw)` of each layer as a whole."""
    total: dict[str, Tensor] = {}
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        count = len(proxy.inputs[0])
        batch = affordable(model, names, proxy.inputs, BATCH)
        for start in range(0, count, batch):
            rows = slice(start, min(start + batch, count))
            caught = Caught(model, names)
            outputs = caught.run(tuple(tensor[rows] for tensor in proxy.inputs))
            found = caught.gradients(proxy.losses(outputs, rows).sum() / count)
            for name in names:
                layer = model.get_submodule(name)
                for call, above in zip(caught.calls[name], found[name], strict=True):
                    if call.tied:
                        gradient = _entry_gradient(layer, call.input, above)
                    else:
                        gradient = _weight_gradient(layer, call.input, above)
                    total[name] = total[name] + gradient if name in total else gradient
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return total


def _entry_gradient(module: nn.Module, tokens: Tensor, gradient: Tensor) -> Tensor:
    """Of an embedding that reads the layer's weight."""
    rows, columns = len(built_matrix(module)), gradient.shape[-1]
    found = gradient.new_zeros(rows, columns)
    return found.index_add_(0, tokens.flatten(), gradient.reshape(-1, columns))


def _weight_gradient(module: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    if isinstance(module, STORED):
        return weight_gradient(module, x, gradient)
    steps = list(module) if isinstance(module, nn.Sequential) else [module]
    if isinstance(steps[0], FakeQuantize):
        x = steps.pop(0)(x)
    layers = [step for step in steps if isinstance(step, nn.Linear | nn.Conv2d)]
    first = layers[kernel_index(len(layers))]
    if isinstance(first, nn.Linear):
        return gradient.flatten(0, -2).T @ x.flatten(0, -2)
    size = (gradient.shape[1], layers[0].weight.shape[1], *first.kernel_size)
    # Other steps of a factored convolution are pointwise: strides are those of this one.
    found: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        x,
        size,
        gradient,
        stride=first.stride,
        padding=first.padding,
        dilation=first.dilation,
        groups=first.groups,
    )
    return found.flatten(1)


def _along(gradient: Tensor, module: nn.Module) -> float:
    """Inner product of a gradient `(out, columns)` with a module's matrix, which is not formed."""
    weights = [
        matrix_of(step) for step in module.modules() if isinstance(step, (*OPERATORS, *STORED))
    ]
    if len(weights) == 3:
        # A core reads what the first factor makes of each tap's channels.
        reduced, core, last = weights
        taps = (last.T @ gradient).reshape(len(core), reduced.shape[1], -1)
        return float((torch.einsum("bit,ai->bat", taps, reduced).flatten(1) * core).sum())
    for later in weights[:0:-1]:
        gradient = later.T @ gradient
    return float((gradient * weights[0]).sum())
