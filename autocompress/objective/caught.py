"""Inputs and outputs of some layers in one forward pass, and gradients at these outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.model.task import Inputs
from autocompress.model.tied import TiedEmbedding, ties_of

ROOM = 2**31  # bytes of activations that a pass with gradients may hold


def affordable(
    model: nn.Module, names: Iterable[str], inputs: Inputs, most: int, room: int = ROOM
) -> int:
    """How many examples one pass with gradients may hold in `room`; at most `most`."""
    watched = list(names)
    caught = Caught(model, watched)
    caught.run(tuple(tensor[:1] for tensor in inputs))
    kept = [
        tensor
        for calls in caught.calls.values()
        for call in calls
        for tensor in (call.input, call.output)
    ]
    # What is caught, the graph's own copies, and the gradients of several backward passes.
    each = 6 * sum(tensor.numel() * tensor.element_size() for tensor in kept)
    return max(1, min(most, room // max(1, each)))


@dataclass(frozen=True)
class Call:
    """One call of a layer, or of an embedding that reads its weight.

    Args:
        input: What arrived.
        output: What came of it, a place where gradients are taken.
        tied: The embedding, or None.
    """

    input: Tensor
    output: Tensor
    tied: TiedEmbedding | None = None


class Caught:
    """Watches layers of a model whose parameters need no gradient.

    Args:
        model: In evaluation mode.
        names: The layers.

    Attributes:
        calls: Layer to its calls, after `run`.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.model = model
        self.calls: dict[str, list[Call]] = {name: [] for name in names}
        self._count = 0

    def run(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The model's output, with a graph that begins at the first watched output."""
        self._count = len(parts[0])
        ties = {reader: name for reader, name in ties_of(self.model).items() if name in self.calls}
        watched = {**{name: name for name in self.calls}, **ties}
        handles = [
            self.model.get_submodule(reader).register_forward_hook(self._hook(name))
            for reader, name in watched.items()
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
            # Weights need no gradient; the graph starts at the first watched output.
            output = output if output.requires_grad else output.detach().requires_grad_()
            x = inputs[0].detach().clone()  # the model may go on in place
            tied = module if isinstance(module, TiedEmbedding) else None
            self.calls[name].append(Call(x, output, tied))
            # An in-place ReLU downstream must not overwrite what the gradient is taken at.
            return output.clone()

        return hook

    def gradients(self, scalar: Tensor) -> dict[str, list[Tensor]]:
        """Layer to the gradients of a scalar at the outputs of its calls."""
        outputs = [call.output for calls in self.calls.values() for call in calls]
        found = torch.autograd.grad(scalar, outputs, retain_graph=True, allow_unused=True)
        gradients = iter(
            torch.zeros_like(output) if gradient is None else gradient
            for output, gradient in zip(outputs, found, strict=True)
        )
        return {name: [next(gradients) for _ in calls] for name, calls in self.calls.items()}

    def change(self, name: str, module: nn.Module) -> Tensor:
        """`(examples, values)`: how far another module in a layer's place gives other outputs."""
        with torch.no_grad():
            changes = [
                (call.tied.bound(module) if call.tied else module)(call.input)
                - call.output.detach()
                for call in self.calls[name]
            ]
        return self.by_example(changes)

    def by_example(self, calls: list[Tensor]) -> Tensor:
        """`(examples, values)` of what belongs to the calls of a layer, side by side."""
        parts = [_by_example(values, self._count) for values in calls]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _by_example(values: Tensor, count: int) -> Tensor:
    """`(count, values)`, whether examples come first, second, or each in several rows."""
    if len(values) != count and values.dim() > 2 and values.shape[1] == count:
        return values.transpose(0, 1).flatten(1)
    if len(values) % count == 0:
        return values.reshape(count, -1)
    # Rows that belong to no example of their own: each gets its share of them all.
    return values.reshape(len(values), -1).sum(0, keepdim=True).expand(count, -1) / count
