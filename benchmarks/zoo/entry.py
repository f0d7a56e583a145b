"""What an entry of the zoo is, how it is trained and scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 64


@dataclass(frozen=True)
class Data:
    """Examples, all split by the same cuts.

    Args:
        inputs: `(n, ...)`.
        targets: Class numbers `(n,)` or `(n, positions)`, or tensors to be reproduced.
        train: How many train.
        calibration: How many of the next calibrate; the first half of the others selects, the
            second tests.
    """

    inputs: Tensor
    targets: Tensor
    train: int
    calibration: int

    def part(self, name: str) -> slice:
        """Of `train`, `calibration`, `selection` and `test`."""
        start = self.train + self.calibration
        middle = start + (len(self.inputs) - start) // 2
        return {
            "train": slice(0, self.train),
            "calibration": slice(self.train, start),
            "selection": slice(start, middle),
            "test": slice(middle, None),
        }[name]


def as_given(inputs: Tensor) -> Any:
    """Inputs as most models take them."""
    return inputs


def as_is(result: Any) -> Tensor:
    """What most models give."""
    assert isinstance(result, Tensor)
    return result


@dataclass(frozen=True)
class Entry:
    """One model.

    Args:
        name: In the table.
        what: What is in it, in a few words.
        make: The untrained model.
        data: Its examples.
        steps: Of training, with Adam and one cycle.
        peak: Highest learning rate.
        call: Makes of inputs what the model takes: a tensor, a tuple, keyword arguments.
        output: The tensor that counts, of what the model gives.
    """

    name: str
    what: str
    make: Callable[[], nn.Module]
    data: Callable[[], Data]
    steps: int = 400
    peak: float = 3e-3
    call: Callable[[Tensor], Any] = as_given
    output: Callable[[Any], Tensor] = as_is

    def run(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """Outputs of a model called in its own way."""
        given = self.call(inputs)
        if isinstance(given, dict):
            return self.output(net(**given))
        return self.output(net(*given) if isinstance(given, tuple) else net(given))

    def trained(self, data: Data) -> nn.Module:
        """The model after its training, the same in every run on one machine."""
        torch.manual_seed(0)
        net = self.make()
        generator = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam(net.parameters())
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.peak, self.steps)
        x, y = (tensor[data.part("train")] for tensor in (data.inputs, data.targets))
        net.train()
        for _ in range(self.steps):
            picked = torch.randint(len(x), (BATCH,), generator=generator)
            optimiser.zero_grad()
            self.loss(net, x[picked], y[picked]).backward()
            optimiser.step()
            cycle.step()
        return net.eval()

    def loss(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        outputs = self.run(net, x)
        if y.is_floating_point():
            return nn.functional.mse_loss(outputs, y)
        return nn.functional.cross_entropy(outputs.flatten(0, -2), y.flatten())

    def score(self, net: nn.Module, data: Data, split: str) -> float:
        """Right decisions in percent; of models that paint, the share of variance explained."""
        x, y = (tensor[data.part(split)] for tensor in (data.inputs, data.targets))
        with torch.no_grad():
            outputs = torch.cat([self.run(net, part) for part in x.split(BATCH)])
        if y.is_floating_point():
            return float(100 * (1 - (outputs - y).square().mean() / y.var()))
        return float(100 * (outputs.argmax(-1) == y).double().mean())
