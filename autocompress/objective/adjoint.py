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

from autocompress.model.memory import allowance, model_bytes
from autocompress.model.task import Inputs, batches
from autocompress.model.trace import run
from autocompress.objective.caught import Caught, affordable
from autocompress.search_space.option import Option

SHARE, LEAST = 0.5, 2**27  # of the model's bytes, and bytes: for what a pass with gradients holds
SMALL, PLENTY = 2**27, 2**29  # beside a model of up to so many bytes that much goes unnoticed


def adjoint_prices(
    model: nn.Module,
    menus: Mapping[str, Sequence[Option]],
    build: Callable[[str, Option], nn.Module],
    inputs: Inputs,
    kind: str,
    generator: torch.Generator,
    probes: int = 8,
    batch: int = 64,
    room: int | None = None,
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
        batch: Most examples that are drawn for together; `probes * ceil(n / batch)` backward
            passes in all, unless they are cut up.
        room: Bytes of activations and gradients that are held; a batch of more is cut up, which
            changes prices by rounding only.  None is a share of the model's size.

    Returns:
        Layer to `(options,)` losses, 0 for the identity.
    """
    totals = {name: np.zeros(len(menu)) for name, menu in menus.items()}
    outputs: list[Tensor] = []
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        together = affordable(model, menus, inputs, batch)
        if room is None:
            least = PLENTY if model_bytes(model) <= SMALL else LEAST
            room = allowance(model, SHARE, least)
        few = affordable(model, menus, inputs, together, room)
        for parts in batches(inputs, together):
            draws: list[Tensor] = []
            if few < len(parts[0]):
                whole = torch.cat([run(model, piece) for piece in batches(parts, few)])
                draws = _draws(whole, kind, generator, probes)
            for place, piece in enumerate(batches(parts, few)):
                caught = Caught(model, menus)
                logits = caught.run(piece)
                outputs += [logits.detach()] if kind == "mse" else []
                draws = draws or _draws(logits.detach(), kind, generator, probes)
                own = [draw[place * few :][: len(logits)] for draw in draws]
                gradients = [caught.gradients(_log_likelihood(logits, kind, draw)) for draw in own]
                _add(totals, caught, gradients, menus, build)
                del caught, logits, gradients  # before the next ones take as much
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
    # What the proxy divides by: the examples, and for `mse` the variance over all of them.
    share = 1.0 if kind == "kl" else float(torch.cat(outputs).double().var().clamp_min(1e-12))
    return {name: total / (len(inputs[0]) * share) for name, total in totals.items()}


def _add(
    totals: Mapping[str, NDArray[np.float64]],
    caught: Caught,
    gradients: Sequence[Mapping[str, list[Tensor]]],
    menus: Mapping[str, Sequence[Option]],
    build: Callable[[str, Option], nn.Module],
) -> None:
    """Adds what the examples of one pass say of every option."""
    for name, menu in menus.items():
        adjoint = torch.stack([caught.by_example(g[name]) for g in gradients])
        for index, option in enumerate(menu):
            if option.is_identity:
                continue
            change = caught.change(name, build(name, option))
            products = torch.einsum("pnd,nd->pn", adjoint, change).double()
            totals[name][index] += 0.5 * float(products.square().mean(0).sum())


def _draws(logits: Tensor, kind: str, generator: torch.Generator, probes: int) -> list[Tensor]:
    """For each probe `(n, positions, 1)` labels, or signs of the shape of the outputs."""
    if kind == "mse":
        return [
            torch.randint(0, 2, logits.shape, generator=generator) * 2.0 - 1 for _ in range(probes)
        ]
    chances = torch.log_softmax(logits, -1).flatten(0, -2).exp()
    return [
        torch.multinomial(chances, 1, generator=generator).reshape(len(logits), -1, 1)
        for _ in range(probes)
    ]


def _log_likelihood(logits: Tensor, kind: str, drawn: Tensor) -> Tensor:
    """A scalar whose gradient, squared and averaged over draws, is the Gauss-Newton matrix."""
    if kind == "mse":
        signed: Tensor = (2 / logits[0].numel()) ** 0.5 * (logits * drawn).sum()
        return signed
    log_probabilities: Tensor = torch.log_softmax(logits, -1).flatten(0, -2)
    # Several positions of one example average in the proxy, so their gradients do too.
    positions = max(1, log_probabilities.shape[0] // len(logits))
    likely: Tensor = log_probabilities.gather(1, drawn.flatten(0, 1)).sum() / positions**0.5
    return likely
