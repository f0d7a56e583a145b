"""Torch-Pruning: the smallest uniform channel ratio that keeps the budget, without training.

Its pruner takes a ratio of channels, not a budget; the ratio is found here by halving an interval.
Bytes are those of the exported file; latency is taken to follow multiply-adds, which is what the
tool counts.

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
    low, high, kept = 0.0, 0.98, b""
    for _ in range(STEPS):
        ratio = (low + high) / 2
        pruned = prune(model, example, ratio)
        content = exported(pruned, example)
        if request["limit"] == "size":
            share = len(content) / (problem / "float.onnx").stat().st_size
        else:
            share = multiply_adds(pruned, example) / multiply_adds(model, example)
        if share <= request["share"]:
            high, kept = ratio, content
        else:
            low = ratio
    (out / "model.onnx").write_bytes(kept or exported(prune(model, example, high), example))


def multiply_adds(model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> float:
    return float(torch_pruning.utils.count_ops_and_params(model, example)[0])


def exported(model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> bytes:
    """The ONNX file, with a free batch dimension and without the exporter's notes."""
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model,
        example,
        dynamo=True,
        dynamic_shapes=tuple({0: batch} for _ in example),
        verbose=False,
    )
    proto = program.model_proto
    del proto.graph.value_info[:], proto.graph.metadata_props[:], proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return proto.SerializeToString()


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
