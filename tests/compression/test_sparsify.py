from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from autocompress.compression import sparsify
from autocompress.compression.moments import damped
from autocompress.compression.sparsify import fit_within, prune, prune_magnitude, refit

SPARSITIES = (0.0, 0.3, 0.5, 0.6, 0.75, 0.9, 0.95)


def correlated(seed: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A random weight and the damped second moment of strongly correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64) @ mixing
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return weight, damped(inputs.T @ inputs / len(inputs))


def output_error(change: Tensor, moment: Tensor) -> float:
    return float(((change @ moment) * change).sum())


def random_mask(seed: int, rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, columns, generator=generator) < 0.5
    mask[0] = False  # a row without survivors
    mask[1] = True  # a row that keeps all
    return mask


def test_the_fit_is_least_squares_on_the_survivors_of_each_row() -> None:
    weight, moment = correlated(0, 9, 12)
    mask = random_mask(1, 9, 12)
    fitted = fit_within(weight, moment, mask)
    # tr((w - w0) H (w - w0)^T) = |R (w - w0)|^2 with H = R^T R.
    root = np.linalg.cholesky(moment.numpy()).T
    for row in range(9):
        columns = np.flatnonzero(mask[row].numpy())
        wanted, *_ = np.linalg.lstsq(root[:, columns], root @ weight[row].numpy(), rcond=None)
        np.testing.assert_allclose(fitted[row].numpy()[columns], wanted, rtol=2e-3, atol=2e-3)
    assert bool((fitted[~mask] == 0).all())


def test_a_full_mask_gives_the_weight_back() -> None:
    weight, moment = correlated(2, 4, 10)
    fitted = fit_within(weight, moment, torch.ones(4, 10, dtype=torch.bool))
    torch.testing.assert_close(fitted, weight, rtol=1e-3, atol=1e-3)


def test_splitting_the_rows_into_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moment = correlated(3, 20, 12)
    mask = random_mask(4, 20, 12)
    whole = refit(weight, moment, mask)
    monkeypatch.setattr(sparsify, "CHUNK", 1)  # one row at a time
    for found, wanted in zip(refit(weight, moment, mask), whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [5, 8])
def test_the_saliency_is_the_loss_added_by_removing_a_weight_and_refitting(columns: int) -> None:
    weight, moment = correlated(columns, 3, columns)
    mask = torch.ones(3, columns, dtype=torch.bool)
    mask[0, 1] = mask[1, 0] = mask[1, 3] = False
    weights, saliency = refit(weight, moment, mask)
    torch.testing.assert_close(weights, fit_within(weight, moment, mask), rtol=1e-3, atol=1e-4)
    for row, column in itertools.product(range(3), range(columns)):
        if not mask[row, column]:
            assert saliency[row, column] == -1
            continue
        fewer = mask.clone()
        fewer[row, column] = False
        added = output_error(fit_within(weight, moment, fewer) - weight, moment)
        added -= output_error(weights - weight, moment)
        assert float(saliency[row, column]) == pytest.approx(added, rel=5e-3, abs=1e-3)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_share_of_zeros_is_exact(sparsity: float) -> None:
    weight, moment = correlated(5, 20, 30)
    for pruned in (prune(weight, moment, [sparsity])[sparsity], prune_magnitude(weight, sparsity)):
        assert int((pruned != 0).sum()) == round((1 - sparsity) * 600)


def test_no_sparsity_gives_the_weight_itself() -> None:
    weight, moment = correlated(6, 6, 9)
    assert torch.equal(prune(weight, moment, [0.0])[0.0], weight)
    assert torch.equal(prune_magnitude(weight, 0.0), weight)


def test_a_result_does_not_depend_on_the_other_sparsities() -> None:
    weight, moment = correlated(7, 12, 20)
    together = prune(weight, moment, SPARSITIES)
    backwards = prune(weight, moment, SPARSITIES[::-1])
    for sparsity in SPARSITIES:
        alone = prune(weight, moment, [sparsity])[sparsity]
        assert torch.equal(alone, together[sparsity])
        assert torch.equal(alone, backwards[sparsity])


@pytest.mark.parametrize("seed", range(4))
def test_second_moments_beat_magnitude_on_correlated_inputs(seed: int) -> None:
    weight, moment = correlated(seed, 16, 24)
    for sparsity in SPARSITIES[1:]:
        obs = output_error(prune(weight, moment, [sparsity])[sparsity] - weight, moment)
        magnitude = output_error(prune_magnitude(weight, sparsity) - weight, moment)
        assert obs < magnitude


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_of_weights_matters_beyond_the_refit(seed: int) -> None:
    weight, moment = correlated(seed, 16, 24)
    obs = output_error(prune(weight, moment, [0.7])[0.7] - weight, moment)
    mask = prune_magnitude(weight, 0.7) != 0
    refitted = output_error(fit_within(weight, moment, mask) - weight, moment)
    assert obs < 0.95 * refitted


def test_on_independent_inputs_the_smallest_scaled_weights_go() -> None:
    weight = torch.tensor([[3.0, -1.0, 2.0, 0.5]], dtype=torch.float64)
    power = torch.diag(torch.tensor([0.01, 4.0, 1.0, 100.0], dtype=torch.float64))
    # w^2 H is 0.09, 4, 4, 25: the survivors need no change.
    wanted = torch.tensor([[0.0, -1.0, 2.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(prune(weight, power, [0.25])[0.25], wanted)


def test_ties_go_to_the_first_weights() -> None:
    weight = torch.ones(2, 4, dtype=torch.float64)
    kept = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    moment = torch.eye(4, dtype=torch.float64)
    assert torch.equal(prune_magnitude(weight, 0.5), kept)
    assert torch.equal(prune(weight, moment, [0.5])[0.5] != 0, kept != 0)


def test_extreme_sparsity_keeps_one_weight() -> None:
    weight, moment = correlated(8, 2, 3)
    assert int((prune(weight, moment, [0.999])[0.999] != 0).sum()) == 1
    assert int((prune_magnitude(weight, 0.999) != 0).sum()) == 1


def test_inputs_that_never_fire_are_no_obstacle() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 12, generator=generator, dtype=torch.float64)
    inputs[:, 4:] = 0
    moment = damped(inputs.T @ inputs / 50)
    weight = torch.randn(6, 12, generator=generator, dtype=torch.float64)
    pruned = prune(weight, moment, [0.5])[0.5]
    # A third of the inputs matter, and they get all but a few of the survivors.
    assert bool(torch.isfinite(pruned).all())
    assert int((pruned[:, :4] != 0).sum()) >= 21
    assert output_error(pruned - weight, moment) < 0.01 * output_error(weight, moment)


def test_inputs_that_say_nothing_of_each_other_leave_survivors_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.randn(20, 12, dtype=torch.float64)
    moment = torch.diag(torch.rand(12, dtype=torch.float64) + 0.1)
    found = prune(weight, moment, [0.5, 0.75])
    monkeypatch.setattr("autocompress.compression.sparsify.is_diagonal", lambda moment: False)
    for sparsity, kept in prune(weight, moment, [0.5, 0.75]).items():
        assert torch.equal(found[sparsity] != 0, kept != 0)
        torch.testing.assert_close(found[sparsity], kept, rtol=1e-5, atol=1e-6)
        assert torch.equal(found[sparsity], weight * (kept != 0))
