"""Four model families with made-up weights, for figures that do not depend on training.

They are written out because a benchmark needs their shapes, not their accuracy: kernels take the
same time whatever the weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from families.efficientnet import EfficientNetLite0
from families.mobilenet import MobileNetV2
from families.resnet import ResNet18
from families.transformer import Encoder

Inputs = tuple[Tensor, ...]

FAMILIES: Mapping[str, Callable[[], nn.Module]] = {
    "resnet18": ResNet18,
    "mobilenetv2": MobileNetV2,
    "efficientnet_lite0": EfficientNetLite0,
    "transformer": Encoder,
}


def make_family(name: str, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A model in evaluation mode and one input of batch size 1.

    Args:
        name: One of `FAMILIES`.
        seed: Of the weights and the input; torch's own generator is left as it was.

    Raises:
        ValueError: If there is no such family.
    """
    if name not in FAMILIES:
        raise ValueError(f"family {name!r}: known are {', '.join(FAMILIES)}")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = FAMILIES[name]().eval()
        shape = (1, 128, 384) if name == "transformer" else (1, 3, 224, 224)
        return model, (torch.randn(shape),)
