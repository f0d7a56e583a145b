"""A small GPT (Radford et al. 2019, "Language models are unsupervised multitask learners")."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plays import CHARACTERS, CONTEXT

WIDTH, HEAD, BLOCKS = 192, 32, 4


class Attention(nn.Module):
    """Causal self-attention; one layer makes queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, later: Tensor) -> Tensor:
        """`(n, tokens, 192)` to the same; `(tokens, tokens)` is added to the scores."""
        query, key, value = (
            part.unflatten(2, (-1, HEAD)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2)
        )
        scores = query @ key.transpose(2, 3) / HEAD**0.5 + later
        mixed = scores.softmax(3) @ value
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and two linear layers with GELU; each is added, its input normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, later: Tensor) -> Tensor:
        """`(n, tokens, 192)` to the same."""
        x = x + self.attention(self.norm1(x), later)
        y: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return y


class Gpt(nn.Module):
    """Characters to the logits of the next one, 1.8 M parameters."""

    later: Tensor

    def __init__(self) -> None:
        super().__init__()
        count = len(CHARACTERS) + 1
        self.characters = nn.Embedding(count, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, count, bias=False)
        hidden = torch.full((CONTEXT, CONTEXT), -1e4).triu(1)
        self.register_buffer("later", hidden, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """`(n, 128)` numbers to `(n, 128, 97)` logits."""
        x = self.characters(ids) + self.positions.weight
        for block in self.blocks:
            x = block(x, self.later)
        logits: Tensor = self.head(self.norm(x))
        return logits
