"""Shows on the example inputs that a channel group can be removed, or says why it cannot.

The narrower model must compute what the masked one does, in which the consumers merely do not read
the removed channels: in the model's output and in what every layer gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from autocompress.errors import AutocompressError
from autocompress.model.channels import STEP, ChannelGroup
from autocompress.model.shrink import Kept, kept_channels, masked, shrink
from autocompress.model.task import Inputs

TOLERANCE = 1e-4  # of a tensor's largest value, by which any value may differ

Choice = Mapping[ChannelGroup, Sequence[int]]


def fault(
    model: nn.Module, layers: Sequence[str], inputs: Inputs, choices: Sequence[Choice]
) -> str:
    """Why the narrower models of some choices are wrong; empty if each equals its masked one.

    Args:
        model: In evaluation mode; not changed.
        layers: Names of the Linear and Conv2d whose outputs are compared.
        inputs: Example inputs.
        choices: Each maps groups to the pieces that stay.
    """
    for choice in choices:
        try:
            small = _values(shrink(model, choice), layers, inputs)
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            words = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"a narrower model fails: {words}"
        try:
            whole = _values(masked(model, choice), layers, inputs)
        except AutocompressError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            words = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"a model with zeroed columns fails: {words}"
        stays = kept_channels(model, choice)
        if list(small) != list(whole):
            return "a narrower model runs other layers"
        for name, values in small.items():
            if not _agree(values, _rows(model, name, whole[name], stays)):
                what = f"layer {name.partition(' ')[2]!r}" if " " in name else "its output"
                return f"a narrower model computes something else: {what} differs"
    return ""


def samples(
    group: ChannelGroup, step: int = STEP, rng: np.random.Generator | None = None
) -> list[list[int]]:
    """Kept sets that a group is verified with: a half, the most, and one piece if allowed.

    Args:
        group: Of at least two pieces.
        step: Channels by which widths change on the device.
        rng: Draws the pieces.
    """
    rng = rng or np.random.default_rng(0)
    counts = group.counts(step) or (group.size - 1,)
    # One channel alone would be broadcast where it should not be: that is tried if it may happen.
    one = [1] if counts[0] == 1 else []
    sizes = list(dict.fromkeys([max(1, group.size // 2), counts[-1], *one]))
    if len(sizes) == 1:
        sizes *= 2  # the same number of other pieces
    return [sorted(rng.permutation(group.size)[:n].tolist()) for n in sizes]


def _values(model: nn.Module, layers: Sequence[str], inputs: Inputs) -> dict[str, Tensor]:
    """What every layer gives, and the tensors of the output, by place."""
    found: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            found[f"layer {name}"] = output.clone()  # the model may go on in place

        return hook

    handles = [model.get_submodule(name).register_forward_hook(record(name)) for name in layers]
    try:
        with torch.no_grad():
            output = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for index, leaf in enumerate(_pytree.tree_leaves(output)):
        if isinstance(leaf, Tensor):
            found[f"output{index}"] = leaf
    return found


def _rows(model: nn.Module, name: str, values: Tensor, kept: Mapping[str, Kept]) -> Tensor:
    layer = name.removeprefix("layer ")
    rows = kept[layer].rows if layer != name and layer in kept else None
    if rows is None:
        return values
    channel = -1 if isinstance(model.get_submodule(layer), nn.Linear) else -3
    return values.index_select(channel, rows)


def _agree(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    if not found.numel():
        return True
    largest = float(wanted.abs().max())
    difference = float((found - wanted).abs().max())
    return bool(np.isfinite(difference)) and difference <= TOLERANCE * largest
