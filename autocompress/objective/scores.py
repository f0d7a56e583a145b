"""How much worse every example became by the task's own loss, for `proxy = "task"`.

The task loss of an example may also fall, and then by luck: the search would take the noise of few
examples for progress.  So only rises count; the score is 0 for the original and never negative,
as all that is built on it expects.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from autocompress.errors import ConfigError, DataError


class TaskScores:
    """Rise of the cross-entropy with the labels over the original's, by example.

    Args:
        reference: The original's logits `(n, ..., classes)`.
        labels: `(n, ...)` class numbers, one for each row of logits.

    Raises:
        ConfigError: If the outputs are not logits of classes.
        DataError: If the labels do not fit the outputs.
    """

    def __init__(self, reference: Tensor, labels: Tensor) -> None:
        if reference.ndim < 2 or reference.shape[-1] < 2:
            raise ConfigError(
                "proxy 'task' needs outputs (n, classes); the model gives"
                f' {tuple(reference.shape)}; use an objective with proxy = "mse"'
            )
        if labels.shape != reference.shape[:-1]:
            raise DataError(
                f"labels() gives {tuple(labels.shape)} for outputs {tuple(reference.shape)};"
                f" expected {tuple(reference.shape[:-1])}"
            )
        classes = reference.shape[-1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise DataError(
                f"labels() holds {int(labels.min())} to {int(labels.max())}; the model has"
                f" {classes} classes, from 0"
            )
        self._labels = labels
        self._reference = _losses(reference, labels)

    def __call__(self, outputs: Tensor, rows: slice = slice(None)) -> Tensor:
        """Scores `(n, ...)` in nats of a model's logits for some rows."""
        return (_losses(outputs, self._labels[rows]) - self._reference[rows]).clamp_min(0)


def _losses(outputs: Tensor, labels: Tensor) -> Tensor:
    logits = torch.log_softmax(outputs.double(), -1)
    return -logits.gather(-1, labels[..., None])[..., 0]


def labels_key(labels: Tensor) -> str:
    """Short hash of labels."""
    return hashlib.sha256(labels.contiguous().numpy().tobytes()).hexdigest()[:16]
