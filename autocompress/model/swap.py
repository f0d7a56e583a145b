"""Puts modules into a model by name."""

from __future__ import annotations

from torch import nn


def swap(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replaces the submodule at the dotted path `name`, in place, wherever else it is registered
    too: a module that a model has under two names is one layer.

    Raises:
        AttributeError: If there is no submodule of that name.
    """
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    if child not in owner._modules:
        raise AttributeError(f"swap: {type(model).__name__} has no submodule {name!r}")
    before = owner._modules[child]
    owner._modules[child] = module
    if before is None or before is module:
        return
    for other in model.modules():
        for key, held in other._modules.items():
            if held is before:
                other._modules[key] = module
