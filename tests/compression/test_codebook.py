"""Codebooks: k-means on a line against all partitions, values solved for, error feedback."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from autocompress.compression.codebook import Book, fit_book, kmeans
from autocompress.compression.rounding import round_one
from autocompress.search_space.option import Option

System = Callable[..., tuple[Tensor, Tensor]]
Error = Callable[[Tensor, Tensor], float]


def brute_force(values: Tensor, counts: Tensor, clusters: int) -> float:
    """The least error of all ways to cut the sorted values into runs."""
    values, order = torch.sort(values)
    counts, least = counts[order], float("inf")
    for cuts in combinations(range(1, len(values)), clusters - 1):
        total = 0.0
        for start, end in zip((0, *cuts), (*cuts, len(values)), strict=True):
            part, mass = values[start:end], counts[start:end]
            centre = (part * mass).sum() / mass.sum()
            total += float((mass * (part - centre).square()).sum())
        least = min(least, total)
    return least


@pytest.mark.parametrize("clusters", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_kmeans_is_as_good_as_every_partition_where_there_are_clusters(
    clusters: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    middles = torch.tensor([-3.0, -1.0, 1.0, 3.0]).double()[:clusters]
    values = torch.cat([m + 0.2 * torch.randn(4, generator=generator).double() for m in middles])
    counts = torch.rand(len(values), generator=generator).double() + 0.1
    centres = kmeans(values, counts, clusters)
    nearest = (values[:, None] - centres).square().amin(1)
    assert float((counts * nearest).sum()) == pytest.approx(brute_force(values, counts, clusters))


def test_kmeans_of_few_values_are_the_values() -> None:
    values = torch.tensor([2.0, -1.0, 2.0, -1.0]).double()
    assert kmeans(values, torch.ones(4).double(), 8).tolist() == [-1.0, 2.0]


def test_refitted_values_are_the_least_squares_ones(system: System) -> None:
    weight, moment = system()
    book = fit_book(weight, 4, False, moment.diagonal())
    rows, columns = torch.ones_like(weight).nonzero(as_tuple=True)
    codes = book.choose(weight.flatten(), rows, columns, rows).reshape(weight.shape).short()
    fitted = book.refitted(codes, weight, moment).book.double()
    # The same by the normal equations of four indicator matrices.
    masks = [(codes == i + 1).double() for i in range(4)]
    system_ = torch.tensor([[float(((a @ moment) * b).sum()) for a in masks] for b in masks])
    wanted = torch.tensor([float(((weight @ moment) * a).sum()) for a in masks])
    torch.testing.assert_close(fitted.float(), torch.linalg.solve(system_, wanted), rtol=2e-3,
                               atol=2e-3)  # fmt: skip


@pytest.mark.parametrize("levels", [2, 4, 16])
def test_feedback_and_refit_beat_rounding_to_the_nearest_value(
    levels: int, system: System, error: Error
) -> None:
    weight, moment = system()
    stored = round_one(weight, Option(codebook=levels), moment)
    book = fit_book(weight, levels, False, moment.diagonal())
    plain = book.book.double()[(weight[..., None] - book.book.double()).abs().argmin(-1)]
    assert error(stored.dense().double() - weight, moment) < error(plain - weight, moment)
    assert stored.codebook is not None
    assert len(stored.codebook) <= levels
    assert len(stored.dense().unique()) <= levels
    assert bool((stored.codebook.diff() >= 0).all())


@pytest.mark.parametrize("levels", [2, 4, 16, 256])
def test_zero_is_one_of_the_values_of_a_sparse_layer(levels: int, system: System) -> None:
    weight, moment = system()
    weight = weight * (torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.4)
    stored = round_one(weight, Option(codebook=levels), moment)
    assert stored.codebook is not None
    assert len(stored.codebook) <= min(levels - 1, 255)
    assert bool((stored.codes[weight == 0] == 0).all())
    assert len(stored.dense().unique()) <= levels


def test_values_that_nothing_uses_are_not_stored() -> None:
    book = Book(torch.tensor([3.0, -1.0, 0.5]).half())
    stored = book.stored(torch.tensor([[1, 0, 3, 1]], dtype=torch.int16))
    assert stored.codebook is not None
    assert stored.codebook.tolist() == [0.5, 3.0]
    assert stored.dense().tolist() == [[3.0, 0.0, 0.5, 3.0]]
