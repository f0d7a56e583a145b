"""Hashes of what a model is given: the same example is known again, however it comes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.study.seen_inputs import row_hashes, seen, state_hash, watching


class Named(nn.Module):
    def forward(self, x: Tensor, more: dict[str, Tensor]) -> Tensor:
        return x + more["y"]


def test_examples_are_known_again_in_any_batch_and_order() -> None:
    x = torch.rand(6, 2, 3)
    rows = row_hashes([x])
    assert len(set(rows)) == 6
    assert row_hashes([x[[3, 1]]]) == [rows[3], rows[1]]
    assert row_hashes([x.transpose(1, 2).contiguous().transpose(1, 2)]) == rows
    assert row_hashes([x + 1e-7]) != rows


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_every_type_of_tensor_has_hashes(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0], [1, 0], [0, 1]]).to(dtype)
    first, second, third = row_hashes([x])
    assert first == second
    assert first != third


def test_several_inputs_count_together_in_any_order() -> None:
    x, y = torch.rand(4, 2), torch.arange(4)
    assert row_hashes([x, y]) == row_hashes([y, x])
    assert len(set(row_hashes([x[[0, 0]], y[:2]]))) == 2
    assert len(row_hashes([x, torch.rand(3)])) == 1, "no batch: one example"
    assert row_hashes([torch.zeros(2, 0)])[0] == row_hashes([torch.zeros(2, 0)])[1]


def test_calls_are_watched_and_then_no_more() -> None:
    model, x = Named(), torch.rand(5, 3)
    with watching(model) as found:
        model(x[:3], more={"y": x[:3]})
        model(more={"y": x[3:]}, x=x[3:])
    model(x, {"y": x})
    assert found.rows == row_hashes([x, x])
    assert (found.calls, found.shapes) == (2, ((3,), (3,)))
    assert found.mean == pytest.approx(float(x.mean()))
    assert found.deviation == pytest.approx(float(x.std(correction=0)))
    assert seen([torch.arange(3)]).deviation == 0


def test_a_state_has_one_hash() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = state_hash(model)
    assert state_hash(model) == before
    model[1].num_batches_tracked += 1
    assert state_hash(model) != before
