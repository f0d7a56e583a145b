"""`nn.MultiheadAttention` with its projections as `Linear` layers, which can be treated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autocompress.model.linear import linear_over


class Attention(nn.Module):
    """Multi-head attention in canonical form.

    Args:
        dense: The original, without extra keys; its tensors are shared.
    """

    # What `nn.TransformerEncoderLayer` asks of its attention before it takes a fused path that
    # would read weights which are not there; without such a bias it does not.
    in_proj_bias: Tensor | None = None
    in_proj_weight: Tensor | None = None
    _qkv_same_embed_dim = True

    def __init__(self, dense: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim = dense.embed_dim
        self.num_heads = dense.num_heads
        self.head_dim = dense.head_dim
        self.batch_first = dense.batch_first
        self.dropout = dense.dropout
        weights: Sequence[Tensor] = (
            dense.q_proj_weight,
            dense.k_proj_weight,
            dense.v_proj_weight,
        )
        if dense.in_proj_weight is not None:
            weights = dense.in_proj_weight.chunk(3)
        biases: Sequence[Tensor | None] = (None, None, None)
        if dense.in_proj_bias is not None:
            biases = dense.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (
            linear_over(weight, bias, nn.Linear)
            for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = linear_over(dense.out_proj.weight, dense.out_proj.bias, nn.Linear)
        self.train(dense.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the original: output in the layout of `query`, and the weights if they are wanted."""
        del is_causal  # a hint: what is hidden is in `attn_mask`
        batched = query.dim() == 3
        if not batched:
            query, key, value = (part.unsqueeze(0) for part in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        q, k, v = (
            project(part).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project, part in (
                (self.q_proj, query),
                (self.k_proj, key),
                (self.v_proj, value),
            )
        )
        mask = _mask(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = nn.functional.dropout(weights, self.dropout, self.training) @ v
        else:
            share = self.dropout if self.training else 0.0
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, mask, share)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights


def _mask(attention: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """What is added to the scores, `(n, heads, queries, keys)` or fewer."""
    parts = []
    if attention is not None:
        added = _added(attention, q)
        # One for all, or one for each head of each example.
        if added.dim() == 3:
            added = added.reshape(len(q), -1, *added.shape[1:])
        parts.append(added)
    if padding is not None:
        parts.append(_added(padding, q)[:, None, None, :])
    return sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))
