"""Options beyond bits, zeros and ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from compress_parts import Net
from torch import nn

from autocompress.compression.carry import carry
from autocompress.compression.coding import decode, encode
from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics, collect, damped
from autocompress.compression.stored import StoredTensor
from autocompress.compression.treated import build_module
from autocompress.hardware.device import DEVICES, kernel_class, reject
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.search_space.option import Option

FURTHER = [
    Option(1),
    Option(1, 0.5, activations="int8"),
    Option(4, scales="tensor", activations="int8"),
    Option(3, 0.5, scales="8"),
    Option(3, affine=True, rank=0.5),
    Option(4, 0.5, affine=True, scales="tensor", activations="int8"),
    Option(codebook=8, sparsity=0.5),
    Option(codebook=6, rank=0.5, rate=0.01),
    Option(4, rate=0.02),
    Option(4, 0.5, 0.5, rate=0.02, scales="8"),
    Option(4, pattern="1:2"),
    Option(16, pattern="1:2"),
    Option(3, pattern="1:2", rank=0.5, rate=0.01, activations="int8"),
]


@pytest.mark.parametrize("name", ["plain", "hidden"])
def test_further_options_are_made_stored_and_carried(
    traced: tuple[Net, dict[str, Layer], dict[str, Statistics]], name: str
) -> None:
    model, layers, statistics = traced
    module, layer = model.get_submodule(name), layers[name]
    weight = module.weight.detach().flatten(1).double()  # type: ignore[operator]
    moment = damped(statistics[name].second_moment)
    x = statistics[name].sample
    for option, treated, error in compress_layer(layer, module, statistics[name], FURTHER):
        assert 0 < error < 1, option.id
        for index, stored in enumerate(treated.weights):
            assert_kind(stored, option, layer if index == 0 else None)
            shape = (stored.codes.shape[0], stored.codes.shape[1])
            again = decode(encode(stored), shape)
            assert torch.equal(again.dense(), stored.dense()), option.id
            if option.activations == "int8":
                assert stored.is_uniform
        output = build_module(module, treated)(x)
        assert output.shape == module(x).shape
        # For another target the option is what it was, and as near as the entry to its own.
        carried = carry(layer, module, 1.3 * weight, moment, x, option, treated)
        change = carried.matrix().double() - 1.3 * weight
        loss = float(((change @ moment) * change).sum()) / float(
            ((weight @ moment) * weight).sum()
        )
        assert loss < 1.5 * 1.69 * error + 1e-3, option.id
        for index, stored in enumerate(carried.weights):
            assert_kind(stored, option, layer if index == 0 else None)


def assert_kind(stored: StoredTensor, option: Option, layer: Layer | None) -> None:
    """Whether a stored tensor is what its option says; `layer` where it has taps."""
    assert (stored.codebook is not None) == bool(option.codebook)
    assert (stored.zero is not None) == option.affine
    assert stored.group == option.group
    assert (stored.scale is not None) == (option.bits <= 8 and not option.codebook)
    if option.scales == "tensor":
        assert stored.scale is not None
        assert stored.scale.shape == (1,)
    if option.codebook:
        assert len(stored.dense().unique()) <= option.codebook
    else:
        assert stored.bits == option.bits
    if option.pattern:
        kept, run = option.kept_of
        taps = int(np.prod(layer.weight_shape[2:])) if layer else 1
        runs = (stored.dense() != 0).reshape(len(stored.codes), -1, run, taps)
        assert bool((runs.sum(2) <= kept).all())
    if option.sparsity:
        share = float((stored.dense() == 0).float().mean())
        assert share >= option.sparsity - 1 / stored.codes.numel()


def test_depthwise_convolutions_take_what_counts_no_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)).eval()
    x = torch.randn(30, 8, 9, 9)
    (layer,) = trace(model, (x[:1],))
    statistics = collect(model, [layer], (x,))["0"]
    options = [
        Option(4, scales="tensor"),
        Option(4, scales="4"),
        Option(codebook=8),
        Option(4, affine=True),
        Option(4, rate=0.01),
        Option(1),
    ]
    for option, treated, error in compress_layer(layer, model[0], statistics, options):
        assert error < 0.5, option.id
        assert build_module(model[0], treated)(x).shape == model(x).shape
    assert "no whole runs of 4" in reject(Option(4, pattern="2:4"), layer)


def test_device_says_what_it_cannot_take() -> None:
    layer = Layer("fc", "Linear", (12, 18), 0, 0, 1, (1, 18), (1, 12))
    assert "18 inputs are no whole runs of 4" in reject(Option(4, pattern="2:4"), layer)
    assert not reject(Option(4, pattern="1:2"), layer)
    # The second factor has as many inputs as the rank.
    assert "3 inputs are no whole runs of 2" in reject(Option(4, rank=0.25, pattern="1:2"), layer)
    for option in (Option(codebook=16), Option(4, affine=True), Option(4, scales="6")):
        assert "symmetric codes" in reject(option, layer, format="onnx")
        assert not reject(option, layer)
    assert not reject(Option(4, scales="tensor"), layer, format="onnx")
    assert "zeros like any other" in reject(Option(4, rate=0.1), layer, format="onnx")
    seven = Option(7, affine=True, activations="int8")
    narrow = replace(DEVICES["onnxruntime-cpu"], int8_bits=7)
    assert "more than 7 bits" in reject(seven, layer, narrow)
    assert narrow.suited(seven).bits == 6
    assert kernel_class(seven) == kernel_class(Option(8, activations="int8"))
