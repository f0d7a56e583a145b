"""The order of removal against brute force, its prices against least squares on the data."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from autocompress.compression import eliminate as module
from autocompress.compression.eliminate import Reader, eliminate
from autocompress.errors import ConfigError


def problem(pieces: int, width: int, out: int = 5, spare: int = 2) -> tuple[Tensor, Reader]:
    """Correlated data `(n, d)` and a reader of it, whose columns are in no order."""
    d = pieces * width + spare
    x = torch.randn(200, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64)
    columns = torch.randperm(d)[: pieces * width].reshape(pieces, width)
    return x, Reader(torch.randn(out, d), x.T @ x / len(x), columns)


def least_squares(x: Tensor, reader: Reader, gone: tuple[int, ...]) -> float:
    """Relative error of the best weights without some pieces, fitted to the data."""
    wanted = x @ reader.weight.double().T
    stays = torch.ones(x.shape[1], dtype=torch.bool)
    stays[reader.columns[list(gone)].flatten()] = False
    fitted = torch.linalg.lstsq(x[:, stays], wanted, driver="gelsd").solution
    return float((wanted - x[:, stays] @ fitted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("delayed", [1, 4, 64])
def test_order_and_errors_are_those_of_brute_force(
    monkeypatch: pytest.MonkeyPatch, width: int, delayed: int
) -> None:
    monkeypatch.setattr(module, "DELAYED", delayed)
    torch.manual_seed(width)
    data = [problem(6, width), problem(6, 1, spare=0)]
    found = eliminate([reader for _, reader in data])
    gone: tuple[int, ...] = ()
    for piece in found.order:
        prices = {
            other: sum(least_squares(x, reader, (*gone, other)) for x, reader in data)
            for other in range(6)
            if other not in gone
        }
        assert piece == min(prices, key=prices.__getitem__)
        gone = (*gone, piece)
        assert found.errors[len(gone)] == pytest.approx(prices[piece], rel=1e-6)
    assert found.errors[0] == 0
    assert found.kept(6) == tuple(range(6))
    assert found.error(1) == found.errors[5]


def test_kept_sets_are_nested_and_near_the_best() -> None:
    torch.manual_seed(0)
    x, reader = problem(8, 2)
    found = eliminate([reader])
    for count in range(1, 8):
        assert set(found.kept(count)) < set(found.kept(count + 1))
        best = min(least_squares(x, reader, gone) for gone in combinations(range(8), 8 - count))
        assert best <= found.error(count) * (1 + 1e-9)
        assert found.error(count) <= 1.5 * best


def test_a_piece_that_others_can_make_up_for_goes_first() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 6, dtype=torch.float64)
    x[:, 4] = x[:, 1] + x[:, 2]
    moment = x.T @ x / len(x) + 1e-9 * torch.eye(6, dtype=torch.float64)
    found = eliminate([Reader(10 * torch.ones(3, 6), moment, torch.arange(6)[:, None])])
    assert found.order[0] in (1, 2, 4)
    assert found.errors[1] < 1e-6


def test_hundreds_of_channels_stay_exact() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 400, dtype=torch.float64).cumsum(1)
    moment = x.T @ x / len(x)
    moment += 0.01 * moment.diagonal().mean() * torch.eye(400, dtype=torch.float64)
    weight = torch.randn(20, 400, dtype=torch.float64)
    found = eliminate([Reader(weight, moment, torch.arange(400)[:, None])])
    for count in (300, 100, 5):
        kept = torch.tensor(found.kept(count))
        fitted = torch.linalg.solve(moment[kept][:, kept], moment[kept] @ weight.T).T
        change = -weight
        change[:, kept] += fitted
        error = ((change @ moment) * change).sum() / ((weight @ moment) * weight).sum()
        assert found.error(count) == pytest.approx(float(error), rel=1e-6)


def test_what_is_asked_is_checked() -> None:
    _, reader = problem(4, 1)
    with pytest.raises(ConfigError, match="one number of pieces"):
        eliminate([])
    with pytest.raises(ConfigError, match="one number of pieces"):
        eliminate([reader, problem(5, 1)[1]])
    for count in (0, 5):
        with pytest.raises(ConfigError, match="must be 1 to 4"):
            eliminate([reader]).kept(count)
