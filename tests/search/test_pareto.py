"""Known answers for fronts."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.search.pareto import Archive, hypervolume, knee, non_dominated


def test_two_objectives_by_hand() -> None:
    values = np.array([[1, 5], [2, 3], [2, 4], [3, 3], [4, 1], [1, 5], [np.nan, 0]])
    assert non_dominated(values).tolist() == [True, True, False, False, True, False, False]


@pytest.mark.parametrize("objectives", [2, 3])
def test_filter_matches_the_definition(objectives: int) -> None:
    values = np.random.default_rng(0).integers(0, 6, (60, objectives)).astype(float)
    kept = non_dominated(values)
    for index, row in enumerate(values):
        beaten = ((values <= row).all(axis=1) & (values < row).any(axis=1)).any()
        repeated = (values[:index] == row).all(axis=1).any()
        assert kept[index] == (not beaten and not repeated)


def test_hypervolume_by_hand() -> None:
    flat = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [5.0, 0.0]])
    assert hypervolume(flat, np.array([4.0, 4.0])) == pytest.approx(6.0)
    solid = np.array([[1.0, 1.0, 2.0], [2.0, 2.0, 1.0]])
    assert hypervolume(solid, np.array([3.0, 3.0, 3.0])) == pytest.approx(4 + 2 - 1)
    assert hypervolume(np.zeros((0, 2)), np.ones(2)) == 0


def test_hypervolume_in_three_dimensions_matches_counting() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 8, (12, 3)).astype(float)
    cells = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    covered = (values[:, None, :] <= cells[None]).all(axis=2).any(axis=0).sum()
    assert hypervolume(values, np.full(3, 8.0)) == pytest.approx(covered)


def test_knee_is_the_corner() -> None:
    assert knee(np.array([[0.0, 10.0], [1.0, 1.0], [10.0, 0.0]])) == 1


def test_archive_ignores_differences_below_the_noise() -> None:
    archive = Archive(noise=(0.05, 0.0))
    assert archive.add((0,), (1.0, 100.0))
    assert not archive.add((1,), (0.97, 100.5))
    assert archive.add((2,), (0.90, 110.0))
    assert archive.add((3,), (0.90, 99.0))
    assert archive.candidates == [(3,)]
    assert not archive.add((4,), (float("nan"), 1.0))
