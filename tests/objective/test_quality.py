from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from autocompress.errors import ConfigError, TaskError
from autocompress.objective.quality import WORST, Proxy


class Fixed(nn.Module):
    """Gives the rows of a table, whatever their meaning."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.table = torch.tensor(table)

    def forward(self, rows: Tensor) -> Tensor:
        return self.table[rows]


LOGITS = [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [5.0, -1.0, 2.0]]
OTHERS = [[1.5, 1.0, 0.0], [1.0, 0.0, 0.0], [5.0, -1.0, 2.0]]
ROWS = (torch.arange(3),)


def test_the_divergence_is_that_of_the_class_probabilities() -> None:
    found = Proxy(Fixed(LOGITS), ROWS)(Fixed(OTHERS))
    p, q = (softmax(np.array(table), axis=1) for table in (LOGITS, OTHERS))
    wanted = rel_entr(p, q).sum(1)
    np.testing.assert_allclose(found.samples, wanted, rtol=1e-12, atol=1e-15)
    assert found.value == pytest.approx(wanted.mean())
    assert found.spread == pytest.approx(wanted.std(ddof=1) / 3**0.5)
    assert (found.unit, found.direction) == ("nat", "minimize")
    assert found.samples[2] == 0


def test_a_shift_of_all_logits_is_no_difference() -> None:
    shifted = [[value + 7 for value in row] for row in LOGITS]
    assert Proxy(Fixed(LOGITS), ROWS)(Fixed(shifted)).value < 1e-12


def test_the_squared_error_is_a_share_of_the_variance() -> None:
    found = Proxy(Fixed(LOGITS), ROWS, "mse")(Fixed(OTHERS))
    table, other = np.array(LOGITS), np.array(OTHERS)
    wanted = ((table - other) ** 2).mean(1) / table.var(ddof=1)
    np.testing.assert_allclose(found.samples, wanted, rtol=1e-12)
    assert found.unit == "share of variance"


@pytest.mark.parametrize("kind", ["kl", "mse"])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_same_model_is_at_zero_and_batches_do_not_matter(kind: str, batch: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    inputs = (torch.randn(50, 6),)
    assert Proxy(model, inputs, kind, batch)(copy.deepcopy(model)).value == 0
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight += 0.1
    values = [Proxy(model, inputs, kind, size)(other).value for size in (batch, 50)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert values[0] > 1e-4


def test_positions_of_a_sequence_are_averaged() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 5, 3), torch.randn(4, 5, 3)

    class Table(nn.Module):
        def __init__(self, table: Tensor) -> None:
            super().__init__()
            self.table = table

        def forward(self, rows: Tensor) -> Tensor:
            return self.table[rows]

    found = Proxy(Table(a), (torch.arange(4),))(Table(b))
    p, q = (softmax(x.double().numpy(), axis=-1) for x in (a, b))
    np.testing.assert_allclose(found.samples, rel_entr(p, q).sum(-1).mean(-1), rtol=1e-9)


@pytest.mark.parametrize("kind", ["kl", "mse"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_not_finite_are_the_worst(kind: str, bad: float) -> None:
    broken = [LOGITS[0], [bad, 0.0, bad], LOGITS[2]]
    found = Proxy(Fixed(LOGITS), ROWS, kind)(Fixed(broken))
    assert found.samples.tolist() == [0, WORST, 0]
    assert found.value == pytest.approx(WORST / 3)
    assert np.isfinite(found.spread)


def test_a_loss_is_never_below_zero_nor_beyond_the_worst() -> None:
    far = [[1e9, 0.0, 0.0]] * 3
    assert Proxy(Fixed(LOGITS), ROWS, "mse")(Fixed(far)).value == WORST
    table = torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    rows = (torch.arange(500),)
    # Equal but for the last digits, where the sum may come out below zero.
    nearly = Fixed((table + 3e-8 * table.sign()).tolist())
    assert float(Proxy(Fixed(table.tolist()), rows)(nearly).samples.min()) >= 0


def test_an_original_that_is_not_finite_is_refused() -> None:
    with pytest.raises(TaskError, match="original gives NaN or infinite outputs"):
        Proxy(Fixed([[0.0, float("nan")]]), (torch.arange(1),))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_output_has_no_divergence(shape: tuple[int, ...]) -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1).reshape(len(x), *shape)

    inputs = (torch.randn(5, 3),)
    with pytest.raises(ConfigError, match='use an objective with proxy = "mse"'):
        Proxy(One(), inputs)
    assert Proxy(One(), inputs, "mse")(One()).value == 0


def test_passes_are_counted_and_one_example_has_no_spread() -> None:
    proxy = Proxy(Fixed(LOGITS), (torch.arange(1),))
    assert proxy.passes == 0
    assert proxy(Fixed(OTHERS)).spread == 0
    proxy(Fixed(OTHERS))
    assert proxy.passes == 2


def test_a_candidate_that_does_not_run_is_a_task_error() -> None:
    proxy = Proxy(Fixed(LOGITS), ROWS)
    with pytest.raises(TaskError, match="fails on inputs"):
        proxy(Fixed(LOGITS[:1]))
