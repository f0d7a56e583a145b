"""Small least-squares systems that techniques are judged on, and a net with its statistics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from compress_parts import Net, traced_net
from torch import Tensor

from autocompress.compression.moments import Statistics
from autocompress.model.layer import Layer


def make(seed: int = 0, rows: int = 20, d: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, d, generator=generator) @ torch.randn(d, d, generator=generator)
    weight = torch.randn(rows, d, generator=generator).double()
    moment = (x.T @ x).double() / len(x)
    return weight, moment + 0.01 * moment.diagonal().mean() * torch.eye(d)


@pytest.fixture(scope="session")
def system() -> Callable[..., tuple[Tensor, Tensor]]:
    """`system(seed, rows, d)`: a weight `(rows, d)` and the damped moment of correlated inputs."""
    return make


@pytest.fixture(scope="session")
def error() -> Callable[[Tensor, Tensor], float]:
    """`error(change, moment)`: `tr(D H D^T)`."""

    def measure(change: Tensor, moment: Tensor) -> float:
        return float(((change @ moment) * change).sum())

    return measure


@pytest.fixture(scope="module")
def traced() -> tuple[Net, dict[str, Layer], dict[str, Statistics]]:
    """A net, its layers by name, and their statistics."""
    return traced_net()
