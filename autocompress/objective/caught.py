"""Inputs and outputs of some layers in one forward pass, and gradients at these outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.model.task import Inputs

ROOM = 2**31  # bytes of activations that a pass with gradients may hold


def affordable(
    model: nn.Module, names: Iterable[str], inputs: Inputs, most: int, room: int = ROOM
) -> int:
    """How many examples one pass with gradients may hold in `room`; at most `most`."""
    watched = list(names)
    caught = Caught(model, watched)
    caught.run(tuple(tensor[:1] for tensor in inputs))
    kept = [*caught.inputs.values(), *caught.outputs.values()]
    # What is caught, the graph's own copies, and the gradients of several backward passes.
    each = 6 * sum(tensor.numel() * tensor.element_size() for tensor in kept)
    return max(1, min(most, room // max(1, each)))


class Caught:
    """Watches layers of a model whose parameters need no gradient.

    Args:
        model: In evaluation mode.
        names: The layers; each must run once.

    Attributes:
        inputs: Layer to its input, after `run`.
        outputs: Layer to its output.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.model = model
        self.names = list(names)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def run(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The model's output, with a graph that begins at the first watched output."""
        handles = [
            self.model.get_submodule(name).register_forward_hook(self._hook(name))
            for name in self.names
        ]
        try:
            with torch.enable_grad():
                result = self.model(*parts)
        finally:
            for handle in handles:
                handle.remove()
        assert isinstance(result, Tensor)
        return result

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            del module
            self.inputs[name] = inputs[0].detach().clone()  # the model may go on in place
            # Weights need no gradient; the graph starts at the first watched output.
            output = output if output.requires_grad else output.detach().requires_grad_()
            self.outputs[name] = output
            # An in-place ReLU downstream must not overwrite what the gradient is taken at.
            return output.clone()

        return hook

    def gradients(self, scalar: Tensor) -> dict[str, Tensor]:
        """Layer to the gradient of a scalar at its output."""
        outputs = [self.outputs[name] for name in self.names]
        found = torch.autograd.grad(scalar, outputs, retain_graph=True, allow_unused=True)
        return {
            name: torch.zeros_like(output) if gradient is None else gradient
            for name, output, gradient in zip(self.names, outputs, found, strict=True)
        }

    def change(self, name: str, module: nn.Module) -> Tensor:
        """How far another module in a layer's place gives another output."""
        with torch.no_grad():
            change: Tensor = module(self.inputs[name]) - self.outputs[name].detach()
        return change
