"""The contract of every executor: same results, whatever is lost on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autocompress.errors import DataError, ExecutorError
from autocompress.study.config import load_study
from autocompress.study.executors.catalogue import make_executor
from autocompress.study.executors.executor import Executor, Lost
from autocompress.study.executors.local import LocalExecutor
from autocompress.study.executors.processes import ProcessExecutor

NAMES = ("local", "processes", "ray")


@dataclass(frozen=True)
class Numbers:
    """A source: a tensor that every worker gets, and a folder in which it says that it did."""

    values: Tensor
    folder: Path

    def open(self, workers: int = 1) -> Sequence[Numbers]:
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        return [self] * workers


def total(state: Numbers, factor: int) -> tuple[float, int]:
    return float(factor * state.values.sum()), torch.get_num_threads()


def refuse(state: Numbers, item: int) -> int:
    if item == 3:
        raise DataError("three is too many")
    return item


def end_own_process(state: Numbers, item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def never_end(state: Numbers, item: int) -> int:
    time.sleep(3600 * (item == 3))
    return item


def take_two_seconds(state: Numbers, item: int) -> int:
    time.sleep(2.0)
    return item


def once(state: Numbers, item: int) -> int:
    """Ends its process the first time that it meets a 3."""
    flag = state.folder / "been here"
    if item == 3 and not flag.is_file():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def process_of(state: Numbers, item: int) -> int:
    return os.getpid()


@pytest.fixture(scope="module", params=NAMES)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with contextlib.closing(made(request.param)) as found:
        yield found


@pytest.fixture(autouse=True)
def _others_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        yield


def made(name: str) -> Executor:
    if name == "local":
        return LocalExecutor(2)
    if name == "processes":
        return ProcessExecutor(2, limit_seconds=1.0)
    pytest.importorskip("ray")
    from autocompress.study.executors.ray_tune import RayExecutor

    return RayExecutor(2, limit_seconds=1.0)


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    return Numbers(torch.arange(1000.0), tmp_path)


def test_a_cluster_that_is_not_there_is_named(trained: Path) -> None:
    pytest.importorskip("ray")
    study = load_study(trained, {"executor": "ray", "address": "127.0.0.1:1"})
    with (
        contextlib.closing(make_executor(study)) as executor,
        pytest.raises(ExecutorError, match=r"127\.0\.0\.1:1.*cannot be reached"),
    ):
        next(executor.map_unordered(total, Numbers(torch.ones(1), trained), [1]))


def test_every_item_is_answered_once(executor: Executor, numbers: Numbers) -> None:
    assert executor.workers == 2
    for count in (40, 1, 0):
        found = sorted(executor.map_unordered(total, numbers, range(count)))
        assert found == [(place, (499500.0 * place, 1)) for place in range(count)]
    # A worker opens a source once, for all calls; threads share one.
    assert 1 <= len(list(numbers.folder.iterdir())) <= executor.workers


def test_another_source_takes_the_place_of_the_first(
    executor: Executor, numbers: Numbers, tmp_path: Path
) -> None:
    other = Numbers(torch.ones(3), tmp_path)
    for source, expected in ((numbers, 499500.0), (other, 3.0), (numbers, 499500.0)):
        assert list(executor.map_unordered(total, source, [1])) == [(0, (expected, 1))]


def test_what_a_piece_raises_reaches_the_caller(executor: Executor, numbers: Numbers) -> None:
    with pytest.raises(DataError, match="three is too many"):
        list(executor.map_unordered(refuse, numbers, range(8)))
    assert list(executor.map_unordered(refuse, numbers, [1])) == [(0, 1)]


def test_what_cannot_be_handed_over_is_refused(executor: Executor, tmp_path: Path) -> None:
    if executor.name == "local":
        pytest.skip("threads share it")
    with (tmp_path / "open").open("w") as file:
        source = Numbers(torch.ones(1), file)  # type: ignore[arg-type]
        with pytest.raises(ExecutorError, match="cannot be handed to other processes"):
            list(executor.map_unordered(total, source, [1]))


def test_a_source_that_a_worker_cannot_open_is_named(executor: Executor, tmp_path: Path) -> None:
    source = Numbers(torch.ones(1), tmp_path / "no such folder")
    error = FileNotFoundError if executor.name == "local" else ExecutorError
    with pytest.raises(error, match="no such folder"):
        list(executor.map_unordered(total, source, [1]))


ENDS = [(end_own_process, "ended its"), (never_end, "took longer than 1 s")]


@pytest.mark.parametrize(("function", "reason"), ENDS)
def test_what_ends_or_holds_up_its_worker_is_given_up(
    executor: Executor, numbers: Numbers, function: Callable[[Numbers, int], int], reason: str
) -> None:
    if executor.name == "local":
        pytest.skip("the run is the worker")
    found = dict(executor.map_unordered(function, numbers, range(6)))
    lost = found.pop(3)
    assert isinstance(lost, Lost)
    assert reason in lost.reason
    assert found == {place: place for place in (0, 1, 2, 4, 5)}


def test_items_that_differ_have_no_time_limit(executor: Executor, numbers: Numbers) -> None:
    found = executor.map_unordered(take_two_seconds, numbers, [5], alike=False)
    assert list(found) == [(0, 5)]


def test_a_worker_that_is_lost_once_costs_nothing(executor: Executor, numbers: Numbers) -> None:
    if executor.name == "local":
        pytest.skip("the run is the worker")
    found = sorted(executor.map_unordered(once, numbers, range(6)))
    assert found == [(place, place) for place in range(6)]


def test_workers_that_die_while_they_wait_are_replaced(
    executor: Executor, numbers: Numbers
) -> None:
    if executor.name == "local":
        pytest.skip("the run is the worker")
    for pid in {pid for _, pid in executor.map_unordered(process_of, numbers, range(6))}:
        os.kill(pid, signal.SIGKILL)  # type: ignore[arg-type]
    found = sorted(executor.map_unordered(total, numbers, range(6)))
    assert found == [(place, (499500.0 * place, 1)) for place in range(6)]


def test_a_study_names_its_executor(trained: Path) -> None:
    def named(**settings: object) -> Executor:
        return make_executor(load_study(trained, settings))

    with contextlib.closing(named(executor="local", workers=3)) as local:
        assert (local.name, local.workers) == ("local", 3)
    with contextlib.closing(named(executor="processes", workers=2)) as processes:
        assert (processes.name, processes.workers) == ("processes", 2)
