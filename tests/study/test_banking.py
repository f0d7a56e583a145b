"""The bank is the same wherever it was made, and what a worker dies of is named."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from autocompress.compression import bank as bank_module
from autocompress.compression.bank import Bank
from autocompress.compression.making import Job, make_all
from autocompress.errors import ExecutorError
from autocompress.search_space.option import Option
from autocompress.search_space.space import Space
from autocompress.study import banking
from autocompress.study.banking import fill_bank
from autocompress.study.config import load_study
from autocompress.study.events import Silent
from autocompress.study.executors.catalogue import make_executor
from autocompress.study.executors.executor import Executor
from autocompress.study.executors.local import LocalExecutor
from autocompress.study.subject import Model, look

MENU = (
    Option(),
    Option(4, 0.5),
    Option(2),
    Option(8, 0.0, 0.5, "int8"),
    Option(8, activations="int8"),
    Option(3, method="nearest"),
)


@pytest.fixture(scope="module")
def subject(trained: Path) -> tuple[Model, Space]:
    model, space = look(load_study(trained, {}), Silent())
    return model, Space({name: MENU for name in space.units})


@pytest.fixture(autouse=True)
def _others_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        yield


def files(bank: Bank) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bank.folder.iterdir()}


def filled(subject: tuple[Model, Space], folder: Path, executor: Executor) -> Bank:
    model, space = subject
    bank = Bank(folder, model.key)
    fill_bank(bank, model, space, executor, Silent())
    return bank


@pytest.mark.parametrize("name", ["local", "processes", "ray"])
def test_every_executor_makes_the_same_entries(
    subject: tuple[Model, Space], trained: Path, tmp_path: Path, name: str
) -> None:
    if name == "ray":
        pytest.importorskip("ray")
    model, space = subject
    one = Bank(tmp_path / "one", model.key)
    for layer, menu in space.units.items():
        module = model.dense.get_submodule(layer)
        one.fill(model.layer(layer), module, lambda n=layer: model.statistics[n], menu)  # type: ignore[misc]
    study = load_study(trained, {"executor": name, "workers": 2})
    with contextlib.closing(make_executor(study)) as executor:
        other = filled(subject, tmp_path / "other", executor)
    assert (other.made, other.reused) == (one.made, 0)
    assert files(other) == files(one)


def test_what_is_there_is_not_made_again(subject: tuple[Model, Space], tmp_path: Path) -> None:
    first = filled(subject, tmp_path / "bank", LocalExecutor(2))
    entries = sorted(first.folder.iterdir())
    kept = entries[0].read_bytes()
    entries[0].unlink()
    passes = subject[0].statistics.passes
    second = filled(subject, tmp_path / "bank", LocalExecutor(2))
    assert (second.made, second.reused) == (1, len(entries) - 1)
    assert entries[0].read_bytes() == kept
    filled(subject, tmp_path / "bank", LocalExecutor(2))
    assert subject[0].statistics.passes == passes + 1, "nothing missing, nothing calibrated"


def test_jobs_hold_every_option_once() -> None:
    job = Job(None, MENU[1:])  # type: ignore[arg-type]  # the layer is not looked at
    parts: Sequence[Job] = job.split()
    assert sorted(option for part in parts for option in part.options) == sorted(MENU[1:])
    assert len(parts) == 3


def test_a_layer_that_ends_its_worker_is_named(
    subject: tuple[Model, Space],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = next(iter(subject[1].units))
    monkeypatch.setattr(banking, "make_all", ends_with(name))
    study = load_study(trained, {"executor": "processes", "workers": 2})
    bank = Bank(tmp_path / "bank", subject[0].key)
    with (
        contextlib.closing(make_executor(study)) as executor,
        pytest.raises(ExecutorError, match=rf"layer {name!r}: ended its process .*signal 9"),
    ):
        fill_bank(bank, *subject, executor, Silent())
    others = len(subject[1].units) - 1
    assert bank.made == others * (len(MENU) - 1)
    assert len(files(bank)) == bank.made
    assert bank_module._read(next(bank.folder.iterdir())) is not None


def ends_with(name: str) -> Callable[..., object]:
    def make(supplies: object, job: Job) -> object:
        if job.layer.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return make_all(supplies, job)  # type: ignore[arg-type]

    return make
