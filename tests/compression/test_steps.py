"""Steps of rows, tensors and runs, zero points, signs: known optima, and who beats whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autocompress.compression.quantize import round_to_nearest
from autocompress.compression.rounding import round_one
from autocompress.compression.steps import fit_uniform
from autocompress.search_space.option import Option

System = Callable[..., tuple[Tensor, Tensor]]
Error = Callable[[Tensor, Tensor], float]


def scaled(system: System, factors: Tensor) -> tuple[Tensor, Tensor]:
    """A weight whose columns have different ranges, under a moment that makes up for them."""
    weight, moment = system()
    return weight * factors, moment / factors[:, None] / factors


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_steps_of_runs_beat_those_of_rows_where_runs_differ_in_range(
    bits: int, system: System, error: Error
) -> None:
    weight, moment = scaled(system, torch.tensor([1.0] * 16 + [30.0] * 16).double())
    of_rows, of_runs = (
        round_one(weight, Option(bits, scales=scales), moment) for scales in ("channel", "16")
    )
    assert of_runs.scale is not None
    assert of_runs.scale.shape == (20, 2)
    assert of_runs.group == 16
    losses = [error(stored.dense().double() - weight, moment) for stored in (of_rows, of_runs)]
    assert losses[1] < 0.5 * losses[0]


def test_one_step_for_all_costs_little_where_rows_are_alike_and_much_where_not(
    system: System, error: Error
) -> None:
    weight, moment = system()
    for factor, least, most in ((1.0, 0.9, 2.0), (20.0, 20.0, 1e9)):
        rows = torch.ones(20).double()
        rows[::2] = factor
        unlike = weight * rows[:, None]
        shared = round_one(unlike, Option(4, scales="tensor"), moment)
        assert shared.scale is not None
        assert shared.scale.shape == (1,)
        own = round_one(unlike, Option(4), moment)
        small = rows == 1
        losses = [
            error((stored.dense().double() - unlike)[small], moment) for stored in (shared, own)
        ]
        assert least * losses[1] < losses[0] < most * losses[1]


def test_rows_that_count_more_set_the_common_step() -> None:
    weight = torch.cat([torch.full((1, 40), 1.0), torch.linspace(-4, 4, 40)[None]]).double()
    counts = torch.ones(40).double()
    even = fit_uniform(weight, 2, "tensor", False, counts)
    first = fit_uniform(weight, 2, "tensor", False, counts, torch.tensor([100.0, 1.0]).double())
    assert abs(float(first.scale) - 1) < abs(float(even.scale) - 1)
    assert float(first.scale) == pytest.approx(1.0, abs=0.05)


def test_signs_have_the_best_step(system: System, error: Error) -> None:
    weight, moment = system()
    nearest = round_to_nearest(weight, 1, torch.ones(32).double())
    assert nearest.scale is not None
    # Without correlations the best step is the mean magnitude (XNOR-Net, 1603.05279).
    torch.testing.assert_close(nearest.scale.double(), weight.abs().mean(1), rtol=1e-3, atol=1e-3)
    assert bool((nearest.codes == weight.sign()).all())
    stored = round_one(weight, Option(1), moment)
    assert stored.scale is not None
    assert set(stored.codes.unique().tolist()) == {-1, 1}
    # The step of each row solves its least-squares problem for the codes that it has.
    codes = stored.codes.double()
    best = ((weight @ moment) * codes).sum(1) / ((codes @ moment) * codes).sum(1)
    moved = (stored.scale.double() / best - 1).abs()
    assert float(moved.max()) < 1e-3
    assert error(stored.dense() - weight, moment) < 0.8 * error(nearest.dense() - weight, moment)


def test_signs_of_a_sparse_layer_are_zero_where_it_is(system: System) -> None:
    weight, moment = system()
    weight[:, ::3] = 0
    weight[4] = 0
    stored = round_one(weight, Option(1), moment)
    assert bool(((stored.codes == 0) == (weight == 0)).all())


@pytest.mark.parametrize("scales", ["channel", "tensor", "8"])
def test_zero_points_gain_a_bit_where_all_weights_have_one_sign(
    scales: str, system: System, error: Error
) -> None:
    weight, moment = system()
    weight = weight.abs()
    affine = round_one(weight, Option(3, scales=scales, affine=True), moment)
    assert affine.zero is not None
    assert affine.scale is not None
    assert affine.zero.shape == affine.scale.shape
    unsigned = affine.codes + affine.zeros()
    assert int(unsigned.min()) >= 0
    assert int(unsigned.max()) <= 7
    losses = [
        error(stored.dense().double() - weight, moment)
        for stored in (
            affine,
            round_one(weight, Option(3, scales=scales), moment),
            round_one(weight, Option(4, scales=scales), moment),
        )
    ]
    assert losses[0] < 0.5 * losses[1]
    assert losses[0] < 2 * losses[2]


def test_zeros_stay_exactly_zero_beside_a_zero_point(system: System) -> None:
    weight, moment = system()
    weight = weight.abs() + 1
    weight[:, ::2] = 0
    stored = round_one(weight, Option(3, affine=True), moment)
    assert bool((stored.dense()[:, ::2] == 0).all())


def test_a_last_run_may_be_shorter(system: System) -> None:
    weight, moment = system(d=30)
    stored = round_one(weight, Option(3, scales="16"), moment)
    assert stored.scale is not None
    assert stored.scale.shape == (20, 2)
    assert stored.dense().shape == weight.shape
