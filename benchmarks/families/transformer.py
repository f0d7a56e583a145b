"""A transformer encoder of 6 layers, 384 wide, with 128 tokens: the shapes of MiniLM-L6."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention of `heads` heads (Vaswani et al. 2017, 1706.03762, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, tokens, width)` to the same."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        mixed: Tensor = scores.softmax(3) @ value
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """Attention, then two linear layers with GELU; each is added and normalised after (BERT)."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, tokens, width)` to the same."""
        x = self.norm1(x + self.attention(x))
        y: Tensor = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return y


class Encoder(nn.Module):
    """Position embedding, layers, and a classifier of the mean token."""

    def __init__(
        self,
        width: int = 384,
        layers: int = 6,
        heads: int = 12,
        tokens: int = 128,
        classes: int = 2,
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.layers = nn.Sequential(*(Layer(width, 4 * width, heads) for _ in range(layers)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, tokens, width)` embedded tokens to `(n, classes)` logits."""
        logits: Tensor = self.classifier(self.layers(x + self.position).mean(1))
        return logits
