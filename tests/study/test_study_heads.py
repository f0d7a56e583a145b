"""A study of a small encoder that has to give up attention heads to keep its budget.

Its device is a data sheet, so that no clock decides what is delivered.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from autocompress.deploy.archive import read_archive
from autocompress.deploy.onnx_file import OnnxModule
from autocompress.deploy.restore import load_archive
from autocompress.model.task import load_task
from autocompress.search_space.option import Option
from autocompress.study.config import load_study
from autocompress.study.layers import channel_groups
from autocompress.study.storage import load_records
from autocompress.study.subject import trace_model

Cli = Callable[..., tuple[int, str, str]]

TASK = '''
from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CLASSES, TOKENS, WIDTH, HEADS = 4, 8, 32, 4


class Block(nn.Module):
    """One has queries, keys and values apart, the other together."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = HEADS, fused
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        else:
            self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        n, tokens, _ = y.shape
        if self.fused:
            parts = self.qkv(y).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            layers = (self.query, self.key, self.value)
            parts = [f(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in layers]
        z = nn.functional.scaled_dot_product_attention(*parts)
        x = x + self.out(z.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(TOKENS, WIDTH))
        self.blocks = nn.Sequential(Block(False), Block(True))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x) + self.position).mean(1))


def images(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Two tokens among noise bear a number each; the class is their sum, which takes attention."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(CLASSES, (count, 2), generator=generator)
    x = 0.3 * torch.randn(count, TOKENS, 6, generator=generator)
    for row in range(count):
        places = torch.randperm(TOKENS, generator=generator)[:2]
        for which, place in enumerate(places):
            x[row, place, numbers[row, which]] += 2
            x[row, place, CLASSES + which] += 2
    return x, numbers.sum(1) % CLASSES


def model() -> nn.Module:
    net = Net()
    net.load_state_dict(load_file(Path(__file__).with_name("net.safetensors")))
    return net.eval()


def calibration() -> Tensor:
    return images(1, 192)[0]


def example_inputs() -> Tensor:
    return images(1, 192)[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    x, y = images({"selection": 2, "test": 3}[split], 400)
    return 100 * (net(x).argmax(1) == y).double().mean().item()
'''
# Eight bits alone are more than a quarter; with hidden units halved as well, more than a fifth.
STUDY = """
schema = 1
space = "space.toml"
objective = "objective.toml"
device = "cortex_a76"
evaluations = 16
metric_unit = "%"
[budget]
size = "19%"
"""
SPACE = """
schema = 1
bits = [8]
channels = [1.0, 0.75, 0.5]
"""
OBJECTIVE = """
schema = 1
minimise = "quality"
finalists = 2
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, train: Callable[[Path], None]) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    folder.mkdir()
    contents = {"task.py": TASK, "study.toml": STUDY}
    for name, text in {**contents, "space.toml": SPACE, "objective.toml": OBJECTIVE}.items():
        (folder / name).write_text(text)
    train(folder)
    return folder


@pytest.fixture(scope="module")
def ran(study: Path, tmp_path_factory: pytest.TempPathFactory, command: Any) -> Path:
    """The directory of a finished run."""
    folder = tmp_path_factory.mktemp("ran") / "run"
    said = command("run", study, "--out", folder)
    assert said.returncode == 0, said.stderr
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def heads_kept(choices: dict[str, Option]) -> list[float]:
    """Shares of the heads of both blocks; what makes them and what reads them agree."""
    first = {choices[f"blocks.0.{name}"].outputs for name in ("query", "key", "value")}
    second = {choices["blocks.1.qkv"].outputs}
    for block, found in enumerate((first, second)):
        assert found == {choices[f"blocks.{block}.out"].inputs}
    return [*first, *second]


def test_a_run_gives_up_heads_and_both_files_are_what_was_measured(ran: Path, study: Path) -> None:
    result, plan = read(ran / "result.json"), read(ran / "plan.json")
    assert result["budget_met"]
    assert result["best"]["size_bytes"] <= 0.19 * result["original"]["size_bytes"]
    choices = {unit: Option.parse(text) for unit, text in plan["choices"].items()}
    assert min(heads_kept(choices)) < 1
    task = load_task(study)
    loaded = load_archive(ran / "model.acz", task.model())
    measured = result["best"]["measured"]["selection_quality"]
    assert task.evaluate(loaded, "selection") == pytest.approx(measured)
    assert measured > 50  # a guess would be right in a quarter
    x = torch.cat([task.calibration()[0], torch.randn(500, 8, 6)])
    with torch.no_grad():
        one, other = loaded(x), OnnxModule(ran / "model.onnx")(x)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    small = load_archive(ran / "model.acz", task.model(), narrow=True)
    with torch.no_grad():
        torch.testing.assert_close(small(x), one, rtol=1e-4, atol=1e-4)
    weights = sum(tensor.numel() for tensor in small.parameters())
    assert weights < sum(tensor.numel() for tensor in loaded.parameters())
    # The heads are gone from both files.
    stored = {t.name: tuple(t.dims) for t in onnx.load(ran / "model.onnx").graph.initializer}
    archive = read_archive(ran / "model.acz")
    for unit, option in choices.items():
        rows, columns = task.model().get_submodule(unit).weight.shape
        kept = (round(option.outputs * rows), round(option.inputs * columns))
        assert stored[f"{unit}/weight0"] == kept
        assert tuple(archive.treated[unit].weights[0].codes.shape) == kept


def test_candidates_with_and_without_heads_are_tried_and_exported(
    ran: Path, study: Path, cli: Cli, tmp_path: Path
) -> None:
    records = load_records(ran / "study.journal")
    seen = {}
    for record in records:
        choices = {unit: Option.parse(text) for unit, text in dict(record.choices).items()}
        seen[tuple(heads_kept(choices))] = record.id
    assert len(seen) > 1
    task = load_task(study)
    x = task.calibration()[0]
    for kept, candidate in seen.items():
        for name in ("one.onnx", "one.acz"):
            code, _, err = cli("export", ran, "--candidate", candidate, "-o", tmp_path / name)
            assert code == 0, err
        loaded = load_archive(tmp_path / "one.acz", task.model())
        with torch.no_grad():
            torch.testing.assert_close(
                OnnxModule(tmp_path / "one.onnx")(x), loaded(x), rtol=1e-3, atol=1e-3
            )
        shapes = {t.name: t.dims for t in onnx.load(tmp_path / "one.onnx").graph.initializer}
        for block, share in enumerate(kept):
            assert shapes[f"blocks.{block}.out/weight0"][1] == 32 * share


def test_groups_of_heads_are_listed_with_their_widths(study: Path) -> None:
    opened = load_study(study)
    rows = {row["name"]: row for row in channel_groups(opened, trace_model(opened))}
    for name in ("blocks.0.query", "blocks.1.qkv"):
        assert rows[name]["pieces"] == 4
        assert not rows[name]["frozen"]
        assert len(rows[name]["widths"]) == 3
    assert "mixed" in rows["embed"]["frozen"]


def test_numbers_of_heads_in_the_code_keep_the_heads_and_say_so(
    study: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "fixed"
    folder.mkdir()
    for file in study.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    text = (folder / "task.py").read_text()
    (folder / "task.py").write_text(text.replace("(self.heads, -1)", "(4, 8)"))
    opened = load_study(folder)
    rows = {row["name"]: row for row in channel_groups(opened, trace_model(opened))}
    assert rows["blocks.0.query"]["frozen"].startswith("a narrower model fails: ")
    assert not rows["blocks.0.query"]["widths"]
    assert not rows["blocks.1.qkv"]["frozen"]
