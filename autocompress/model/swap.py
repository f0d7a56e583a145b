"""Puts modules into a model by name."""

from __future__ import annotations

from torch import nn


def swap(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replaces the submodule at the dotted path `name`, in place.

    Raises:
        AttributeError: If there is no submodule of that name.
    """
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    if child not in owner._modules:
        raise AttributeError(f"swap: {type(model).__name__} has no submodule {name!r}")
    owner._modules[child] = module
