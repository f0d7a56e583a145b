"""Finds the layers of a model by running it once; every layer not treated has a reason."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import TaskError
from autocompress.model.dataflow import Flow, dataflow
from autocompress.model.layer import Layer
from autocompress.model.matrix import OPERATORS, STORED, groups_of, weight_shape
from autocompress.model.task import Inputs
from autocompress.model.tied import ties_of


def trace(model: nn.Module, example_inputs: Inputs) -> tuple[Layer, ...]:
    """Every module that owns parameters, in the order in which they first ran.

    Args:
        model: Evaluated once with `example_inputs`; not changed.
        example_inputs: One tensor for each input of the model.

    Raises:
        TaskError: If the model fails on the example inputs or does not return one tensor.
    """
    owners = {
        name: module
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    calls: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += 1
            macs[name] += _macs(module, _shape(inputs), _shape(output))
            shapes.setdefault(name, (_shape(inputs), _shape(output)))

        return hook

    ties = ties_of(model)
    first: dict[str, None] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            first.setdefault(name)

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in owners.items()]
    # A layer runs when its weight is first read.
    readers = {**{name: name for name in owners}, **ties}
    handles += [
        model.get_submodule(reader).register_forward_pre_hook(note(name))
        for reader, name in readers.items()
    ]
    try:
        output = run(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, Tensor):
        raise TaskError(
            f"the model returned {type(output).__name__}; wrap it so that forward() returns one"
            " tensor of logits `(n, classes)`"
        )
    flows = dataflow(model, example_inputs)
    shared = _shared_parameters(owners)
    order = [*first, *(name for name in owners if name not in first)]
    layers = []
    for name in order:
        flow = flows.get(name, Flow("", ""))
        module = owners[name]
        inputs, outputs = shapes.get(name, ((), ()))
        weight = getattr(module, "weight", None)
        layers.append(
            Layer(
                name=name,
                kind=type(module).__name__,
                weight_shape=weight_shape(module) if isinstance(weight, Tensor) else (),
                parameters=sum(p.numel() for p in module.parameters(recurse=False)),
                macs=macs[name],
                calls=calls[name],
                input_shape=inputs,
                output_shape=outputs,
                reason=_reason(module, names[id(module)], calls[name], shared.get(name)),
                activation=flow.activation,
                source=flow.source,
                groups=groups_of(module),
                tied=tuple(reader for reader, owner in ties.items() if owner == name),
            )
        )
    return tuple(layers)


def run(model: nn.Module, inputs: Inputs) -> Any:
    """The model's output without gradients.

    Raises:
        TaskError: If the model raises; the message keeps its words.
    """
    try:
        with torch.no_grad():
            return model(*inputs)
    except Exception as error:  # the user's forward may raise anything
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise TaskError(
            f"the model fails on inputs of shape {shapes}: {type(error).__name__}: {error}"
        ) from error


def _macs(module: nn.Module, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    """Multiply-adds of one call; 0 for modules that look up, scale or recur."""
    if isinstance(module, nn.Linear):
        return prod(outputs) * module.in_features
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        # A weight `(in, out / groups, ...)` meets every input value.
        return prod(inputs) * prod(module.weight.shape[1:])
    if isinstance(module, nn.modules.conv._ConvNd):
        return prod(outputs) * prod(module.weight.shape[1:])
    return 0


def _reason(module: nn.Module, names: list[str], calls: int, shares: str | None) -> str:
    """Why the module stays dense; empty when it can be treated."""
    if type(module) not in (*OPERATORS, *STORED):
        return f"{type(module).__name__} is not treated"
    if "" in names:
        return "the model is this layer itself"
    if calls == 0:
        return "did not run on the example inputs"
    if shares is not None:
        return f"shares its weight with {shares}"
    if hasattr(module, "parametrizations") or "weight" not in module._parameters:
        return "its weight is computed by a parametrization"
    if module.weight.dtype != torch.float32:
        return f"its weight is {str(module.weight.dtype).removeprefix('torch.')}, not float32"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "its entries are scaled down when they are read"
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.padding_mode != "zeros":
            return f"padding mode {module.padding_mode!r}"
        if isinstance(module.padding, str):
            return f"padding given as {module.padding!r}"
    return ""


def _shared_parameters(owners: dict[str, nn.Module]) -> dict[str, str]:
    """Layer name to the name of another layer that holds one of its parameters."""
    holders: dict[int, list[str]] = {}
    for name, module in owners.items():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(name)
    return {
        name: next(other for other in names if other != name)
        for names in holders.values()
        if len(set(names)) > 1
        for name in names
    }


def _shape(value: Any) -> tuple[int, ...]:
    """Shape of the first tensor in an input or output."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return tuple(value.shape) if isinstance(value, Tensor) else ()
