from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from autocompress.model.memory import (
    allowance,
    model_bytes,
    safetensors_bytes,
    shared_copy,
)
from autocompress.model.sums import expose_sums, sums_of
from autocompress.model.swap import swap


class Tied(nn.Module):
    """Two layers of one weight, a batch norm, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.BatchNorm1d(6)
        self.second.weight = self.first.weight
        self.third.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x).relu())
        result: Tensor = self.third(self.second(y) + self.third.weight.sum())
        return result


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        result: Tensor = self.last((y + self.second(y.relu())).relu())
        return result


def digest(model: nn.Module) -> str:
    state: Mapping[str, Tensor] = model.state_dict()
    return hashlib.sha256(save({k: v.clone().contiguous() for k, v in state.items()})).hexdigest()


def test_a_shared_copy_takes_no_memory_and_computes_the_same() -> None:
    model = Tied().eval()
    copied = shared_copy(model)
    x = torch.randn(4, 6)
    assert type(copied) is Tied
    assert torch.equal(copied(x), model(x))
    assert list(copied.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert copied.state_dict()[name].data_ptr() == tensor.data_ptr()
    assert isinstance(copied, Tied)
    assert copied.first.weight is copied.second.weight
    assert copied.first.weight is not model.first.weight
    grads = [parameter.requires_grad for parameter in copied.parameters()]
    assert grads == [parameter.requires_grad for parameter in model.parameters()]
    assert False in grads


def test_what_is_done_to_a_shared_copy_leaves_the_model_alone() -> None:
    model = Tied().eval()
    before, grads = digest(model), [p.requires_grad for p in model.parameters()]
    copied = shared_copy(model)
    swap(copied, "first", nn.Linear(6, 6))
    copied.half().requires_grad_(False)
    copied.train()
    copied.register_buffer("more", torch.zeros(3))
    assert digest(model) == before
    assert [p.requires_grad for p in model.parameters()] == grads
    assert not model.training
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_model_with_sums_shares_the_tensors_of_the_one_without() -> None:
    model = Residual().eval()
    before = digest(model)
    exposed = expose_sums(model, (torch.randn(2, 6),))
    assert len(sums_of(exposed)) == 1
    assert not sums_of(model)
    for name, tensor in model.state_dict().items():
        assert exposed.state_dict()[name].data_ptr() == tensor.data_ptr()
    assert digest(model) == before


def test_bytes_of_a_model_count_shared_memory_once() -> None:
    model = Tied()
    # Weight, weight, three biases; norm: four of 6, and a counter of 8 bytes.
    assert model_bytes(model) == 4 * (36 + 36 + 18 + 24) + 8
    assert allowance(model, 0.5, 10) == model_bytes(model) // 2
    assert allowance(model, 0.5, 1000) == 1000
    assert allowance(model, 9.0, 10, most=500) == 500


STATES: dict[str, dict[str, Tensor]] = {
    "none": {},
    "one": {"weight": torch.zeros(3, 4)},
    "scalar and empty": {"a": torch.tensor(1.0), "b": torch.zeros(0, 5), "c": torch.ones(7)},
    "types": {
        f"layer.{i}.{kind}": torch.zeros(5 + i, 3, dtype=kind)
        for i in range(13)
        for kind in (
            torch.float32,
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.int32,
            torch.int16,
            torch.int8,
            torch.uint8,
            torch.bool,
        )
    },
    "names": {'a"b\\c': torch.zeros(2), "größe.重み": torch.zeros(3), "\t\x01\x7f": torch.ones(1)},
    "large": {f"{i}": torch.zeros(10**i) for i in range(7)},
}


@pytest.mark.parametrize("name", STATES)
def test_the_size_of_a_file_is_known_without_making_it(name: str) -> None:
    assert safetensors_bytes(STATES[name]) == len(save(STATES[name]))


@pytest.mark.parametrize("many", [1, 9, 64])
def test_the_size_of_a_models_file_is_exact(many: int) -> None:
    model = nn.Sequential(
        *(nn.Linear(3, many) if i % 2 else nn.Conv2d(3, 5, 3) for i in range(many))
    )
    state = model.state_dict()
    assert safetensors_bytes(state) == len(save(state))
