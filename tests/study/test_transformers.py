"""Models of the package transformers, as they are: dictionaries in, their own outputs back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.deploy.onnx_file import OnnxModule
from autocompress.model.blocks import find_chain
from autocompress.model.canonical import canonical
from autocompress.model.interface import interface_of
from autocompress.model.trace import trace

transformers = pytest.importorskip("transformers")

SPACE = """
schema = 1
description = "a few options a layer"
bits = [4, 8]
scales = ["channel", 16]
activations = ["float32", "int8"]
"""
SIZES: dict[str, Any] = {"vocab_size": 120, "bos_token_id": None, "eos_token_id": None}


def gpt2() -> nn.Module:
    """`Conv1D` layers, head and embedding tied."""
    config = transformers.GPT2Config(
        n_embd=32, n_layer=3, n_head=2, n_positions=16, use_cache=False, **SIZES
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        **SIZES,
    )
    return transformers.BertForSequenceClassification(config)


def llama() -> nn.Module:
    """Rotary positions, which all blocks have in common; gated layers."""
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        use_cache=False,
        **SIZES,
    )
    return transformers.LlamaForCausalLM(config)


def tokens(count: int) -> dict[str, Tensor]:
    ids = torch.randint(120, (count, 12), generator=torch.Generator().manual_seed(count))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    "make",
    [
        gpt2,
        pytest.param(bert, marks=pytest.mark.slow),
        pytest.param(llama, marks=pytest.mark.slow),
    ],
)
def test_a_model_is_compressed_and_called_as_before(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make().eval()
    space = tmp_path / "space.toml"
    space.write_text(SPACE)

    def evaluate(net: Any) -> float:
        """Agreement with the original in percent."""
        given = tokens(40)
        with torch.no_grad():
            wanted, found = model(**given).logits, net(**given).logits
        return 100 * float((found.argmax(-1) == wanted.argmax(-1)).double().mean())

    result = autocompress.compress(
        model,
        calibration=tokens(64),
        example_inputs=tokens(1),
        evaluate=evaluate,
        budget={"size": "45%", "latency": "1000%", "quality": "-100pt"},
        space=str(space),
        device="cortex_a76",  # nothing is timed
        evaluations=6,
        out=tmp_path / "run",
    )
    assert result.budget_met
    details = json.loads((tmp_path / "run" / "details.json").read_text())
    left = {row["kind"] for row in details["layers"] if not row["treated"]}
    assert left <= {"LayerNorm", "LlamaRMSNorm"}
    # The archive goes back onto the user's own class.
    result.best.export(tmp_path / "again.acz")
    loaded = autocompress.load_archive(tmp_path / "again.acz", make().eval())
    given = tokens(8)
    with torch.no_grad():
        wanted = result.best.model(**given).logits
        assert torch.equal(loaded(**given).logits, wanted)
    found = OnnxModule(tmp_path / "run" / "model.onnx")(*given.values())
    assert float((found - wanted).abs().max()) <= 0.05 * float(wanted.abs().max())


@pytest.mark.parametrize("make", [gpt2, bert, llama])
def test_blocks_are_a_chain(make: Any) -> None:
    model, given = make().eval(), tokens(2)
    interface = interface_of(model, given, None, "here")
    inputs = interface.tensors(((), given), "here")
    plain = canonical(interface.adapted(model), inputs).model
    chain = find_chain(plain, inputs)
    assert chain is not None
    assert len(chain.names) == 3
    inside = [layer.name for layer in trace(plain, inputs) if layer.kind == "Linear"]
    assert sum(0 < chain.stage(name) < chain.last for name in inside) >= 3 * 4
