"""Models of many kinds of layers, from the trace to files that are read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.deploy.onnx_file import OnnxModule
from autocompress.errors import ConfigError, TaskError
from autocompress.model.canonical import canonical
from autocompress.model.trace import trace

SPACE = """
schema = 1
description = "a few options a layer"
bits = [4, 6, 8]
activations = ["float32", "int8"]
"""
WORDS, STEPS = 60, 9


class Speaker(nn.Module):
    """Recurrence, attention, a convolution in one dimension, a body that runs twice, tied ends."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 24)
        self.places = nn.Embedding(STEPS, 24)
        self.near = nn.utils.parametrizations.weight_norm(nn.Conv1d(24, 24, 3, padding=1))
        self.rnn = nn.LSTM(24, 12, bidirectional=True, batch_first=True)
        self.mix = nn.MultiheadAttention(24, 2, batch_first=True)
        self.body = nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, WORDS)
        self.head.weight = self.words.weight
        self.scale = nn.Parameter(torch.ones(24))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(STEPS, device=tokens.device))
        x = x + self.near(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.rnn(x)[0]
        x = x + self.mix(x, x, x, need_weights=False)[0]
        for _ in range(2):
            x = self.norm(x + self.body(x).relu())
        return self.head(self.scale * x)


class Painter(nn.Module):
    """Convolutions in three dimensions, and transposed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU()
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=2),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 2, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x).mean(2))


def _tokens(count: int) -> Tensor:
    return torch.randint(WORDS, (count, STEPS))


def _films(count: int) -> Tensor:
    return torch.rand(count, 1, 3, 6, 6)


@pytest.mark.parametrize("form", ["archive", "onnx"])
@pytest.mark.parametrize(("kind", "inputs"), [(Speaker, _tokens), (Painter, _films)])
def test_every_layer_is_treated_and_what_ships_is_what_was_chosen(
    kind: type[nn.Module], inputs: object, form: str, tmp_path: Path
) -> None:
    assert callable(inputs)
    torch.manual_seed(0)
    model = kind().eval()
    examples, unseen = inputs(48), inputs(8)
    for layer in trace(canonical(model, (unseen[:1],)).model, (unseen[:1],)):
        assert layer.is_treated or layer.kind in ("LayerNorm", kind.__name__), layer
    space = tmp_path / "space.toml"
    space.write_text(SPACE)
    with torch.no_grad():
        wanted = model(unseen)

    def evaluate(net: nn.Module) -> float:
        with torch.no_grad():
            return -float((net(unseen) - wanted).square().mean())

    result = autocompress.compress(
        model,
        calibration=examples,
        example_inputs=examples[:1],
        evaluate=evaluate,
        budget={"size": "40%" if form == "archive" else "60%"},
        space=str(space),
        device="cortex_a76",
        format=form,
        evaluations=6,
        out=tmp_path / "run",
    )
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert found["budget"]["size"]["met"], found["budget"]
    ours = result.best.model(unseen)
    result.best.export(tmp_path / "again.acz")
    restored = autocompress.load_archive(tmp_path / "again.acz", kind().eval())
    assert torch.equal(restored(unseen), ours)
    ran = OnnxModule(tmp_path / "run" / "model.onnx")(unseen)
    assert float((ran - ours).abs().max()) <= 0.05 * float(ours.abs().max())


class Hesitant(nn.Module):
    """How often its body runs depends on the data: no graph says so."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.body, self.head = nn.Linear(16, 48), nn.Linear(48, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x).relu()
        for _ in range(1 + int(x.abs().max().item()) % 2):
            x = self.body(x).relu()
        return self.head(x)


def test_a_model_that_cannot_be_exported_ships_as_an_archive(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model, unseen = Hesitant().eval(), torch.randn(20, 16)
    settings: dict[str, object] = {
        "calibration": torch.randn(48, 16),
        "example_inputs": torch.randn(1, 16),
        "evaluate": lambda net: float(net(unseen).square().mean()),
        "budget": {"size": "50%"},
        "evaluations": 4,
    }
    with pytest.raises(TaskError, match="--device torch-cpu --format archive"):
        autocompress.compress(model, out=tmp_path / "no", **settings)  # type: ignore[arg-type]
    result = autocompress.compress(
        model,
        out=tmp_path / "run",
        device="torch-cpu",
        clock_patience="0.1s",
        **settings,  # type: ignore[arg-type]
    )
    assert "model.acz" in result.outcome.result["files"]
    assert not (tmp_path / "run" / "model.onnx").exists()
    restored = autocompress.load_archive(tmp_path / "run" / "model.acz", Hesitant().eval())
    assert torch.equal(restored(unseen), result.best.model(unseen))
    with pytest.raises(TaskError, match="cannot be exported to ONNX"):
        result.best.export(tmp_path / "no.onnx")
    assert "aten" not in capfd.readouterr().err  # what torch says of it to its own authors


class Reader(nn.Module):
    """A text of any length, with a mask as long."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(WORDS, 24), nn.Linear(24, 24)
        self.mix = nn.MultiheadAttention(24, 2, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.body(self.words(tokens))
        x = x + self.mix(x, x, x, key_padding_mask=mask == 0, need_weights=False)[0]
        return {"logits": self.head(x.relu())}


def test_a_file_takes_other_lengths_where_it_is_told_to(tmp_path: Path) -> None:
    def batch(count: int, steps: int) -> dict[str, Tensor]:
        tokens = torch.randint(WORDS, (count, steps))
        return {"tokens": tokens, "mask": torch.ones_like(tokens)}

    torch.manual_seed(0)
    model, unseen = Reader().eval(), batch(8, 12)
    space = tmp_path / "space.toml"
    space.write_text(SPACE)
    settings: dict[str, object] = {
        "calibration": batch(48, 12),
        "example_inputs": batch(1, 12),
        "evaluate": lambda net: float(net(**unseen)["logits"].square().mean()),
        "budget": {"size": "50%"},
        "space": str(space),
        "device": "cortex_a76",
        "evaluations": 4,
    }
    for wrong, words in (("text:1", "names no input"), ("tokens:2", "has dimensions 1 to 1")):
        with pytest.raises(ConfigError, match=words):
            autocompress.compress(model, dynamic=[wrong], **settings)  # type: ignore[arg-type]
    result = autocompress.compress(
        model,
        dynamic=["tokens:1", "mask:1"],
        out=tmp_path / "run",
        **settings,  # type: ignore[arg-type]
    )
    session = autocompress.load_onnx(tmp_path / "run" / "model.onnx")
    assert [value.shape for value in session.get_inputs()] == [["batch", "length_12"]] * 2
    for steps in (12, 5, 31):
        other = batch(3, steps)
        found = session.run(None, {name: values.numpy() for name, values in other.items()})[0]
        wanted = result.best.model(**other)["logits"].detach()
        assert float((torch.from_numpy(found) - wanted).abs().max()) <= 0.05


class StepsFirst(nn.Module):
    """Sequences whose steps come first, as many older models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.rnn, self.head = nn.GRU(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.into(x.transpose(0, 1)))
        return self.head(self.rnn(x)[0].mean(0))


def test_batches_of_several_sizes_with_the_steps_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, unseen = StepsFirst().eval(), torch.randn(16, 5, 6)
    space = tmp_path / "space.toml"
    space.write_text(SPACE + "rank = [1.0, 0.5]\n")
    result = autocompress.compress(
        model,
        calibration=torch.randn(200, 5, 6),  # 150 are fitted to: a batch of 128 and one of 22
        example_inputs=unseen[:1],
        evaluate=lambda net: -float((net(unseen) - model(unseen)).square().mean()),
        budget={"size": "50%"},
        space=str(space),
        device="cortex_a76",
        evaluations=4,
        out=tmp_path / "run",
    )
    assert result.outcome.result["budget"]["size"]["met"]
