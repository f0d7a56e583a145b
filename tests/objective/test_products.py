"""Products of pushes: exact where the loss is a squared length and layers do not interact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.objective.products import Sketch, products
from autocompress.objective.quality import Proxy
from autocompress.search.landscape import Landscape


@pytest.mark.parametrize(("kind", "tolerance"), [("mse", 1e-4), ("kl", 0.05)])
def test_sums_of_pushes_are_predicted(kind: str, tolerance: float) -> None:
    torch.manual_seed(0)
    proxy = Proxy(nn.Linear(8, 5).eval(), (torch.randn(60, 8),), kind)
    base = proxy._reference
    moves = 0.1 * torch.randn(3, 4, 60, 5)  # units, options
    moves[:, 0] = 0
    losses = [
        np.array([proxy.score(base + move).mean() for move in unit], dtype=np.float64)
        for unit in moves
    ]
    pushes = [
        np.stack([(proxy.pushes(base + move).flatten() / 60**0.5).numpy() for move in unit])
        for unit in moves
    ]
    landscape = Landscape(losses, products(pushes, losses).astype(np.float64))
    rows = np.array(list(itertools.product(range(4), repeat=3)))
    expected = np.array(
        [proxy.score(base + sum(moves[u, k] for u, k in enumerate(row))).mean() for row in rows]
    )
    far = expected > 1e-6
    error = np.abs(landscape.values(rows)[far] / expected[far] - 1)
    assert error.mean() < tolerance
    additive = np.abs(Landscape(losses).values(rows)[far] / expected[far] - 1)
    assert additive.mean() > 2 * error.mean()


def test_a_sketch_keeps_inner_products() -> None:
    torch.manual_seed(0)
    sketch = Sketch(4096)
    rows = torch.randn(6, 50_000) + torch.randn(1, 50_000)
    short = np.stack([sketch(row) for row in rows])
    assert short.shape == (6, 4096)
    exact = (rows @ rows.T).numpy()
    assert np.abs(short @ short.T - exact).max() < 0.1 * exact.max()
    assert np.array_equal(Sketch()(rows[0, :100]), rows[0, :100].numpy())
