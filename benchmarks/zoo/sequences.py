"""Models of text, character by character, and of digits read row by row."""

from __future__ import annotations

import inspect
from functools import cache

import torch
from torch import Tensor, nn

from zoo.entry import Data, Entry
from zoo.vision import digits

STEPS = 64  # characters of a piece of text
WIDTH = 96


@cache
def text() -> Data:
    """Pieces of the source of Python's own `argparse`, `typing`, `pathlib` and `inspect`; what is
    to be told is the next character.  Its size depends a little on the version of Python."""
    import argparse
    import pathlib
    import typing

    found = "".join(inspect.getsource(module) for module in (argparse, typing, pathlib, inspect))
    codes = torch.tensor([min(ord(letter), 127) for letter in found])
    count = len(codes) // (STEPS + 1)
    pieces = codes[: count * (STEPS + 1)].reshape(count, STEPS + 1)
    pieces = pieces[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    return Data(pieces[:, :-1], pieces[:, 1:], int(0.7 * count), int(0.1 * count))


class Speaker(nn.Module):
    """A decoder whose head shares its weight with the embedding (GPT-2; 1608.05859)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(128, WIDTH), nn.Embedding(STEPS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 128, bias=False)
        self.head.weight = self.words.weight
        nn.init.normal_(self.words.weight, std=0.05)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    """Attention to what came before through one layer for queries, keys and values; then two
    layers for each position."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, steps, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(n, steps, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, steps, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Recurrent(nn.Module):
    """An embedding, two recurrent layers and a head."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.words = nn.Embedding(128, 48)
        self.body = kind(48, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 128)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.words(tokens))[0])


class Encoder(nn.Module):
    """`nn.TransformerEncoder` over the rows of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(28, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(28, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.into(x[:, 0]) + self.places).mean(1))


class Waves(nn.Module):
    """One-dimensional convolutions over the pixels of a digit, normalised by their weights."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.body = nn.Sequential(
            norm(nn.Conv1d(1, 32, 9, stride=4, padding=4)),
            nn.ReLU(),
            norm(nn.Conv1d(32, 64, 9, stride=4, padding=4)),
            nn.ReLU(),
            norm(nn.Conv1d(64, 64, 5, padding="same", dilation=2)),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(2)).amax(-1))


SEQUENCES = (
    Entry("gpt", "causal attention, head tied to the embedding", Speaker, text, 300),
    Entry("gru", "embedding and two GRU layers", lambda: Recurrent(nn.GRU), text, 200),
    Entry("lstm", "embedding and two LSTM layers", lambda: Recurrent(nn.LSTM), text, 200),
    Entry("encoder", "nn.TransformerEncoder, bare parameters", Encoder, digits, 300, 1e-3),
    Entry("waves", "weight-normed Conv1d", Waves, digits, 400),
)
