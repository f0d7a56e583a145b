"""A search that one writes in an afternoon: Optuna's TPE over bits and rank of each layer.

Weights are rounded to nearest, per output channel, on a symmetric grid; ranks come from a plain
singular value decomposition.  A trial is scored by the divergence of its output from the
original's on some calibration inputs, in onnxruntime.  The budget is a constraint: bytes of the
packed file, or the time of the trial's model over the original's.

    python tpe_search.py PROBLEM OUT
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import optuna
from onnx import helper, numpy_helper

BITS = (32, 8, 6, 5, 4, 3, 2)
RANKS = (1.0, 0.75, 0.5, 0.25, 0.125)
IMAGES = 256


class Layers:
    """The convolutions and matrix products of a model whose weights can be replaced."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.tensors = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        self.nodes = [
            index
            for index, node in enumerate(proto.graph.node)
            if node.op_type in ("Conv", "Gemm") and node.input[1] in self.tensors
        ]

    def candidate(self, choices: list[tuple[int, float]]) -> tuple[onnx.ModelProto, bytes]:
        """The model with other weights, and the packed file that would ship."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        del proto.graph.node[:], proto.graph.initializer[:]
        tensors, packed, replaced = dict(self.tensors), [], set()
        for index, node in enumerate(self.proto.graph.node):
            if index not in self.nodes:
                proto.graph.node.append(node)
                continue
            bits, share = choices[self.nodes.index(index)]
            weight = tensors.pop(node.input[1])
            replaced.add(node.input[1])
            parts = factors(node, weight, share)
            for number, part in enumerate(parts):
                rounded, stored = quantized(part, bits)
                tensors[f"{node.input[1]}/{number}"] = rounded
                packed.append(stored)
            proto.graph.node.extend(rewritten(node, len(parts)))
        for name, values in tensors.items():
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
            if name.rsplit("/", 1)[0] not in replaced:
                packed.append(values.tobytes())
        text = json.dumps(choices).encode() + node_text(self.proto)
        return proto, zlib.compress(text + b"".join(packed), 9)


def node_text(proto: onnx.ModelProto) -> bytes:
    """What a loader needs of the graph besides weights."""
    return b"".join(node.SerializeToString() for node in proto.graph.node)


def factors(node: onnx.NodeProto, weight: np.ndarray, share: float) -> list[np.ndarray]:
    """One matrix, or two whose product is near it; none for grouped convolutions."""
    groups = [a.i for a in node.attribute if a.name == "group"]
    matrix = weight.reshape(len(weight), -1)
    rank = max(1, round(share * min(matrix.shape)))
    transposed = node.op_type == "Gemm" and not any(
        a.name == "transB" and a.i for a in node.attribute
    )
    if share >= 1 or transposed or groups not in ([], [1]):
        return [weight]
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    root = np.sqrt(values[:rank])
    first = (root[:, None] * right[:rank]).astype(np.float32)
    second = (left[:, :rank] * root).astype(np.float32)
    if node.op_type == "Conv":
        return [first.reshape(rank, *weight.shape[1:]), second[:, :, None, None]]
    return [first, second]


def rewritten(node: onnx.NodeProto, parts: int) -> list[onnx.NodeProto]:
    """The node on the new weights: itself, or the two of a factored layer."""
    weight = node.input[1]
    if parts == 1:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        kept.input[1] = f"{weight}/0"
        return [kept]
    middle = f"{weight}/middle"
    first = helper.make_node(node.op_type, [node.input[0], f"{weight}/0"], [middle])
    first.attribute.extend(node.attribute)
    second = helper.make_node(
        node.op_type, [middle, f"{weight}/1", *node.input[2:]], list(node.output)
    )
    if node.op_type == "Gemm":
        second.attribute.append(helper.make_attribute("transB", 1))
    return [first, second]


def quantized(values: np.ndarray, bits: int) -> tuple[np.ndarray, bytes]:
    """Rounded values, and their codes packed with half-precision scales."""
    if bits == 32:
        return values, values.tobytes()
    rows = values.reshape(len(values), -1)
    limit = max(1, 2 ** (bits - 1) - 1)
    scale = np.maximum(np.abs(rows).max(1, keepdims=True) / limit, 1e-8).astype(np.float16)
    scale = np.maximum(scale, np.float16(6e-8))
    codes = np.clip(np.rint(rows / scale.astype(np.float32)), -limit, limit)
    shifted = (codes + limit).astype(np.uint8).reshape(-1, 1)
    planes = np.unpackbits(shifted, axis=1)[:, 8 - bits :]
    packed = np.packbits(planes).tobytes()
    rounded = (codes * scale.astype(np.float32)).astype(np.float32).reshape(values.shape)
    return rounded, scale.tobytes() + packed


def open_model(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def milliseconds(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    """CPU time of a run: the quickest of 20."""
    times = []
    for _ in range(20):
        start = time.process_time_ns()
        session.run(None, feed)
        times.append((time.process_time_ns() - start) / 1e6)
    return min(times)


def main() -> None:
    problem, out = Path(sys.argv[1]), Path(sys.argv[2])
    request = json.loads((out / "request.json").read_text())
    layers = Layers(onnx.load(str(problem / "float.onnx")))
    arrays = np.load(problem / "calibration.npz")
    inputs = {n: arrays[n][:IMAGES] for n in arrays.files if not n.startswith("example/")}
    example = {n[8:]: arrays[n] for n in arrays.files if n.startswith("example/")}
    original = open_model(layers.proto)
    expected = log_softmax(original.run(None, inputs)[0])
    by_size = request["limit"] == "size"
    base = (problem / "float.onnx").stat().st_size
    allowed = request["share"] * (base if by_size else 1.0)

    def objective(trial: optuna.Trial) -> float:
        choices = [
            (
                trial.suggest_categorical(f"bits{index}", BITS),
                trial.suggest_categorical(f"rank{index}", RANKS),
            )
            for index in range(len(layers.nodes))
        ]
        proto, packed = layers.candidate(choices)
        session = open_model(proto)
        given = log_softmax(session.run(None, inputs)[0])
        if by_size:
            cost = float(len(packed))
        else:
            cost = milliseconds(session, example) / milliseconds(original, example)
        trial.set_user_attr("excess", cost / allowed - 1)
        trial.set_user_attr("choices", choices)
        return float((np.exp(expected) * (expected - given)).sum(1).mean())

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def constraints(trial: Any) -> tuple[float]:
        return (trial.user_attrs["excess"],)

    sampler = optuna.samplers.TPESampler(seed=request["seed"], constraints_func=constraints)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=request["trials"])
    best = min(study.trials, key=lambda t: (max(0.0, t.user_attrs["excess"]), t.value or 0.0))
    proto, packed = layers.candidate([tuple(pair) for pair in best.user_attrs["choices"]])
    onnx.save(proto, str(out / "model.onnx"))
    (out / "model.bin").write_bytes(packed)


main()
