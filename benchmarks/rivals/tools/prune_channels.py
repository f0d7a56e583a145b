"""Torch-Pruning: the smallest uniform channel ratio that keeps the budget, without training.

Its pruner takes a ratio of channels, not a budget; the ratio is found here by halving an interval.
Bytes are four for a parameter; latency is taken to follow multiply-adds, which it does not.

    python prune_channels.py PROBLEM OUT
"""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch_pruning

STEPS = 8


def main() -> None:
    problem, out = Path(sys.argv[1]), Path(sys.argv[2])
    request = json.loads((out / "request.json").read_text())
    spec = importlib.util.spec_from_file_location("task", Path(request["study"]) / "task.py")
    assert spec is not None
    assert spec.loader is not None
    task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(task)
    model = task.model().eval()
    arrays = np.load(problem / "calibration.npz")
    example = tuple(
        torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("example/")
    )
    which = 1 if request["limit"] == "size" else 0  # (multiply-adds, parameters)
    target = request["share"] * torch_pruning.utils.count_ops_and_params(model, example)[which]
    low, high, best = 0.0, 0.98, None
    for _ in range(STEPS):
        ratio = (low + high) / 2
        pruned = prune(model, example, ratio)
        if torch_pruning.utils.count_ops_and_params(pruned, example)[which] <= target:
            high, best = ratio, pruned
        else:
            low = ratio
    best = best if best is not None else prune(model, example, high)
    # Exported with a free batch dimension, like the original.
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        best,
        example,
        str(out / "model.onnx"),
        dynamo=True,
        dynamic_shapes=tuple({0: batch} for _ in example),
        external_data=False,
        verbose=False,
    )


def prune(
    model: torch.nn.Module, example: tuple[torch.Tensor, ...], ratio: float
) -> torch.nn.Module:
    """A copy with `ratio` of the channels of every group gone, those of least L2 norm."""
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        classes = pruned(*example).shape[1]
    linear = [m for m in pruned.modules() if isinstance(m, torch.nn.Linear)]
    pruner = torch_pruning.pruner.MetaPruner(
        pruned,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[m for m in linear if m.out_features == classes][-1:],
    )
    pruner.step()
    return pruned


main()
