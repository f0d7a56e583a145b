"""What every tool is given, and what it is held to.

A tool reads three files of a folder: `float.onnx` (the original, batch norms folded),
`calibration.npz` (the calibration inputs, and one example input) and `request.json`.  It writes
`model.onnx`, which runs in onnxruntime, and may write `model.bin`, what it would ship instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.model.canonical import canonical
from autocompress.model.task import Task, load_task
from autocompress.model.trace import trace

LIMITED = ("size", "latency")


@dataclass(frozen=True)
class Budget:
    """One limit.

    Args:
        name: `size` or `latency`.
        share: The most that is allowed, as a share of the original.
    """

    name: str
    share: float

    @staticmethod
    def parse(text: str) -> Budget:
        """`size=25%` or `latency=50%`.

        Raises:
            ValueError: If it is neither.
        """
        name, _, value = text.partition("=")
        number = value.strip().removesuffix("%")
        try:
            share = float(number) / 100
        except ValueError:
            share = 0.0
        if name.strip() not in LIMITED or not value.strip().endswith("%") or not share > 0:
            raise ValueError(f"budget {text!r}: write size=25% or latency=50%")
        return Budget(name.strip(), share)

    def __str__(self) -> str:
        return f"{self.name}={100 * self.share:g}%"


@dataclass(frozen=True)
class Problem:
    """One study as a contest.

    Args:
        study: Folder of the study.
        folder: Where the files of the problem are.
        original: The float model.
        original_bytes: Of `float.onnx`.
        example: One input as the device sees it, by name.
        inputs: What is scored on, by name: neither calibrated nor searched on.
    """

    study: Path
    folder: Path
    original: onnx.ModelProto
    original_bytes: int
    example: dict[str, np.ndarray[Any, Any]]
    inputs: dict[str, np.ndarray[Any, Any]]


class _Recorder(nn.Module):
    """The original, which keeps what it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Any:
        self.seen.append(tuple(value.detach().clone() for value in inputs))
        return self.model(*inputs)


def scored_inputs(task: Task, model: nn.Module, count: int) -> tuple[Tensor, ...]:
    """The first `count` inputs on which the task's `evaluate` judges its test split.

    Raises:
        ValueError: If the task has no splits: what it evaluates on is searched on as well.
    """
    if not task.has_splits:
        raise ValueError(f"{task.origin}: evaluate() takes no split, so nothing is left to score")
    recorder = _Recorder(model)
    task.evaluate(recorder, "test")
    columns = zip(*recorder.seen, strict=True)
    return tuple(torch.cat(parts)[:count] for parts in columns)


def make_problem(study: Path, folder: Path, images: int) -> Problem:
    """Exports a study's model and inputs.

    Args:
        study: Folder with `task.py`.
        folder: Where to; made.
        images: The most inputs that are scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = load_task(study)
    model, example = task.model(), task.example_inputs()
    folded = canonical(model, example).model
    original = assemble(export_float(folded, trace(folded, example), example), {})
    del original.metadata_props[:]  # other loaders have no use for our settings
    onnx.save(original, str(folder / "float.onnx"))
    names = [value.name for value in original.graph.input]
    arrays = {name: value.numpy() for name, value in zip(names, task.calibration(), strict=True)}
    examples = {f"example/{name}": x.numpy() for name, x in zip(names, example, strict=True)}
    np.savez(folder / "calibration.npz", **arrays, **examples)  # type: ignore[arg-type]
    inputs = scored_inputs(task, model, images)
    return Problem(
        study=study,
        folder=folder,
        original=original,
        original_bytes=(folder / "float.onnx").stat().st_size,
        example={name: value.numpy() for name, value in zip(names, example, strict=True)},
        inputs={name: value.numpy() for name, value in zip(names, inputs, strict=True)},
    )


def parse_budgets(texts: Sequence[str]) -> list[Budget]:
    return [Budget.parse(text) for text in texts]
