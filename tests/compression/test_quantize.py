from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autocompress.compression import quantize
from autocompress.compression.moments import damped
from autocompress.compression.quantize import (
    fit_scale,
    largest_code,
    round_to_nearest,
    round_with_feedback,
)
from autocompress.compression.sparsify import prune_magnitude

WIDTHS = (2, 3, 4, 6, 8)


def problem(seed: int, rows: int = 12, columns: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64) @ mixing
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return weight, damped(inputs.T @ inputs / len(inputs))


def output_error(change: Tensor, moment: Tensor) -> float:
    return float(((change @ moment) * change).sum())


def test_two_bits_are_ternary_and_eight_bits_symmetric() -> None:
    assert [largest_code(bits) for bits in WIDTHS] == [1, 3, 7, 31, 127]


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_lie_in_range_and_scales_are_half_precision(bits: int) -> None:
    weight, moment = problem(0)
    weight[3] *= 1e3
    stored = [
        round_to_nearest(weight, bits, moment.diagonal()),
        round_with_feedback(weight, [bits], moment)[bits],
    ]
    for tensor in stored:
        assert tensor.bits == bits
        assert tensor.codes.dtype == torch.int8
        assert tensor.codes.shape == weight.shape
        assert int(tensor.codes.abs().max()) <= largest_code(bits)
        assert tensor.scale is not None
        assert tensor.scale.dtype == torch.float16
        assert tensor.scale.shape == (12,)
        assert bool((tensor.scale > 0).all())


@pytest.mark.parametrize("bits", WIDTHS)
def test_nearest_is_within_half_a_step_where_nothing_is_clipped(bits: int) -> None:
    weight, moment = problem(1)
    stored = round_to_nearest(weight, bits, moment.diagonal())
    assert stored.scale is not None
    step = stored.scale.double()[:, None]
    error = (stored.dense().double() - weight).abs() / step
    inside = weight.abs() <= largest_code(bits) * step
    assert float(error[inside].max()) <= 0.5 + 1e-6
    assert bool((stored.codes[~inside].abs() == largest_code(bits)).all())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", WIDTHS)
def test_feedback_beats_nearest_on_correlated_inputs(seed: int, bits: int) -> None:
    weight, moment = problem(seed)
    nearest = round_to_nearest(weight, bits, moment.diagonal())
    feedback = round_with_feedback(weight, [bits], moment)[bits]
    assert torch.equal(feedback.scale, nearest.scale)  # type: ignore[arg-type]
    errors = [output_error(s.dense().double() - weight, moment) for s in (feedback, nearest)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("bits", WIDTHS)
def test_feedback_is_nearest_on_independent_inputs(bits: int) -> None:
    weight, _ = problem(2)
    moment = torch.diag(torch.linspace(3, 0.1, 20, dtype=torch.float64))
    feedback = round_with_feedback(weight, [bits], moment)[bits]
    nearest = round_to_nearest(weight, bits, moment.diagonal())
    assert torch.equal(feedback.codes, nearest.codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_removed_weights_stay_removed(bits: int) -> None:
    weight, moment = problem(3)
    weight = prune_magnitude(weight, 0.6)
    weight[5] = 0
    codes = round_with_feedback(weight, [bits], moment)[bits].codes
    assert bool((codes[weight == 0] == 0).all())
    assert bool((codes[weight != 0] != 0).any())


@pytest.mark.parametrize("seed", range(5))
def test_survivors_make_up_for_each_other_within_their_row(seed: int) -> None:
    weight, moment = problem(seed, 16, 32)
    sparse = prune_magnitude(weight, 0.5)
    nearest = round_to_nearest(sparse, 4, moment.diagonal()).dense().double()
    feedback = round_with_feedback(sparse, [4], moment)[4].dense().double()
    assert output_error(feedback - sparse, moment) < output_error(nearest - sparse, moment)


def test_steps_of_many_rows_are_those_of_each_row_alone() -> None:
    # Rows are looked at in parts, with weights of their errors that differ by row.
    weight = torch.randn(3000, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    importance = torch.rand(3000, 64, dtype=torch.float64)
    found = fit_scale(weight, 4, importance)
    for row in (0, 1023, 1024, 2999):
        alone = fit_scale(weight[row : row + 1], 4, importance[row])
        assert found[row] == alone[0]


def test_the_two_sweeps_agree_on_a_dense_weight() -> None:
    weight, moment = problem(4)
    scales = torch.stack([fit_scale(weight, bits, moment.diagonal()) for bits in WIDTHS]).double()
    tops = torch.tensor([[float(largest_code(bits))] for bits in WIDTHS], dtype=torch.float64)
    mask, order = torch.ones(12, 20, dtype=torch.bool), torch.arange(20)
    codes = [
        sweep(weight.expand(len(WIDTHS), -1, -1).clone(), moment, order, mask, scales, tops)
        for sweep in (quantize._sweep_shared, quantize._sweep_by_row)
    ]
    # One is in single precision, so that a value near the middle of a step may fall elsewhere,
    # and what follows it in its row with it.
    same = (codes[0] == codes[1]).double().mean((1, 2))
    assert float(same.min()) > 0.9
    errors = [
        ((c * scales[:, :, None] - weight) @ moment * (c * scales[:, :, None] - weight))
        for c in codes
    ]
    torch.testing.assert_close(errors[0].sum((1, 2)), errors[1].sum((1, 2)), rtol=0.02, atol=0)


def test_rows_share_one_sweep_when_their_own_would_take_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight, moment = problem(5)
    sparse = prune_magnitude(weight, 0.5)
    by_row = round_with_feedback(sparse, [4], moment)[4].dense().double()
    monkeypatch.setattr(quantize, "SHARED_SWEEP_ABOVE", 0)
    shared = round_with_feedback(sparse, [4], moment)[4]
    assert bool((shared.codes[sparse == 0] == 0).all())
    # Both stand in for the pruned weight; the row's own factor is the better one.
    error = output_error(shared.dense().double() - sparse, moment)
    assert output_error(by_row - sparse, moment) < error < output_error(sparse, moment)


def test_a_width_does_not_depend_on_the_others() -> None:
    weight, moment = problem(6)
    sparse = prune_magnitude(weight, 0.3)
    for matrix in (weight, sparse):
        together = round_with_feedback(matrix, [8, 2, 32, 4, 16, 4], moment)
        assert sorted(together) == [2, 4, 8, 16, 32]
        for bits, stored in together.items():
            assert torch.equal(
                stored.codes, round_with_feedback(matrix, [bits], moment)[bits].codes
            )


def test_floats_pass_through() -> None:
    weight, moment = problem(7)
    for stored in (
        round_with_feedback(weight, [16, 32], moment),
        {bits: round_to_nearest(weight, bits, moment.diagonal()) for bits in (16, 32)},
    ):
        assert stored[16].scale is None
        assert stored[32].scale is None
        assert torch.equal(stored[16].codes, weight.half())
        assert torch.equal(stored[32].codes, weight.float())


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_row_of_zeros_stays_zero_and_finite(bits: int) -> None:
    weight, moment = problem(8)
    weight[2] = 0
    for stored in (
        round_with_feedback(weight, [bits], moment)[bits],
        round_with_feedback(torch.zeros_like(weight), [bits], moment)[bits],
        round_to_nearest(weight, bits, moment.diagonal()),
    ):
        assert bool((stored.codes[2] == 0).all())
        assert bool(torch.isfinite(stored.dense()).all())
        # An int32 bias in steps of this and of an input's scale is neither coarse nor saturated.
        assert stored.scale is not None
        assert 1e-5 < float(stored.scale[2]) < 1e-4


@pytest.mark.parametrize("bits", WIDTHS)
def test_weights_that_lie_on_the_grid_are_kept(bits: int) -> None:
    top = largest_code(bits)
    codes = torch.arange(-top, top + 1, dtype=torch.float64).repeat(2, 1)
    weight = codes * torch.tensor([[0.25], [2.0]], dtype=torch.float64)
    moment = torch.eye(len(weight[0]), dtype=torch.float64)
    stored = round_with_feedback(weight, [bits], moment)[bits]
    assert torch.equal(stored.dense().double(), weight)
    assert stored.scale is not None
    assert stored.scale.tolist() == [0.25, 2.0]


@pytest.mark.parametrize("factor", [1e-4, 1e-3, 1e3])
def test_small_and_large_weights_are_rounded_as_well_as_others(factor: float) -> None:
    weight, moment = problem(9)
    errors = []
    for matrix in (weight, factor * weight):
        change = round_with_feedback(matrix, [8], moment)[8].dense().double() - matrix
        errors.append(output_error(change, moment) / output_error(matrix, moment))
    assert errors[1] < 2.5 * errors[0]  # at 1e-4 the step has few bits itself


def test_the_scale_clips_rare_large_weights_where_that_pays() -> None:
    weight = torch.cat([torch.linspace(-1, 1, 99, dtype=torch.float64), torch.tensor([3.0])])
    scale = float(fit_scale(weight[None].double(), 3, torch.ones(100, dtype=torch.float64)))
    assert scale < 3.0 / largest_code(3)
    # Were only the large weight to count, it would not be clipped.
    importance = torch.zeros(100, dtype=torch.float64)
    importance[-1] = 1
    assert float(fit_scale(weight[None].double(), 3, importance)) == pytest.approx(1.0, rel=1e-3)


def test_rounding_with_inputs_that_say_nothing_of_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.randn(20, 12, dtype=torch.float64)
    moment = torch.diag(torch.rand(12, dtype=torch.float64) + 0.1)
    found = round_with_feedback(weight, [2, 4, 8], moment)
    monkeypatch.setattr("autocompress.compression.quantize.is_diagonal", lambda moment: False)
    for width, stored in round_with_feedback(weight, [2, 4, 8], moment).items():
        assert torch.equal(found[width].codes, stored.codes)
        assert torch.equal(found[width].scale, stored.scale)
