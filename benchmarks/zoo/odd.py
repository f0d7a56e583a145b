"""Models that are called, or run, in other ways than most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.entry import Entry
from zoo.vision import digits

WIDTH = 128


@dataclass
class Answer:
    """What a model gives that gives more than one thing."""

    features: Tensor
    logits: Tensor


class TwoHalves(nn.Module):
    """Takes the upper and the lower half of a digit by name, and gives a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = nn.Linear(14 * 28, WIDTH), nn.Linear(14 * 28, WIDTH)
        self.head = nn.Bilinear(16, 16, 10)
        self.left, self.right = nn.Linear(WIDTH, 16), nn.Linear(WIDTH, 16)

    def forward(self, *, upper: Tensor, lower: Tensor) -> Answer:
        a, b = self.upper(upper.flatten(1)).relu(), self.lower(lower.flatten(1)).relu()
        left, right = self.left(a), self.right(b)
        return Answer(torch.cat([left, right], 1), self.head(left, right))


def halves(inputs: Tensor) -> dict[str, Any]:
    return {"upper": inputs[:, :, :14], "lower": inputs[:, :, 14:]}


class Repeated(nn.Module):
    """One block that runs four times (ALBERT, 1909.11942), under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(28 * 28, WIDTH), nn.Linear(WIDTH, 10)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.again = self.down

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x.flatten(1))
        for turn in range(4):
            down = self.again if turn % 2 else self.down
            x = x + down(self.up(self.norm(x)).relu())
        return self.head(x)


class Hesitant(nn.Module):
    """Thinks again while it is unsure: how often depends on the data, so no graph can be made."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.body = nn.Linear(28 * 28, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x.flatten(1)).relu()
        for _ in range(3):
            x = x + self.body(x).relu()
            logits = self.head(x)
            if float(logits.detach().softmax(-1).amax(-1).mean()) > 0.9:
                break
        return logits


ODD = (
    Entry(
        "halves",
        "two keyword inputs, a dataclass out, a Bilinear",
        TwoHalves,
        digits,
        call=halves,
        output=lambda result: result.logits,
    ),
    Entry("repeated", "one block run four times, under two names", Repeated, digits),
    Entry("hesitant", "control flow that depends on the data", Hesitant, digits),
)
