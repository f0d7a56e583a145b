"""What the delivered model and the original decided on the test split, example by example.

Two nights are compared in pairs: only where their decisions differ can their accuracies.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autocompress.errors import StorageError
from autocompress.files import write_bytes

NAME = "decisions.safetensors"
MOST = 4_000_000  # decisions that are kept; more tell no more

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Decisions:
    """Decisions on the test split, in the order in which `evaluate` asked for them.

    Args:
        winner: `(n,)` of the delivered model: class numbers, or 1 for a positive output.
        original: `(n,)` of the original.
        inputs: Hash of the inputs.
    """

    winner: Integers
    original: Integers
    inputs: str


class Watched(nn.Module):
    """Runs a model, keeps what it decides and hashes what it is given.

    Args:
        model: Gives the outputs.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._made: list[Integers] = []
        self._digest = hashlib.sha256()
        self._count = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(*inputs)
        for tensor in inputs:
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            self._digest.update(data.numpy().data)
        if self._count < MOST:
            made = decisions(outputs.detach()).flatten().to(torch.int32)[: MOST - self._count]
            self._made.append(made.cpu().numpy())
            self._count += len(made)
        return outputs

    @property
    def decisions(self) -> Integers:
        """All of them, `(n,)`."""
        return np.concatenate(self._made) if self._made else np.zeros(0, dtype=np.int32)

    @property
    def inputs(self) -> str:
        """Hash of all inputs, in their order and however they were batched."""
        return self._digest.hexdigest()[:32]


class Twins(nn.Module):
    """Runs two models on the same inputs, returns the first one's outputs and counts agreements.

    Args:
        first: Gives the outputs.
        second: Is compared with it.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.examples = 0
        self.agreed = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs: Tensor = self.first(*inputs)
        with torch.no_grad():
            others: Tensor = self.second(*inputs)
        same = decisions(outputs) == decisions(others)
        self.examples += same.numel()
        self.agreed += int(same.sum())
        return outputs

    @property
    def agreement(self) -> float:
        """Share of equal decisions; 1 when nothing was compared."""
        return self.agreed / self.examples if self.examples else 1.0


def decisions(outputs: Tensor) -> Tensor:
    """The chosen class; for a single output its sign."""
    return outputs.argmax(-1) if outputs.ndim > 1 and outputs.shape[-1] > 1 else outputs > 0


def write_decisions(path: Path, made: Decisions | None) -> None:
    """Writes the decisions of a run; None removes those of an earlier one.

    Raises:
        StorageError: If the file cannot be written.
    """
    if made is None:
        path.unlink(missing_ok=True)
        return
    tensors = {
        "winner": torch.from_numpy(made.winner.astype(np.int32)),
        "original": torch.from_numpy(made.original.astype(np.int32)),
    }
    write_bytes(path, save(tensors, {"decisions": json.dumps({"inputs": made.inputs})}))


def read_decisions(path: Path) -> Decisions | None:
    """The decisions of a run, or None where there are none.

    Raises:
        StorageError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            inputs = str(json.loads(file.metadata()["decisions"])["inputs"])
            return Decisions(file.get_tensor("winner"), file.get_tensor("original"), inputs)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: damaged or unreadable: {error}") from None
