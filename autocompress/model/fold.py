"""Batch norms folded into the convolutions before them: fewer bytes, and int8 kernels in a row.

In evaluation mode a batch norm is a scale and a shift of each channel, which the convolution's own
weights and bias can hold (Jacob et al., 1712.05877, section 3.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from autocompress.errors import TaskError
from autocompress.model.exporting import exported_graph
from autocompress.model.memory import shared_copy
from autocompress.model.swap import swap
from autocompress.model.trace import run

TOLERANCE = 1e-4  # of the largest output, by which folding may change any
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# What computes an operator, and the dimensions that a batch norm behind it has.
_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv1d": (nn.Conv1d,),
    "conv2d": (nn.Conv2d,),
    "conv3d": (nn.Conv3d,),
    "batch_norm": BATCH_NORMS,
}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norms(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy of a model with every batch norm folded that alone reads a convolution's output.

    Args:
        model: In evaluation mode; it is not changed.
        example_inputs: Positional inputs of one forward pass.

    Returns:
        The copy, in which an `Identity` stands in the place of each and which shares all tensors
        but those of the folded convolutions; the model itself when there
        is none, when it cannot be exported, or when folding would change its outputs.
    """
    pairs = _pairs(model, example_inputs)
    if not pairs:
        return model
    folded = shared_copy(model)
    for name, norm in pairs.items():
        before, after = folded.get_submodule(name), folded.get_submodule(norm)
        assert isinstance(before, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        assert isinstance(after, BATCH_NORMS)
        swap(folded, name, fuse_conv_bn_eval(before, after))
        swap(folded, norm, nn.Identity())
    return folded if _agree(model, folded, example_inputs) else model


def _agree(model: nn.Module, folded: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    try:
        before, after = run(model, inputs), run(folded, inputs)
    except TaskError:
        return False
    bound = TOLERANCE * float(before.abs().max())
    return bool(torch.isfinite(after).all()) and float((after - before).abs().max()) <= bound


def _pairs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, str]:
    """Convolution to the batch norm that alone reads it; each runs once, under one name."""
    if not any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        return {}
    graph = exported_graph(model, example_inputs)
    if graph is None:
        return {}
    owners = _owners(model, graph.nodes)
    names = Counter(
        id(module) for _, module in model.named_modules(remove_duplicate=False)
    )  # a module under two names cannot be swapped under one
    runs = Counter(id(model.get_submodule(name)) for name in owners.values())
    shared = Counter(id(tensor) for module in model.modules() for tensor in _tensors(module))
    pairs = {}
    for node, name in owners.items():
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        norm = owners.get(reader) if reader is not None else None
        if norm is None:
            continue
        first, second = model.get_submodule(name), model.get_submodule(norm)
        once = all(names[id(m)] == runs[id(m)] == 1 for m in (first, second))
        own = all(shared[id(tensor)] == 1 for m in (first, second) for tensor in _tensors(m))
        if once and own and type(first) in _CONVOLUTIONS and _is_fixed(second):
            pairs[name] = norm
    return pairs


def _is_fixed(module: nn.Module) -> bool:
    return type(module) in BATCH_NORMS and module.running_mean is not None


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in module._parameters.values() if tensor is not None]


def _owners(model: nn.Module, nodes: Iterable[fx.Node]) -> dict[fx.Node, str]:
    """Node to the name of the convolution or batch norm that it computes."""
    owners = {}
    for node in nodes:
        target = node.target
        kind = target._opname if isinstance(target, torch._ops.OpOverload) else ""
        paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        if kind not in _KINDS or not paths:
            continue
        name = paths[-1].split("@")[0]  # a repeated call is marked by a suffix
        if isinstance(model.get_submodule(name), _KINDS[kind]):
            owners[node] = name
    return owners
