"""How far a compressed model is from the original: the proxy that a search can afford thousands of
times.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.errors import ConfigError, TaskError
from autocompress.model.task import Inputs, batches
from autocompress.model.trace import run
from autocompress.objective.scores import TaskScores

WORST = 1e9  # stands in for a loss that is not finite
PARTS = 16  # of the inputs, to race on


@dataclass(frozen=True)
class Measurement:
    """A measured number.

    Args:
        value: The mean over examples.
        unit: Such as `nat`.
        direction: `minimize` or `maximize`.
        spread: Standard error of the mean.
        samples: `(n,)` value of each example, for paired comparisons; NaN where not measured.
        passes: What it cost, in passes of the model over all examples.
        seconds: Time it took.
        doubt: Relative standard error of `value` as an estimate of the mean over all examples; 0
            when all were measured.
    """

    value: float
    unit: str
    direction: str
    spread: float
    samples: NDArray[np.float64]
    passes: float = 1.0
    doubt: float = 0.0
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every example was measured."""
        return self.doubt == 0

    @property
    def examples(self) -> int:
        """On how many examples it was measured."""
        return int(np.isfinite(self.samples).sum())


class Proxy:
    """Distance of a model's outputs from the original's on fixed inputs; lower is better, 0 is
    equal.

    Args:
        model: The original.
        inputs: `(n, ...)` for each input of the model.
        kind: `kl`: mean of `KL(original || model)` over the last axis's softmax, in nats.
            `mse`: squared error over the variance of the original's outputs.
            `task`: mean rise of the cross-entropy with `labels`, in nats.
        labels: `(n, ...)` class numbers of the inputs, for `task`.
        batch: Examples in one forward pass.

    Raises:
        ConfigError: If `kl` or `task` is asked for outputs with fewer than two classes, or `task`
            without labels.
        DataError: If the labels do not fit the outputs.
        TaskError: If the original's outputs are not finite.

    Attributes:
        divergence: `kl` or `mse`: the kind that needs no labels, for gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        kind: str = "kl",
        batch: int = 256,
        labels: Tensor | None = None,
    ) -> None:
        self.kind = kind
        self.divergence = "kl" if kind == "task" else kind
        self.inputs = inputs
        self.batch = batch
        self.passes = 0
        reference = self._outputs(model)
        if not bool(torch.isfinite(reference).all()):
            raise TaskError("the original gives NaN or infinite outputs on the calibration inputs")
        if kind == "kl" and (reference.ndim < 2 or reference.shape[-1] < 2):
            raise ConfigError(
                f"proxy 'kl' needs outputs (n, classes); the model gives {tuple(reference.shape)};"
                ' use an objective with proxy = "mse"'
            )
        self._task = _task_scores(reference, labels) if kind == "task" else None
        self._reference = (
            torch.log_softmax(reference, -1) if self.divergence == "kl" else reference
        )
        self._variance = float(reference.var().clamp_min(1e-12))

    @cached_property
    def parts(self) -> tuple[slice, ...]:
        """The inputs cut into up to `PARTS` parts of nearly equal length, for racing."""
        count = len(self.inputs[0])
        ends = np.linspace(0, count, min(PARTS, count) + 1).round().astype(int).tolist()
        return tuple(slice(a, b) for a, b in itertools.pairwise(ends))

    def part(self, index: int) -> Inputs:
        """The inputs of one part."""
        return tuple(tensor[self.parts[index]] for tensor in self.inputs)

    def __call__(self, model: nn.Module) -> Measurement:
        """Measures a model; one full pass over the inputs."""
        self.passes += 1
        return self.measured(self.score(self._outputs(model)))

    def score(self, outputs: Tensor, rows: slice = slice(None)) -> NDArray[np.float64]:
        """The loss `(n,)` of each example, from a model's outputs `(n, ...)` for `rows`."""
        means = self.losses(outputs, rows)
        worst = torch.nan_to_num(means, nan=WORST, posinf=WORST).clamp(0, WORST)
        return np.asarray(worst.numpy(), dtype=np.float64)

    def losses(self, outputs: Tensor, rows: slice = slice(None)) -> Tensor:
        """The same as a tensor that gradients flow through, not bounded."""
        reference = self._reference[rows]
        if self._task is not None:
            values = self._task(outputs, rows)
        elif self.divergence == "kl":
            difference = reference - torch.log_softmax(outputs.double(), -1)
            values = (reference.exp() * difference).sum(-1)
        else:
            values = (outputs.double() - reference).square() / self._variance
        means: Tensor = values.reshape(len(values), -1).mean(1)
        return means

    def pushes(self, outputs: Tensor, rows: slice = slice(None)) -> Tensor:
        """How outputs `(n, ...)` differ from the original's, `(n, k)` float32, as a vector whose
        squared length is about the loss.

        For `kl`, to second order, half the variance of the change of the logits under the
        original's probabilities.  Not finite outputs give zeros.
        """
        reference = self._reference[rows]
        if self.divergence == "kl":
            chances = reference.exp()
            change = torch.log_softmax(outputs.double(), -1) - reference
            change = change - (chances * change).sum(-1, keepdim=True)
            pushed = (chances / 2).sqrt() * change
            share = pushed[0, ..., 0].numel()
        else:
            pushed = (outputs.double() - reference) / self._variance**0.5
            share = pushed[0].numel()
        flat = torch.nan_to_num(pushed.flatten(1), posinf=0.0, neginf=0.0)
        scaled: Tensor = (flat / share**0.5).float()
        return scaled

    def measured(
        self, samples: NDArray[np.float64], passes: float = 1.0, doubt: float = 0.0
    ) -> Measurement:
        """The measurement that per-example losses `(n,)` make; those not measured are NaN."""
        known = samples[np.isfinite(samples)]
        spread = float(known.std(ddof=1) / len(known) ** 0.5) if len(known) > 1 else 0.0
        unit = "nat" if self.divergence == "kl" else "share of variance"
        return Measurement(float(known.mean()), unit, "minimize", spread, samples, passes, doubt)

    def _outputs(self, model: nn.Module) -> Tensor:
        # float64 after the logits: differences of 1e-7 nats are compared.
        parts = batches(self.inputs, self.batch)
        return torch.cat([run(model, part) for part in parts]).double()


def _task_scores(reference: Tensor, labels: Tensor | None) -> TaskScores:
    if labels is None:
        raise ConfigError(
            "proxy 'task' needs the labels of the calibration inputs: give task.py a function"
            ' labels() (compress() an argument labels), or use proxy = "kl"'
        )
    return TaskScores(reference, labels)
