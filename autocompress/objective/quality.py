"""How far a compressed model is from the original: the proxy that a search can afford thousands of
times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.errors import ConfigError, TaskError
from autocompress.model.task import Inputs, batches
from autocompress.model.trace import run

WORST = 1e9  # stands in for a loss that is not finite


@dataclass(frozen=True)
class Measurement:
    """A measured number.

    Args:
        value: The mean over examples.
        unit: Such as `nat`.
        direction: `minimize` or `maximize`.
        spread: Standard error of the mean.
        samples: `(n,)` value of each example, for paired comparisons.
    """

    value: float
    unit: str
    direction: str
    spread: float
    samples: NDArray[np.float64]


class Proxy:
    """Distance of a model's outputs from the original's on fixed inputs; lower is better, 0 is
    equal.

    Args:
        model: The original.
        inputs: `(n, ...)` for each input of the model.
        kind: `kl`: mean of `KL(original || model)` over the last axis's softmax, in nats.
            `mse`: squared error over the variance of the original's outputs.
        batch: Examples in one forward pass.

    Raises:
        ConfigError: If `kl` is asked for outputs with fewer than two classes.
        TaskError: If the original's outputs are not finite.
    """

    def __init__(
        self, model: nn.Module, inputs: Inputs, kind: str = "kl", batch: int = 256
    ) -> None:
        self.kind = kind
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
        self._reference = torch.log_softmax(reference, -1) if kind == "kl" else reference
        self._variance = float(reference.var().clamp_min(1e-12))

    def __call__(self, model: nn.Module) -> Measurement:
        """Measures a model; one full pass over the inputs."""
        self.passes += 1
        outputs = self._outputs(model)
        if self.kind == "kl":
            difference = self._reference - torch.log_softmax(outputs, -1)
            values = (self._reference.exp() * difference).sum(-1)
        else:
            values = (outputs - self._reference).square() / self._variance
        means = values.reshape(len(values), -1).mean(1)
        samples = torch.nan_to_num(means, nan=WORST, posinf=WORST).clamp(0, WORST).numpy()
        spread = float(samples.std(ddof=1) / len(samples) ** 0.5) if len(samples) > 1 else 0.0
        unit = "nat" if self.kind == "kl" else "share of variance"
        return Measurement(float(samples.mean()), unit, "minimize", spread, samples)

    def _outputs(self, model: nn.Module) -> Tensor:
        # float64 after the logits: differences of 1e-7 nats are compared.
        parts = batches(self.inputs, self.batch)
        return torch.cat([run(model, part) for part in parts]).double()
