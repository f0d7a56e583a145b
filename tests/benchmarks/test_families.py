"""The families have the shapes and the parameter counts that their papers state."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, make_family
from torch import nn

from autocompress.model.trace import trace

PARAMETERS = {
    "resnet18": 11_689_512,
    "mobilenetv2": 3_504_872,
    "efficientnet_lite0": 4_652_008,
    # 6 layers of 4 (384^2 + 384) + 2 x 384 x 1536 + 1536 + 384 + 4 x 384; 128 positions; 2 classes
    "transformer": 6 * 1_774_464 + 128 * 384 + 2 * 385,
}
GIGA_MACS = {"resnet18": 1.81, "mobilenetv2": 0.30, "efficientnet_lite0": 0.39}


@pytest.mark.parametrize("name", FAMILIES)
def test_shape_and_parameters(name: str) -> None:
    model, inputs = make_family(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    with torch.no_grad():
        logits = model(*inputs)
    assert logits.shape == (1, 2 if name == "transformer" else 1000)
    assert torch.isfinite(logits).all()
    assert not model.training


@pytest.mark.parametrize("name", GIGA_MACS)
def test_multiply_adds(name: str) -> None:
    model, inputs = make_family(name)
    layers = trace(model, inputs)
    assert sum(layer.macs for layer in layers) / 1e9 == pytest.approx(GIGA_MACS[name], abs=0.011)


def test_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = (make_family("mobilenetv2", seed)[0] for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_depthwise_convolutions_of_lite0() -> None:
    model, _ = make_family("efficientnet_lite0")
    kernels = [
        m.kernel_size[0] for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1
    ]
    assert kernels == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match="known are resnet18"):
        make_family("vgg")
