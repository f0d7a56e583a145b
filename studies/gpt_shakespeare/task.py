"""A language model of characters: the net, its calibration inputs, its perplexity."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpt import Gpt
from plays import CONTEXT, split, training_text

PIECES = {"calibration": 1024, "selection": 1024, "test": 2048}  # that are used of each split


def pieces(name: str) -> Tensor:
    """Evenly spaced pieces `(n, 129)` of a split."""
    found = split(name)
    places = torch.linspace(0, len(found) - 1, min(len(found), PIECES[name])).round().long()
    return found[places]


def model() -> nn.Module:
    net = Gpt()
    weights = load_file(Path(__file__).with_name("gpt.safetensors"))
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net.eval()


def calibration() -> Tensor:
    return pieces("calibration")[:, :-1]


def example_inputs() -> Tensor:
    return pieces("calibration")[:1, :-1]


def training() -> list[Tensor]:
    """Batches `(32, 128)` of the works that the net was trained on."""
    text = training_text()
    whole = text[: len(text) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    return list(whole[order].split(32))


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Perplexity: how many characters are as good as equally likely; lower is better."""
    total, count = 0.0, 0
    for part in pieces(split).split(64):
        loss = nn.functional.cross_entropy(
            net(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
        )
        total, count = total + float(loss), count + part[:, 1:].numel()
    return float(torch.tensor(total / count).exp())
