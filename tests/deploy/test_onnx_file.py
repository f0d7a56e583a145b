from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from autocompress.deploy.onnx_file import OnnxModule, load_onnx, write_onnx
from autocompress.errors import DataError, StorageError
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.onnx_session import LOADER_KEY, read_loader
from autocompress.model.trace import trace


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.fixture(scope="module")
def proto(model: nn.Module):
    example = (torch.randn(1, 1, 8, 8),)
    return assemble(export_float(model, trace(model, example), example), {}, threads=2)


def test_a_file_comes_back_with_its_settings(model, proto, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.onnx"
    size = write_onnx(path, proto)
    assert path.stat().st_size == size
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    session = load_onnx(path)
    assert isinstance(session, onnxruntime.InferenceSession)
    assert session.get_session_options().intra_op_num_threads == 2
    assert load_onnx(path, threads=1).get_session_options().intra_op_num_threads == 1
    assert read_loader(proto).disabled_optimizers == ("WeightBiasQuantization",)


def test_an_onnx_module_stands_in_for_the_torch_model(model, proto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(path, proto)
    x = torch.randn(7, 1, 8, 8)
    torch.testing.assert_close(OnnxModule(path)(x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_a_bound_batch_is_run_in_parts(model, proto) -> None:
    x = torch.randn(6, 1, 8, 8)
    whole = OnnxModule(proto)(x)
    torch.testing.assert_close(OnnxModule(proto, static_batch=2)(x), whole)
    with pytest.raises(DataError, match="batches of 4"):
        OnnxModule(proto, static_batch=4)(x)


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match=r"broken\.onnx"):
        load_onnx(path)


def test_a_truncated_file_is_refused(proto, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(proto.SerializeToString()[:-40])
    with pytest.raises(StorageError, match=r"cut\.onnx"):
        load_onnx(path)


def test_damaged_settings_are_refused(proto) -> None:
    copy = type(proto)()
    copy.CopyFrom(proto)
    (entry,) = copy.metadata_props
    assert entry.key == LOADER_KEY
    entry.value = "{"
    with pytest.raises(StorageError, match="damaged"):
        read_loader(copy)


def test_a_folder_that_cannot_be_made_is_named(proto, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_onnx(tmp_path / "file" / "model.onnx", proto)
