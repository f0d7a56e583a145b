"""Gauss-Newton prices: what every option of every layer costs in KL, from a few backward passes.

To second order `KL = 1/2 E[(g . dY)^2]` with `dY` the change of a layer's output on one example
and `g` the gradient of the log-likelihood of a label drawn from the model itself (the Fisher
information seen from the layer's output).  The gradients are shared by all options; an option then
costs one forward pass of its layer.  It prices rounded activations as well as weights, which
weight-space forms do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.model.task import Inputs, batches
from autocompress.objective.caught import Caught, affordable
from autocompress.search_space.option import Option


def adjoint_prices(
    model: nn.Module,
    menus: Mapping[str, Sequence[Option]],
    build: Callable[[str, Option], nn.Module],
    inputs: Inputs,
    kind: str,
    generator: torch.Generator,
    probes: int = 8,
    batch: int = 64,
) -> dict[str, NDArray[np.float64]]:
    """Predicted loss of each option alone.

    Args:
        model: The dense model in evaluation mode.
        menus: Layer to options.
        build: The module of a layer under an option.
        inputs: Calibration inputs, `(n, ...)` each.
        kind: `kl` draws labels; `mse` draws random signs of the outputs.
        generator: For the draws.
        probes: Backward passes for each batch.
        batch: Most examples in one pass; `probes * ceil(n / batch)` backward passes in all.

    Returns:
        Layer to `(options,)` losses, 0 for the identity.
    """
    totals = {name: np.zeros(len(menu)) for name, menu in menus.items()}
    outputs: list[Tensor] = []
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        for parts in batches(inputs, affordable(model, menus, inputs, batch)):
            caught = Caught(model, menus)
            logits = caught.run(parts)
            outputs += [logits.detach()] if kind == "mse" else []
            gradients = [
                caught.gradients(_log_likelihood(logits, kind, generator)) for _ in range(probes)
            ]
            for name, menu in menus.items():
                adjoint = torch.stack([g[name] for g in gradients]).flatten(2)
                for index, option in enumerate(menu):
                    if option.is_identity:
                        continue
                    change = caught.change(name, build(name, option)).flatten(1)
                    products = torch.einsum("pnd,nd->pn", adjoint, change).double()
                    totals[name][index] += 0.5 * float(products.square().mean(0).sum())
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
    # What the proxy divides by: the examples, and for `mse` the variance over all of them.
    share = 1.0 if kind == "kl" else float(torch.cat(outputs).double().var().clamp_min(1e-12))
    return {name: total / (len(inputs[0]) * share) for name, total in totals.items()}


def _log_likelihood(logits: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """A scalar whose gradient, squared and averaged over draws, is the Gauss-Newton matrix."""
    if kind == "mse":
        signs = torch.randint(0, 2, logits.shape, generator=generator) * 2.0 - 1
        signed: Tensor = (2 / logits[0].numel()) ** 0.5 * (logits * signs).sum()
        return signed
    log_probabilities: Tensor = torch.log_softmax(logits, -1).flatten(0, -2)
    labels = torch.multinomial(log_probabilities.detach().exp(), 1, generator=generator)
    # Several positions of one example average in the proxy, so their gradients do too.
    positions = max(1, log_probabilities.shape[0] // len(logits))
    drawn: Tensor = log_probabilities.gather(1, labels).sum() / positions**0.5
    return drawn
