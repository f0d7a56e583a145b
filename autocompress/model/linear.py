"""`Linear` layers over tensors that are there already."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

Kind = TypeVar("Kind", bound=nn.Linear)


def linear_over(weight: Tensor, bias: Tensor | None, kind: type[Kind]) -> Kind:
    """A layer that shares its memory with a weight `(out, in)` and a bias `(out,)`.

    Args:
        weight: Its gradients are wanted as they were.
        bias: None for a layer without.
        kind: `nn.Linear`, or a class of that signature.
    """
    linear = kind(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = shared_parameter(weight, weight)
    if bias is not None:
        linear.bias = shared_parameter(bias, bias)
    return linear


def shared_parameter(like: Tensor, values: Tensor) -> nn.Parameter:
    """A parameter over the memory of `values`, trained where `like` is."""
    return nn.Parameter(values.detach(), requires_grad=like.requires_grad)
