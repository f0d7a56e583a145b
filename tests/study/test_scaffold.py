"""`write_study`: what is written can be read, is right, and works."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.export import Dim

from autocompress.errors import AutocompressError, ConfigError, StorageError, TaskError
from autocompress.study.checkup import check_study
from autocompress.study.config import load_study
from autocompress.study.scaffold import next_steps, write_study

ZOO = """
import torch
from torch import nn

CLASSES = 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, x, mask, scale=2.0):
        return scale * self.fc2((self.fc1(x) * mask).relu())


def make():
    torch.manual_seed(0)
    return Net()


def nothing():
    return "net"


def fails():
    raise OSError("no weights")
"""

# Stands for the package: a folder is read in its way, without it.
TRANSFORMERS = """
import json
from pathlib import Path
from types import SimpleNamespace

from safetensors.torch import load_file
from torch import nn

utils = SimpleNamespace(logging=SimpleNamespace(disable_progress_bar=lambda: None))


class ToyForSequenceClassification(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.config = SimpleNamespace(use_cache=True)

    @classmethod
    def from_pretrained(cls, folder, local_files_only, use_safetensors):
        assert local_files_only and use_safetensors
        net = cls()
        net.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return net.double()

    def forward(self, input_ids, attention_mask, return_dict):
        assert return_dict and not self.config.use_cache
        x = (self.embed(input_ids) * attention_mask.unsqueeze(-1)).mean(1)
        return SimpleNamespace(logits=self.fc(x))
"""
CONFIG = {"architectures": ["ToyForSequenceClassification"], "vocab_size": 20}


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder where the command is given, with a module of models in it."""
    (tmp_path / "zoo.py").write_text(ZOO)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("zoo", None)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes a folder as transformers does; a stand-in for the package may be imported."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "transformers.py").write_text(TRANSFORMERS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "transformers", raising=False)

    def write(config: Any = CONFIG, weights: str = "model.safetensors") -> Path:
        folder = tmp_path / "toy"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        embed, fc = nn.Embedding(20, 8), nn.Linear(8, 3)
        tensors = {"embed.weight": embed.weight, "fc.weight": fc.weight, "fc.bias": fc.bias}
        save_file({name: value.detach() for name, value in tensors.items()}, folder / weights)
        return folder

    yield write
    sys.modules.pop("transformers", None)


def errors_of(study: Path) -> list[str]:
    findings = check_study(load_study(study, {"space": "uniform_bits"}))
    return [f"{found.name}: {found.text}" for found in findings if found.state == "error"]


def arrays(make: Callable[[int], Mapping[str, np.ndarray]], **more: Any) -> dict[str, Any]:
    """`data.npz`: each part drawn anew."""
    found = dict(more)
    for part, count in (("calibration", 96), ("selection", 40), ("test", 50)):
        found |= {f"{part}_{name}": value for name, value in make(count).items()}
    return found


def assert_readable(folder: Path) -> None:
    task = (folder / "task.py").read_text()
    for words in ("TODO", "@", "XXX"):
        assert words not in task.replace("@torch.no_grad", "").replace("@cache", "")
    tree = ast.parse(task)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert all(ast.get_docstring(f) for f in functions if not f.name.startswith("__"))
    assert max(map(len, task.splitlines())) < 100
    settings = ["--isolated", "--line-length", "99", str(folder)]
    for command in (["check", "--select", "E,F,W,B"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *settings], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_works_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "mine"
    assert write_study(folder) is None
    assert_readable(folder)
    assert not errors_of(folder)
    study = load_study(folder)
    assert study.task.evaluate(study.task.model(), "test") > 85
    written = load_file(folder / "weights.safetensors")
    assert all(torch.equal(written[k], v) for k, v in study.task.model().state_dict().items())
    assert "# Limits, kept as measured." in (folder / "study.toml").read_text()
    assert next_steps(folder, None) == [
        f"autocompress check {folder}",
        f"autocompress run {folder}",
    ]


@pytest.mark.parametrize("name", ['a "b" \\ """', "ünder weg", "-'x"])
def test_any_name_of_a_folder_will_do(tmp_path: Path, name: str) -> None:
    write_study(tmp_path / name)
    assert load_study(tmp_path / name).task.example_inputs()[0].shape == (1, 1, 8, 8)


def test_a_function_is_found_again_and_told_what_it_takes(zoo: Path) -> None:
    source = write_study(Path("studies/mine"), "zoo:make")
    folder = zoo / "studies" / "mine"
    assert source is not None
    assert list(source.inputs) == ["x", "mask"]
    assert_readable(folder)
    assert "calibration_mask=..." in (folder / "task.py").read_text()
    ((first),) = errors_of(folder)
    assert f"{folder / 'data.npz'} is not there" in first
    rng = np.random.default_rng(0)

    def make(count: int) -> dict[str, np.ndarray]:
        x = rng.normal(size=(count, 8)).astype(np.float32)
        return {"x": x, "mask": np.ones((count, 16), np.float32)}

    np.savez(folder / "data.npz", **arrays(make))
    assert not errors_of(folder)
    task = load_study(folder).task
    assert task.evaluate(task.model(), "test") == 100, "agreement with itself"
    labels = {"selection_labels": np.zeros(40, int), "test_labels": np.zeros(50, int)}
    np.savez(folder / "data.npz", **arrays(make, **labels))
    task = load_study(folder).task
    assert task.evaluate(task.model(), "selection") < 100, "an untrained net is not all right"


def test_an_array_that_is_missing_is_named(zoo: Path) -> None:
    write_study(zoo / "mine", "zoo:make")
    np.savez(zoo / "mine" / "data.npz", calibration_x=np.ones((40, 8)))
    with pytest.raises(TaskError, match=r"data\.npz holds no calibration_mask"):
        load_study(zoo / "mine").task.example_inputs()


def test_an_exported_program_is_loaded_with_its_layers(zoo: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    program = torch.export.export(net, (torch.rand(2, 8),), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(program, zoo / "net.pt2")
    source = write_study(zoo / "mine", "net.pt2")
    assert source is not None
    assert source.inputs == {"input": "float32 (n, 8)"}
    assert_readable(zoo / "mine")
    rng = np.random.default_rng(0)
    make = lambda n: {"input": rng.normal(size=(n, 8)).astype(np.float32)}  # noqa: E731
    np.savez(zoo / "mine" / "data.npz", **arrays(make))
    assert not errors_of(zoo / "mine")


def test_a_folder_of_transformers(toy: Callable[..., Path], tmp_path: Path) -> None:
    source = write_study(tmp_path / "mine", str(toy()))
    assert source is not None
    assert list(source.inputs) == ["input_ids", "attention_mask"]
    assert_readable(tmp_path / "mine")
    rng = np.random.default_rng(0)

    def make(count: int) -> dict[str, np.ndarray]:
        ids = rng.integers(0, 20, (count, 6))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    np.savez(tmp_path / "mine" / "data.npz", **arrays(make))
    model: Any = load_study(tmp_path / "mine").task.model()
    assert model(*(torch.ones(2, 6, dtype=torch.long),) * 2).dtype == torch.float32
    assert not errors_of(tmp_path / "mine")


def test_without_transformers_the_task_says_so(
    toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "mine", str(toy()))
    monkeypatch.setitem(sys.modules, "transformers", None)
    (found,) = [text for text in errors_of(tmp_path / "mine") if text.startswith("model")]
    assert "this study needs transformers: pip install transformers" in found


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"num_channels": 3, "image_size": 32}, "float32 (n, 3, 32, 32)"),
        ({"num_channels": 1, "image_size": [8, 9]}, "float32 (n, 1, 8, 9)"),
        ({"num_channels": 3}, "float32 (n, 3, height, width)"),
    ],
)
def test_images_are_pixel_values(
    toy: Callable[..., Path], tmp_path: Path, config: dict[str, Any], names: str
) -> None:
    architecture = {"architectures": ["ViTForImageClassification"]}
    source = write_study(tmp_path / "mine", str(toy(architecture | config)))
    assert source is not None
    assert source.inputs == {"pixel_values": names}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([1], "must hold a table, got list"),
        ({}, "key 'architectures' must name a class"),
        ({"architectures": ["os; x"]}, "key 'architectures' must name a class"),
        ({"architectures": ["BertModel"]}, "BertModel returns hidden states"),
        ({"architectures": ["XForY"]}, "neither 'vocab_size' nor 'num_channels'"),
    ],
)
def test_a_config_that_is_not_understood(
    toy: Callable[..., Path], tmp_path: Path, config: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: ") as caught:
        write_study(tmp_path / "mine", str(toy(config)))
    assert words in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_pickles_are_never_loaded(toy: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \*\.safetensors \(pickled weights are never"):
        write_study(tmp_path / "mine", str(toy(weights="pytorch_model.bin")))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("zoo:none", "zoo has no function 'none'; there are: make, nothing, fails"),
        ("zoo:CLASSES", "zoo has no function 'CLASSES'"),
        ("zoo:nothing", "must return an nn.Module, got str"),
        ("zoo:fails", "raised OSError: no weights"),
        ("menagerie:make", "menagerie cannot be imported from"),
        ("zoo.py", "allowed are module:function, a file ending in .pt2, or a folder with"),
        ("zoo:make()", "allowed are module:function"),
        ("none.pt2", "none.pt2: no such file"),
        (".", "has no config.json; allowed are"),
    ],
)
def test_what_is_no_model_is_named_and_nothing_is_written(
    zoo: Path, model: str, words: str
) -> None:
    with pytest.raises(AutocompressError) as caught:
        write_study(zoo / "mine", model)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (zoo / "mine").exists()


@pytest.mark.parametrize("name", ["study.toml", "task.py"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{name}: is there already; init never overwrites"):
        write_study(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_with_other_files_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_study(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", "study.toml", "task.py"}


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: is a file"):
        write_study(tmp_path / "file" / "mine")

    def full(*arguments: Any, **named: Any) -> Tensor:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match=r"study\.toml: cannot be written: No space left"):
        write_study(tmp_path / "mine")
