"""The hypervolume of a search's history: known corners, and a front that only grows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autocompress.study.details import _history_rows, _hypervolumes
from autocompress.study.loop import History, Step
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


def test_a_record_that_the_race_dropped_adds_nothing() -> None:
    dropped = replace(record(1e-9, 1, 0.1), doubt=0.1, examples=8)
    kept = [record(1e-2, 100, 2), record(1e-3, 100, 1)]
    volumes = _hypervolumes([dropped, kept[0], dropped, kept[1]])
    assert [volumes[1], volumes[3]] == _hypervolumes(kept)
    assert [volumes[0], volumes[2]] == [0.0, volumes[1]]
    assert _hypervolumes([dropped]) == [0.0]


def test_volumes_equal_those_of_the_whole_front_each_time() -> None:
    rng = np.random.default_rng(0)
    records = [record(10**-x, 100 * y, z) for x, y, z in rng.uniform(1, 3, (40, 3))]
    found = _hypervolumes(records)
    assert found == sorted(found)
    # The box is that of all records: adding them in another order ends at the same volume.
    assert _hypervolumes(records[::-1])[-1] == pytest.approx(found[-1])


def test_history_counts_passes_and_names_candidates() -> None:
    steps = [
        Step(1, replace(record(1e-2, 100, 2), work=1.0), True, 1e-2, 0.5),
        Step(2, replace(record(1e-1, 90, 2), work=0.25, doubt=0.1), True, 1e-2, 0.6),
    ]
    rows = _history_rows(History(steps))
    assert [row["passes"] for row in rows] == [1.0, 1.25]
    assert [row["complete"] for row in rows] == [True, False]
    assert [row["candidate"] for row in rows] == ["id", "id"]
