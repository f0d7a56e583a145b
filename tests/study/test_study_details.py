"""The hypervolume of a search's history: known corners, and a front that only grows."""

from __future__ import annotations

import pytest

from autocompress.study.details import _hypervolumes
from autocompress.study.storage import Record


def record(loss: float, size: float, latency: float) -> Record:
    return Record("id", {}, loss, 0.0, size, latency, "", 0.0)


def test_one_record_fills_the_box() -> None:
    assert _hypervolumes([record(0.1, 10, 1)]) == [pytest.approx(1.0)]


def test_volume_grows_and_a_beaten_record_adds_nothing() -> None:
    first, beaten, last = record(1e-2, 100, 2), record(1e-1, 200, 2), record(1e-3, 100, 1)
    volumes = _hypervolumes([first, beaten, last])
    assert volumes[0] == volumes[1] < volumes[2] == pytest.approx(1.0)


def test_the_loss_counts_as_its_logarithm() -> None:
    ends = [record(1e-4, 100, 1), record(1.0, 10, 1)]
    volumes = _hypervolumes([*ends, record(1e-2, 55, 1)])
    # In the unit box with its corner at 1.01 the third point lies at (0.5, 0.5).
    added = 0.51**2 - 2 * 0.51 * 0.01 + 0.01**2
    assert volumes[2] - volumes[1] == pytest.approx(added / 1.01**2, abs=1e-4)
