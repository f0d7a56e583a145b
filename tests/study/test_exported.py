"""Exported programs: their operators become layers again, and what cannot work is refused."""

from __future__ import annotations

import copy
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import autocompress
from autocompress.errors import TaskError
from autocompress.model.canonical import canonical
from autocompress.model.trace import trace
from autocompress.study.exported import exported_inputs, load_exported


class Net(nn.Module):
    """Every operator that becomes a layer, one that does not, and a weight without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.conv0 = nn.Conv1d(8, 6, 3, padding="same")
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, stride=2, groups=2)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8))
        self.head = nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.rand(5))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv0(self.embed(tokens).transpose(1, 2))
        x = self.conv2(self.norm1(self.conv1(x.unsqueeze(1))).relu())
        return self.head(self.body(x.mean((2, 3)))) * self.scale


class Fixed(nn.Module):
    """Counts its batch while it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(x.shape[0], 8))


class Shared(nn.Module):
    """One layer that runs twice, and a weight that two operators read."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.embed = nn.Embedding(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.fc(self.embed(x).sum(1)).relu())
        return nn.functional.linear(x, self.embed.weight)


Export = Callable[..., Path]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Writes a module as an exported program."""

    def write(model: nn.Module, *example: Tensor, free: bool = True) -> Path:
        shapes = tuple({0: Dim("batch")} for _ in example) if free else None
        path = tmp_path / "net.pt2"
        torch.export.save(torch.export.export(model, example, dynamic_shapes=shapes), path)
        return path

    return write


def tokens(count: int) -> Tensor:
    return torch.randint(10, (count, 7), generator=torch.Generator().manual_seed(count))


def test_operators_are_layers_again_under_their_names(export: Export) -> None:
    net = Net().eval()
    loaded = load_exported(export(net, tokens(2)))
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(tokens(9)), net(tokens(9)))
    kinds = {name: type(module) for name, module in net.named_modules() if name}
    del kinds["body"], kinds["body.1"]
    assert {name: type(loaded.get_submodule(name)) for name in kinds} == kinds
    assert {name: list(value.shape) for name, value in loaded.named_parameters()} == {
        name: list(value.shape) for name, value in net.named_parameters()
    }
    assert loaded.get_submodule("conv2").extra_repr() == net.conv2.extra_repr()


def test_layers_are_traced_as_those_of_the_module(export: Export) -> None:
    net = Net().eval()
    loaded = load_exported(export(net, tokens(2)))

    def facts(model: nn.Module) -> set[tuple[object, ...]]:
        dense, _ = canonical(model, (tokens(1),))
        named = [x for x in trace(dense, (tokens(1),)) if x.name]
        return {(x.name, x.kind, x.parameters, x.calls, x.reason, x.activation) for x in named}

    assert facts(loaded) == facts(net)
    assert "norm1" not in {name for name, *_ in facts(loaded)}, "it is folded"


def test_a_copy_computes_the_same(export: Export) -> None:
    loaded = load_exported(export(Net().eval(), tokens(2)))
    assert torch.equal(copy.deepcopy(loaded)(tokens(4)), loaded(tokens(4)))


def test_a_layer_that_runs_twice_is_one_and_a_weight_read_two_ways_is_none(export: Export) -> None:
    net = Shared().eval()
    loaded = load_exported(export(net, tokens(2)))
    assert torch.equal(loaded(tokens(5)), net(tokens(5)))
    assert type(loaded.get_submodule("fc")) is nn.Linear
    assert type(loaded.get_submodule("embed")) is nn.Module
    assert next(x.calls for x in trace(loaded, (tokens(1),)) if x.name == "fc") == 2


def test_inputs_are_described(export: Export) -> None:
    assert exported_inputs(export(Net().eval(), tokens(2))) == {"tokens": "int64 (n, 7)"}
    assert autocompress.load_exported is load_exported


def test_one_batch_size_only_is_refused(export: Export) -> None:
    with pytest.raises(TaskError, match=r"net\.pt2: takes no batch of 2: .*Dim\(\"batch\"\)"):
        load_exported(export(Fixed().eval(), torch.rand(1, 2, 4), free=False))


def test_training_mode_is_refused(export: Export) -> None:
    with pytest.raises(TaskError, match=r"batch_norm.* in training mode: call model.eval\(\)"):
        load_exported(export(Net().train(), tokens(2)))


def test_inputs_by_name_are_refused(tmp_path: Path) -> None:
    program = torch.export.export(Fixed().eval(), (), {"x": torch.rand(2, 8)})
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(TaskError, match=r"inputs by name \(x\)"):
        load_exported(tmp_path / "net.pt2")


def test_a_program_without_layers_is_refused(export: Export) -> None:
    with pytest.raises(TaskError, match="nothing to compress"):
        load_exported(export(nn.Sequential(nn.ReLU()).eval(), torch.rand(2, 3)))


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_what_is_no_program_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskError, match=r"net\.pt2: (no such file|cannot be read as an exported)"):
        load_exported(path)


class _Attack:
    """What a pickle runs when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_program_runs_no_code_of_its_own(tmp_path: Path) -> None:
    plain, wicked, mark = tmp_path / "plain.pt2", tmp_path / "wicked.pt2", tmp_path / "mark"
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, plain)
    buffer = io.BytesIO()
    torch.save(_Attack(mark), buffer)
    replaced = 0
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(wicked, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            is_pickle = content[:2] == b"PK"  # what `torch.save` wrote
            replaced += is_pickle
            target.writestr(name, buffer.getvalue() if is_pickle else content)
    assert replaced
    before = dict(os.environ)
    with pytest.raises(TaskError, match="cannot be read as an exported program"):
        load_exported(wicked)
    assert not mark.exists()
    assert dict(os.environ) == before
    load_exported(plain)
