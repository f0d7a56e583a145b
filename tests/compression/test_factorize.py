from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autocompress.compression.factorize import refit_second, whitened_svd


def skewed(seed: int = 0, outputs: int = 10, inputs: int = 14) -> tuple[Tensor, Tensor]:
    """A weight, and the second moment of inputs whose directions differ a hundredfold in power."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(
        torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    )
    power = torch.logspace(-1, 1, inputs, dtype=torch.float64)
    return weight, turn @ torch.diag(power) @ turn.T


def output_error(change: Tensor, moment: Tensor) -> float:
    return float(((change @ moment) * change).sum())


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_error_is_that_of_the_dropped_singular_values(rank: int) -> None:
    weight, moment = skewed()
    first, second = whitened_svd(weight, moment, rank)
    assert first.shape == (rank, 14)
    assert second.shape == (10, rank)
    # Any root of H has the same singular values of W S; this is the symmetric one.
    values, vectors = torch.linalg.eigh(moment)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    dropped = torch.linalg.svdvals(weight @ root)[rank:]
    error = output_error(second @ first - weight, moment)
    assert error == pytest.approx(float(dropped.square().sum()), rel=1e-9)


def test_full_rank_gives_the_weight_back() -> None:
    weight, moment = skewed()
    first, second = whitened_svd(weight, moment, 10)
    torch.testing.assert_close(second @ first, weight)


def test_a_weight_of_low_rank_is_kept() -> None:
    weight, moment = skewed()
    weight = weight[:, :3] @ weight[:3]
    first, second = whitened_svd(weight, moment, 3)
    torch.testing.assert_close(second @ first, weight)


def test_the_identity_gives_the_plain_svd() -> None:
    weight, _ = skewed()
    first, second = whitened_svd(weight, torch.eye(14, dtype=torch.float64), 4)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(second @ first, left[:, :4] * values[:4] @ right[:4])


@pytest.mark.parametrize("seed", range(5))
def test_it_beats_the_plain_svd_on_skewed_inputs(seed: int) -> None:
    weight, moment = skewed(seed)
    plain = torch.eye(14, dtype=torch.float64)
    errors = []
    for metric in (moment, plain):
        first, second = whitened_svd(weight, metric, 4)
        errors.append(output_error(second @ first - weight, moment))
    assert errors[0] < 0.8 * errors[1]


def test_both_factors_carry_the_same_share_of_the_singular_values() -> None:
    weight, moment = skewed()
    first, second = whitened_svd(weight, moment, 5)
    torch.testing.assert_close((first @ moment @ first.T).diagonal(), second.square().sum(0))


def test_the_second_factor_is_the_best_for_the_first() -> None:
    weight, moment = skewed()
    first, exact = whitened_svd(weight, moment, 4)
    refitted, _ = refit_second(weight, first, moment)
    # The first factor was not changed, so nor is the second.
    torch.testing.assert_close(refitted, exact, rtol=1e-4, atol=1e-4)
    rounded = (4 * first).round() / 4
    best, middle = refit_second(weight, rounded, moment)
    torch.testing.assert_close(middle, rounded @ moment @ rounded.T, rtol=1e-4, atol=1e-4)
    least = output_error(best @ rounded - weight, moment)
    assert least < output_error(exact @ rounded - weight, moment)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        shift = 0.01 * torch.randn(best.shape, generator=generator, dtype=torch.float64)
        assert output_error((best + shift) @ rounded - weight, moment) > least


def test_a_first_factor_with_repeated_and_empty_rows_has_a_finite_second() -> None:
    weight, moment = skewed()
    first, _ = whitened_svd(weight, moment, 4)
    first[1] = first[0]
    first[2] = 0
    second, middle = refit_second(weight, first, moment)
    assert bool(torch.isfinite(second).all())
    # Well posed for the rounding that follows.
    torch.linalg.cholesky(middle)
    only = first[[0, 3]]
    wanted, _ = refit_second(weight, only, moment)
    torch.testing.assert_close(second @ first, wanted @ only, rtol=1e-3, atol=1e-3)
