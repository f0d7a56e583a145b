from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autocompress.errors import ConfigError, DataError, TaskError
from autocompress.model.task import Task, batches, load_task

X = torch.arange(20.0).reshape(10, 2)
Y = torch.arange(10).reshape(10, 1)


def task(**changes: Any) -> Task:
    plain = Task(lambda: nn.Linear(2, 3), lambda: X, lambda: X[:1], lambda model: 90.0)
    return replace(plain, **changes)


def parts_of(*tensors: Tensor) -> Iterator[Any]:
    for start in range(0, 10, 4):
        rows = tuple(tensor[start : start + 4] for tensor in tensors)
        yield rows if len(rows) > 1 else rows[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: X,
        lambda: (X,),
        lambda: [X[:6], X[6:]],
        lambda: [(X[:6],), (X[6:],)],
        lambda: [[X[:6]], [X[6:]]],
        lambda: parts_of(X),
        lambda: DataLoader(X, batch_size=3),
        lambda: DataLoader(TensorDataset(X), batch_size=3),
    ],
    ids=["tensor", "tuple", "list", "tuples", "lists", "generator", "loader", "dataset"],
)
def test_calibration_may_come_in_every_usual_way(make: Callable[[], Any]) -> None:
    (inputs,) = task(make_calibration=make).calibration()
    assert torch.equal(inputs, X)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (X, Y),
        lambda: [(X[:6], Y[:6]), (X[6:], Y[6:])],
        lambda: parts_of(X, Y),
        lambda: DataLoader(TensorDataset(X, Y), batch_size=3),
    ],
    ids=["tuple", "list", "generator", "loader"],
)
def test_so_may_calibration_with_several_inputs(make: Callable[[], Any]) -> None:
    first, second = task(make_calibration=make).calibration()
    assert torch.equal(first, X)
    assert torch.equal(second, Y)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must return a tensor, a tuple of tensors or batches, got None"),
        (3, "got int"),
        (np.zeros((4, 2)), "must give a tensor or a tuple of tensors, got ndarray"),
        ([{"x": X}], "got dict"),
        (torch.tensor(1.0), "must give a tensor"),
        ((), "must give a tensor"),
        ([], "returned no batches"),
        (X[:0], "non-empty and of one length, got 0"),
        ((X, Y[:4]), "non-empty and of one length, got 10, 4"),
        ([X[:4], torch.zeros(4, 3)], "same shape and type"),
        ([X[:4], X[4:].double()], "same shape and type"),
        ([(X[:4], Y[:4]), (X[4:],)], "same shape and type"),
        (torch.where(X == 3, torch.nan, X), "input 0 holds 1 values that are NaN or infinite"),
        ((Y, torch.where(X > 15, torch.inf, X)), "input 1 holds 4 values"),
    ],
)
def test_other_calibration_is_refused_with_what_is_wrong(value: Any, message: str) -> None:
    with pytest.raises(DataError, match="mine: .*" + message):
        task(make_calibration=lambda: value, origin="mine").calibration()


def test_a_generator_that_fails_is_the_tasks_fault() -> None:
    def broken() -> Iterator[Tensor]:
        yield X
        raise OSError("the disk is gone")

    with pytest.raises(TaskError, match=r"calibration\(\) raised OSError: the disk is gone"):
        task(make_calibration=broken).calibration()


def test_example_inputs_are_one_tensor_or_several() -> None:
    assert torch.equal(task().example_inputs()[0], X[:1])
    assert len(task(make_example_inputs=lambda: (X[:1], Y[:1])).example_inputs()) == 2
    for value in (None, [1], {}, "x", torch.tensor(1.0)):
        with pytest.raises(DataError, match=r"example_inputs\(\) must give a tensor"):
            task(make_example_inputs=lambda value=value: value).example_inputs()
    with pytest.raises(DataError, match="input 0 holds 2 values that are NaN"):
        task(make_example_inputs=lambda: X[:1] * torch.nan).example_inputs()


def test_the_model_comes_in_evaluation_mode() -> None:
    assert not task(make_model=lambda: nn.Dropout().train()).model().training


def test_a_model_that_is_none_or_broken_is_named() -> None:
    with pytest.raises(TaskError, match=r"model\(\) must return an nn.Module, got dict"):
        task(make_model=dict).model()
    with pytest.raises(TaskError, match=r"model\(\) raised ValueError: no weights"):
        task(make_model=lambda: (_ for _ in ()).throw(ValueError("no weights"))).model()

    def spoilt() -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 2))
        with torch.no_grad():
            model[0].bias[1] = torch.nan
        return model

    with pytest.raises(TaskError, match="parameter '0.bias' holds NaN or infinity"):
        task(make_model=spoilt).model()


def test_a_split_is_passed_to_those_who_take_one() -> None:
    seen: list[Any] = []

    def plain(model: nn.Module) -> float:
        seen.append("none")
        return 1.0

    def positional(model: nn.Module, part: str) -> float:
        seen.append(part)
        return 1.0

    def default(model: nn.Module, split: str = "selection") -> float:
        seen.append(split)
        return 1.0

    def keyword(model: nn.Module, *, split: str) -> float:
        seen.append(split)
        return 1.0

    def third(model: nn.Module, batch: int = 32, split: str = "selection") -> float:
        assert batch == 32
        seen.append(split)
        return 1.0

    def other(model: nn.Module, batch: int = 32) -> float:
        assert batch == 32
        seen.append("none")
        return 1.0

    wanted = [(plain, False), (positional, True), (default, True), (keyword, True)]
    wanted += [(third, True), (other, False)]
    for evaluator, takes in wanted:
        made = task(evaluator=evaluator)
        assert made.has_splits == takes
        assert made.evaluate(nn.Identity(), "test") == 1.0
        assert seen.pop() == ("test" if takes else "none")


def test_evaluate_gives_a_finite_number_without_gradients() -> None:
    weight = nn.Parameter(torch.tensor(2.0))

    def evaluator(model: nn.Module) -> Tensor:
        result = weight * 2
        assert not result.requires_grad
        return result

    assert task(evaluator=evaluator).evaluate(nn.Identity(), "test") == 4.0
    assert task(evaluator=lambda model: np.float32(0.5)).evaluate(nn.Identity(), "test") == 0.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must return one number, got None"),
        ("high", "must return one number, got str"),
        ({"accuracy": 1}, "must return one number, got dict"),
        (torch.zeros(2), "must return one number, got Tensor"),
        (float("nan"), "returned nan on split 'test'"),
        (float("inf"), "returned inf on split 'test'"),
    ],
)
def test_any_other_metric_is_refused(value: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(evaluator=lambda model: value).evaluate(nn.Identity(), "test")


def test_an_evaluate_that_raises_keeps_its_words_and_an_interrupt_passes() -> None:
    def broken(model: nn.Module) -> float:
        raise KeyError("label")

    def stopped(model: nn.Module) -> float:
        raise KeyboardInterrupt

    with pytest.raises(TaskError, match=r"evaluate\(\) raised KeyError: 'label'"):
        task(evaluator=broken).evaluate(nn.Identity(), "test")
    with pytest.raises(KeyboardInterrupt):
        task(evaluator=stopped).evaluate(nn.Identity(), "test")


GOOD = """
import torch
from torch import nn

def model(): return nn.Linear(2, 1)
def calibration(): return torch.ones(4, 2)
def example_inputs(): return torch.ones(1, 2)
def evaluate(model, split): return {"selection": 1, "test": 2}[split]
"""


def test_a_task_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(GOOD)
    made = load_task(tmp_path)
    assert isinstance(made.model(), nn.Linear)
    assert made.calibration()[0].shape == (4, 2)
    assert made.has_splits
    assert made.evaluate(nn.Identity(), "test") == 2
    assert made.origin == str(tmp_path / "task.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; a study needs task.py with model, calibration"),
        (GOOD.replace("def evaluate", "def score"), "missing function evaluate"),
        (GOOD + "\nmodel = 3", "missing function model"),
        (GOOD + "\n1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
    ],
)
def test_a_broken_task_file_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "task.py").write_text(text)
    with pytest.raises(ConfigError, match="task.py: " + message):
        load_task(tmp_path)


def test_batches_keep_every_row_in_order() -> None:
    cut = list(batches((X, Y), 4))
    assert [len(part[0]) for part in cut] == [4, 4, 2]
    assert torch.equal(torch.cat([part[0] for part in cut]), X)
    assert torch.equal(torch.cat([part[1] for part in cut]), Y)
