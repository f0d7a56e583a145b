"""Checkpoints of a training, as safetensors: weights, Adam's moments, the best weights so far."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autocompress.files import write_bytes

MOMENTS = ("step", "exp_avg", "exp_avg_sq")

Facts = dict[str, Any]


def save_state(
    path: Path,
    parameters: Sequence[nn.Parameter],
    optimiser: torch.optim.Adam,
    best: Sequence[Tensor] | None,
    facts: Mapping[str, Any],
) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: File to write.
        parameters: What is trained, in order.
        optimiser: Over them.
        best: Values of the parameters where they were best; None for nowhere yet.
        facts: Plain values; `key` says what the training was made from.

    Raises:
        StorageError: If the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(parameters):
        tensors[f"weight.{index}"] = parameter.detach()
        for moment in MOMENTS:
            value = optimiser.state[parameter].get(moment)
            if value is not None:
                tensors[f"{moment}.{index}"] = value.detach()
        if best is not None:
            tensors[f"best.{index}"] = best[index]
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, {"facts": json.dumps(dict(facts))}))


def load_state(
    path: Path, key: str, parameters: Sequence[nn.Parameter], optimiser: torch.optim.Adam
) -> tuple[Facts, list[Tensor] | None] | None:
    """Puts a checkpoint back; None, with nothing changed, if there is none of this training or it
    is damaged.

    Args:
        path: File that `save_state` wrote.
        key: What the training is made from.
        parameters: Filled in.
        optimiser: Filled in.

    Returns:
        The facts, and the best values if there are any.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            if facts["key"] != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        shapes = [tensors[f"weight.{index}"].shape for index in range(len(parameters))]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    if shapes != [parameter.shape for parameter in parameters]:
        return None
    for index, parameter in enumerate(parameters):
        parameter.data.copy_(tensors[f"weight.{index}"])
        state = {moment: tensors.get(f"{moment}.{index}") for moment in MOMENTS}
        if all(value is not None for value in state.values()):
            optimiser.state[parameter] = {
                moment: value if moment == "step" else value.to(parameter.device)  # type: ignore[union-attr]
                for moment, value in state.items()
            }
    best = [tensors[f"best.{i}"] for i in range(len(parameters)) if f"best.{i}" in tensors]
    return facts, best if len(best) == len(parameters) else None
