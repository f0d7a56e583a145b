from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.model.trace import trace
from autocompress.study import traced
from autocompress.study.traced import read_trace, trace_key, write_trace

SOURCE = """
from torch import Tensor, nn

class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Linear(64, 3)
        self.slope = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * self.b(self.norm(self.a(x)).relu().flatten(1))
"""
X = (torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)),)


def make(folder: Path, source: str = SOURCE) -> nn.Module:
    """The same weights every time, whatever the forward pass."""
    path = folder / "net.py"
    path.write_text(source)
    module = ModuleType("net_of_test")
    module.__file__ = str(path)
    sys.modules["net_of_test"] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    torch.manual_seed(0)
    return module.Net().eval()  # type: ignore[no-any-return]


@pytest.fixture
def written(tmp_path: Path) -> tuple[nn.Module, Path, str]:
    model = make(tmp_path)
    layers = trace(model, X)
    key, path = trace_key(model, "content", X), tmp_path / "trace.onnx"
    write_trace(path, key, layers, export_float(model, layers, X))
    return model, path, key


def test_what_is_read_is_what_was_written(written: tuple[nn.Module, Path, str]) -> None:
    model, path, key = written
    found = read_trace(path, model, key, X)
    assert found is not None
    layers = trace(model, X)
    fresh = export_float(model, layers, X)
    assert found[0] == layers
    assert found[1].layers == fresh.layers
    assert found[1].static_batch == fresh.static_batch
    assert found[1].modules == fresh.modules
    assert found[1].proto.SerializeToString() == fresh.proto.SerializeToString()


def test_another_source_file_or_content_has_another_key(tmp_path: Path) -> None:
    model = make(tmp_path)
    key = trace_key(model, "content", X)
    assert trace_key(model, "content", X) == key != ""
    assert trace_key(model, "other", X) != key
    assert trace_key(model, "content", (X[0][:1],)) != key
    assert trace_key(make(tmp_path, SOURCE.replace(".relu()", ".sigmoid()")), "content", X) != key


def test_nothing_is_read_under_another_key(written: tuple[nn.Module, Path, str]) -> None:
    model, path, key = written
    assert read_trace(path, model, key[::-1], X) is None
    assert read_trace(path, model, "", X) is None
    assert read_trace(path.with_name("none.onnx"), model, key, X) is None


def test_a_graph_that_gives_something_else_is_not_used(
    written: tuple[nn.Module, Path, str],
) -> None:
    # The key does not see an attribute that is no parameter.
    model, path, key = written
    model.slope = 2.0
    assert read_trace(path, model, key, X) is None


@pytest.mark.parametrize("damage", [b"", b"not a graph", None])
def test_a_damaged_file_is_no_error(
    written: tuple[nn.Module, Path, str], damage: bytes | None
) -> None:
    model, path, key = written
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert read_trace(path, model, key, X) is None


def test_a_class_without_a_file_is_traced_every_time(tmp_path: Path) -> None:
    class Loose(nn.Module):
        __module__ = "builtins"

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert trace_key(Loose(), "content", X) == ""
    write_trace(tmp_path / "trace.onnx", "", (), None)  # type: ignore[arg-type]
    assert not (tmp_path / traced.NAME).exists()
