"""MiniLM-L6 that tells liked films from others: the model, its calibration inputs, its accuracy.

The encoder is the packaged one (`minilm.py`); what `train.py` changed of it is a low-rank part of
every linear layer, kept with the classifier in `tuned.safetensors` and added here once and for
all, so that the model is plain.  `reviews.py` says which texts calibrate, select and test.  All
are padded to 64 tokens: a device sees one shape, and of 10 566 snippets six are longer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from minilm import packaged_encoder
from reviews import inputs


def model() -> nn.Module:
    net = packaged_encoder()
    tuned = load_file(Path(__file__).with_name("tuned.safetensors"))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name in tuned:
                parameter.copy_(tuned[name])
            elif f"{name}.left" in tuned:
                parameter += tuned[f"{name}.left"] @ tuned[f"{name}.right"]
    return net.eval()


def calibration() -> tuple[Tensor, Tensor]:
    ids, mask, _ = inputs("calibration")
    return ids, mask


def example_inputs() -> tuple[Tensor, Tensor]:
    ids, mask, _ = inputs("calibration")
    return ids[:1], mask[:1]


def training() -> list[tuple[Tensor, Tensor]]:
    """Batches `(32, 64)`, twice, of the texts that the model was tuned on."""
    ids, mask, _ = inputs("train")
    return list(zip(ids.split(32), mask.split(32), strict=True))


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent; higher is better."""
    ids, mask, wanted = inputs(split)
    parts = zip(ids.split(50), mask.split(50), strict=True)
    logits = torch.cat([net(*part) for part in parts])
    return 100 * (logits.argmax(1) == wanted).double().mean().item()
