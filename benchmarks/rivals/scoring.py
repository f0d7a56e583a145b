"""The one function that scores what any tool made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from autocompress.hardware.runtimes.onnx_session import LOADER_KEY, open_session, read_proto
from autocompress.hardware.timing import interleaved
from rivals.problem import Budget, Problem

BATCH = 100
BLOCKS, BLOCK_MS = 40, 5.0
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Score:
    """What a model is worth.

    Args:
        agreement: Percent of inputs on which it decides as the original does.
        kl: Mean Kullback-Leibler divergence of its output from the original's, in nats.
        bytes_percent: Bytes of what ships, over those of the original's float32 ONNX file.
        latency_percent: CPU time over the original's, timed in turn with it.
    """

    agreement: float
    kl: float
    bytes_percent: float
    latency_percent: float

    def meets(self, budget: Budget) -> bool:
        """Whether a limit is kept; latency within 2 %, which is what a repetition varies by."""
        if budget.name == "size":
            return self.bytes_percent <= 100 * budget.share
        return self.latency_percent <= 102 * budget.share


def score(problem: Problem, model: Path, shipped: Path) -> Score:
    """Scores a model in onnxruntime with one thread.

    Args:
        problem: Whose original it stands for.
        model: ONNX file that runs.
        shipped: File whose bytes count.
    """
    session, original = open_as_its_user(read_proto(model)), open_as_its_user(problem.original)
    expected, given = outputs(original, problem.inputs), outputs(session, problem.inputs)
    example = renamed(session, problem.example)
    timings = interleaved(
        {
            "original": lambda: original.run(None, problem.example),
            "model": lambda: session.run(None, example),
        },
        BLOCKS,
        BLOCK_MS,
    )
    return Score(
        agreement=agreement_percent(expected, given),
        kl=kl_nats(expected, given),
        bytes_percent=100 * shipped.stat().st_size / problem.original_bytes,
        latency_percent=100 * timings["model"].p20_ms / timings["original"].p20_ms,
    )


def open_as_its_user(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Ours carries the settings of its loader; any other file is opened as it stands."""
    if any(entry.key == LOADER_KEY for entry in proto.metadata_props):
        return open_session(proto, threads=1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def outputs(session: onnxruntime.InferenceSession, inputs: dict[str, Array]) -> Array:
    """`(n, classes)` outputs, in batches; one by one where the graph is bound to one."""
    first = session.get_inputs()[0].shape
    step = first[0] if first and isinstance(first[0], int) else BATCH
    count = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, count - count % step if step != BATCH else count, step):
        part = {name: values[start : start + step] for name, values in inputs.items()}
        parts.append(session.run(None, renamed(session, part))[0])
    return np.concatenate(parts)


def renamed(session: onnxruntime.InferenceSession, inputs: dict[str, Array]) -> dict[str, Array]:
    """The same arrays under the names that a session's own inputs bear, in order."""
    names = [value.name for value in session.get_inputs()]
    return dict(zip(names, inputs.values(), strict=True))


def agreement_percent(expected: Array, given: Array) -> float:
    """Share of rows with the same largest entry, in percent."""
    count = len(given)
    return float(100 * (expected[:count].argmax(1) == given.argmax(1)).mean())


def kl_nats(expected: Array, given: Array) -> float:
    """Mean over the rows of the divergence of `given`'s softmax from `expected`'s."""
    first, second = _log_softmax(expected[: len(given)]), _log_softmax(given)
    return float((np.exp(first) * (first - second)).sum(1).mean())


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64)
    shifted = shifted - shifted.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
