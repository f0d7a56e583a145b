"""Layers that can be trained compute what their stored form computes, and come back as it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.code_length import CodeLength
from autocompress.compression.entropy import encode_matrix
from autocompress.compression.quantize import round_to_nearest
from autocompress.compression.stored import StoredTensor
from autocompress.compression.trainable import TrainableLayer, trainable
from autocompress.compression.trainable_tensor import TrainableTensor
from autocompress.compression.treated import Grid, Narrow, Treated, build_module

GENERATOR = torch.Generator().manual_seed(0)


def weights(rows: int = 12, columns: int = 20) -> Tensor:
    return torch.randn(rows, columns, generator=GENERATOR).double() / 5


def stored(bits: int, sparse: bool = False) -> StoredTensor:
    weight = weights()
    if sparse:
        weight[:, ::3] = 0
    return round_to_nearest(weight, bits, torch.ones(weight.shape[1]))


def kinds() -> dict[str, StoredTensor]:
    codes = torch.randint(-7, 8, (12, 20), generator=GENERATOR).to(torch.int8)
    signs = codes.sign()
    groups = torch.rand(12, 3, generator=GENERATOR).half() + 0.1
    one = torch.tensor([0.05]).half()
    book = torch.tensor([-0.3, -0.1, 0.2, 0.5]).half()
    indices = torch.randint(0, 5, (12, 20), generator=GENERATOR).to(torch.uint8)
    points = torch.randint(3, 12, (12,), generator=GENERATOR).to(torch.uint8)
    low = -points[:, None].short()
    affine = torch.minimum(torch.maximum(codes.short(), low), low + 15).to(torch.int8)
    return {
        "row": stored(4),
        "ternary": stored(2, sparse=True),
        "eight": stored(8),
        "half": stored(16, sparse=True),
        "float": stored(32),
        "signs": StoredTensor(1, signs, one.expand(12).clone()),
        "tensor": StoredTensor(4, codes, one),
        "runs": StoredTensor(4, codes, groups, group=8),
        "affine": StoredTensor(4, affine, one.expand(12).clone(), zero=points),
        "codebook": StoredTensor(3, indices, None, codebook=book),
    }


def same(first: StoredTensor, second: StoredTensor) -> bool:
    return torch.equal(first.dense(), second.dense()) and first.bits == second.bits


@pytest.mark.parametrize("kind", list(kinds()))
def test_untrained_tensors_come_back_as_they_were(kind: str) -> None:
    start = kinds()[kind]
    tensor = TrainableTensor(start)
    assert torch.equal(tensor(), start.dense())
    assert same(tensor.stored(), start)


@pytest.mark.parametrize("kind", list(kinds()))
def test_what_is_stored_after_training_is_what_was_computed(kind: str) -> None:
    start = kinds()[kind]
    tensor = TrainableTensor(start)
    wanted = 1.4 * start.dense() + 0.002 * torch.randn(12, 20, generator=GENERATOR)
    optimiser = torch.optim.Adam(tensor.parameters(), lr=0.003)
    before = error(tensor, wanted)
    for _ in range(200):
        optimiser.zero_grad()
        loss = (tensor() - wanted).square().mean()
        loss.backward()
        optimiser.step()
    assert torch.equal(tensor.stored().dense(), tensor().detach())
    assert bool((tensor()[start.dense() == 0] == 0).all())  # zeros stay
    assert error(tensor, wanted) < 0.6 * before


@torch.no_grad()
def error(tensor: TrainableTensor, wanted: Tensor) -> float:
    return float((tensor() - wanted).square().mean())


def test_free_tensors_share_a_step_and_zeros_may_move() -> None:
    start = stored(4, sparse=True)
    tensor = TrainableTensor(start, free=True)
    assert tensor.stored().scale is not None
    assert len(tensor.stored().scale) == 1  # type: ignore[arg-type]
    wanted = weights()
    optimiser = torch.optim.Adam(tensor.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        (tensor() - wanted).square().sum().backward()
        optimiser.step()
    found = tensor.stored()
    assert int((found.codes[:, ::3] != 0).sum()) > 40
    assert torch.equal(found.dense(), tensor().detach())
    # The fewest bits that hold the codes.
    assert int(found.codes.abs().max()) > (2 ** (found.bits - 2) - 1 if found.bits > 2 else 0)


def int8_layer(module: nn.Module, bits: int = 4) -> Treated:
    weight = module.weight.detach().flatten(1).double()  # type: ignore[operator]
    part = round_to_nearest(weight, bits, torch.ones(weight.shape[1]))
    grids = (Grid.covering(-3, 3), Grid.covering(-2, 2))
    return Treated((part,), module.bias.detach().half(), grids)  # type: ignore[operator]


def layers() -> dict[str, tuple[nn.Module, Treated, Tensor]]:
    torch.manual_seed(1)
    linear, conv = nn.Linear(20, 12), nn.Conv2d(6, 8, 3, stride=2, padding=1)
    grouped = nn.Conv2d(6, 6, 3, groups=6, padding=1, padding_mode="reflect")
    image = torch.randn(5, 6, 9, 9)
    first = round_to_nearest(torch.randn(3, 20).double(), 4, torch.ones(20))
    second = round_to_nearest(torch.randn(12, 3).double(), 4, torch.ones(3))
    rank = Treated((first, second), linear.bias.detach().half())
    weight = conv.weight.detach().flatten(1).double()
    inputs, outputs = torch.tensor([0, 2, 5]), torch.tensor([1, 2, 3, 6])
    columns = (inputs[:, None] * 9 + torch.arange(9)).flatten()
    part = round_to_nearest(weight[outputs][:, columns], 4, torch.ones(27))
    narrow = Treated(
        (part,), conv.bias.detach().half()[outputs], (), Narrow((8, 6), outputs, inputs)
    )
    return {
        "int8 linear": (linear, int8_layer(linear), torch.randn(5, 20)),
        "int8 convolution": (conv, int8_layer(conv), image),
        "depthwise": (grouped, replace(int8_layer(grouped), grids=()), image),
        "factored": (linear, rank, torch.randn(5, 20)),
        "narrow": (conv, narrow, image),
    }


@pytest.mark.parametrize("name", list(layers()))
@pytest.mark.parametrize("free", [False, True])
def test_trainable_layers_compute_what_is_stored(name: str, free: bool) -> None:
    module, treated, x = layers()[name]
    layer = TrainableLayer(module, treated, free)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    wanted = module(x).detach()
    for _ in range(5):
        optimiser.zero_grad()
        (layer(x) - wanted).square().mean().backward()
        optimiser.step()
    after = layer.treated()
    assert after.shape == treated.shape
    assert [w.codes.shape for w in after.weights] == [w.codes.shape for w in treated.weights]
    found, twin = layer(x).detach(), build_module(module, after)(x)
    # The twin adds its bias in whole int32 steps.
    step = treated.grids[-1].scale if treated.grids and treated.grids[-1] else 0.0
    assert float((found - twin).abs().max()) <= 1e-5 + 1.001 * step
    assert float((found != twin).float().mean()) < (0.15 if treated.grids else 1.0)


def test_all_but_the_treated_layers_is_frozen_and_the_model_untouched() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    treated = {"0": replace(int8_layer(model[0]), grids=())}
    student, found = trainable(model, treated)
    student(torch.randn(3, 6)).sum().backward()
    assert student.get_submodule("2").weight.grad is None
    assert all(p.grad is not None for p in found["0"].parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_outputs_that_no_input_reaches_lose_their_bias_where_layers_are_free() -> None:
    module = nn.Linear(4, 3)
    codes = torch.tensor([[1, 0, 2, 0], [0, 0, 0, 0], [0, -1, 0, 0]], dtype=torch.int8)
    part = StoredTensor(3, codes, torch.full((3,), 0.5).half())
    treated = Treated((part,), torch.tensor([0.1, 0.2, 0.3]).half())
    assert TrainableLayer(module, treated, free=True).treated().bias[1] == 0  # type: ignore[index]
    assert TrainableLayer(module, treated).treated().bias[1] != 0  # type: ignore[index]


def test_biases_of_free_layers_have_few_values() -> None:
    module = nn.Linear(6, 200)
    layer = TrainableLayer(module, replace(int8_layer(module), grids=()), free=True)
    bias = layer.treated().bias
    assert bias is not None
    assert len(bias.unique()) <= 63
    wanted = module.bias.detach()
    assert float((bias - wanted).abs().max()) <= float(wanted.abs().max()) / 30


@pytest.mark.parametrize("density", [0.02, 0.2, 0.8])
def test_the_coded_length_is_near_what_the_coder_takes(density: float) -> None:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(1, 4, (200, 300), generator=generator)
    codes *= torch.randint(0, 2, (200, 300), generator=generator) * 2 - 1
    codes *= torch.rand(200, 300, generator=generator) < density
    part = StoredTensor(3, codes.to(torch.int8), torch.tensor([0.1]).half())
    estimate = CodeLength([TrainableTensor(part)]).bytes
    taken = len(encode_matrix(part.codes.numpy(), 3))
    assert estimate == pytest.approx(taken, rel=0.06, abs=40)


def test_the_penalty_makes_codes_shorter() -> None:
    tensor = TrainableTensor(stored(4), free=True)
    length = CodeLength([tensor])
    first = length.bytes
    optimiser = torch.optim.Adam(tensor.parameters(), lr=0.01)
    sizes = []
    for _ in range(6):
        for _ in range(10):
            optimiser.zero_grad()
            length.penalty().backward()
            optimiser.step()
        sizes.append(length.refresh())
    assert sizes[0] < first
    assert sizes[-1] < 0.3 * first


def test_weights_in_thin_rows_are_pulled_most() -> None:
    codes = torch.zeros(10, 40, dtype=torch.int8)
    codes[0] = 1
    codes[5, 7] = 1
    tensor = TrainableTensor(StoredTensor(2, codes, torch.tensor([0.1]).half()), free=True)
    CodeLength([tensor]).penalty().backward()
    pull = tensor.values.grad
    assert pull is not None
    assert float(pull[5, 7]) > 1.5 * float(pull[0, 20])
    assert math.isfinite(float(pull.abs().max()))
