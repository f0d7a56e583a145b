"""`check_study`: every mistake is found, and nothing is found where there is none."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.model.task import Task
from autocompress.study.checkup import check_study
from autocompress.study.config import StudyFile, make_study
from autocompress.study.evaluate_checks import check_evaluate
from autocompress.study.finding import Findings
from autocompress.study.model_checks import check_calibration, check_example, check_model

COUNT = itertools.count()
SEEDS = {"calibration": 1, "selection": 2, "test": 3}


def draw(part: str, count: int = 500) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(SEEDS[part]))


def net() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))
    return made.eval()


@torch.no_grad()
def evaluate(model: nn.Module, split: str = "selection") -> float:
    return float(model(draw(split)).argmax(1).double().mean())


GOOD = Task(net, lambda: draw("calibration"), lambda: draw("calibration", 1), evaluate, "task.py")


def study(task: Task, **keys: Any) -> Any:
    return make_study("tiny", task, StudyFile(space="uniform_bits", **keys))


def rows(findings: Findings, *states: str) -> list[tuple[str, str]]:
    return [(found.name, found.text) for found in findings if found.state in states]


def test_a_good_study_has_nothing_to_complain_of() -> None:
    findings = check_study(study(GOOD))
    assert not rows(findings, "warning", "error")
    assert not findings.has_errors
    found = dict(rows(findings, "ok"))
    assert found["calibration inputs"] == "500 examples, all different"
    assert "100.0 % of the parameters" in found["layers"]
    assert "500 selection and 500 test inputs" in found["splits"]
    assert {"device", "model", "example inputs", "ONNX export", "time"} <= set(found)


def test_what_stops_a_run_late_is_found_early() -> None:
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 3)
            self.table = nn.Embedding(200, 3)

        def forward(self, x: Tensor) -> Tensor:
            """Branches on values, which cannot be exported."""
            y: Tensor = self.fc(x)
            return y + 1 if float(y.sum()) > 0 else y

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Sorting().eval()

    findings = check_study(study(replace(GOOD, make_model=make), device="cortex_m7"))
    ((name, _),) = rows(findings, "error")
    assert name == "ONNX export"
    warned = dict(rows(findings, "warning"))
    assert "cortex_m7 is not here" in warned["device"]
    assert "1 of 2 layers are treated" in warned["layers"]
    assert "did not run on the example inputs (1)" in warned["layers"]


def test_a_search_space_that_matches_nothing_is_an_error() -> None:
    checked = study(GOOD)
    space = checked.space.model_copy(update={"include": ["conv*"]})
    findings = check_study(replace(checked, space=space))
    ((name, text),) = rows(findings, "error")
    assert name == "layers"
    assert "'conv*' matches no layer" in text


def raising() -> Any:
    raise OSError("no weights")


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 99)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.fc(x), 0.5)


class Infinite(Drawing):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) / 0


def fixed(kind: type[nn.Module]) -> Callable[[], nn.Module]:
    made = kind().eval()
    return lambda: made


@pytest.mark.parametrize(
    ("make", "state", "words"),
    [
        (raising, "error", "model() raised OSError: no weights"),
        (lambda: 3, "error", "must return an nn.Module, got int"),
        (nn.ReLU, "error", "no parameters"),
        (lambda: nn.Linear(8, 3).eval(), "error", "other weights each time"),
        (lambda: net().train(), "warning", "training mode (the model itself, 0, 1, 2 and 1 more)"),
        (net, "ok", "Sequential, 195 parameters, evaluation mode"),
    ],
)
def test_models(make: Callable[[], Any], state: str, words: str) -> None:
    findings = Findings()
    usable = check_model(replace(GOOD, make_model=make), findings)
    ((name, text),) = rows(findings, state)
    assert len(findings) == 1
    assert name == "model"
    assert words in text
    assert usable == (state != "error" or "other weights" in words)


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (net(), torch.rand(1, 9), "the model fails on inputs of shape (1, 9)"),
        (nn.LSTM(8, 4).eval(), torch.rand(1, 3, 8), "the model returned tuple"),
        (fixed(Infinite)(), torch.rand(1, 8), "holds NaN or infinity"),
        (fixed(Drawing)(), torch.rand(1, 8), "two passes over the same input differ"),
    ],
)
def test_examples(model: nn.Module, inputs: Tensor, words: str) -> None:
    findings = Findings()
    check_example(model, (inputs,), findings)
    ((_, text),) = rows(findings, "error")
    assert words in text


@pytest.mark.parametrize(
    ("given", "state", "name", "words"),
    [
        (lambda: draw("calibration", 499), "warning", "calibration inputs", "500 or more"),
        (lambda: draw("calibration", 31), "error", "calibration inputs", "at least 32"),
        (lambda: torch.zeros(600, 8), "error", "calibration inputs", "1 different examples"),
        (lambda: torch.full((600, 8), torch.nan), "error", "calibration inputs", "4800 values"),
        (lambda: draw("calibration").double(), "error", "input shapes", "float64 (500, 8)"),
        (lambda: draw("calibration")[:, :7], "error", "input shapes", "(500, 7)"),
        (lambda: (draw("calibration"),) * 2, "error", "input shapes", "2 inputs of the model"),
        (
            lambda: draw("calibration")[torch.arange(600) % 500],
            "warning",
            "calibration inputs",
            "100 of 600 examples occur before",
        ),
        (lambda: draw("calibration") + next(COUNT), "warning", "calibration inputs", "fixed seed"),
        (lambda: draw("calibration").unsqueeze(1), "warning", "input shapes", "will not see"),
    ],
)
def test_calibration(given: Callable[[], Any], state: str, name: str, words: str) -> None:
    findings = Findings()
    task = replace(GOOD, make_calibration=given)
    check_calibration(task, net(), (draw("calibration", 1),), findings)
    ((found, text),) = rows(findings, "warning", "error")
    assert (found, rows(findings, state)) == (name, [(found, text)])
    assert words in text


@pytest.fixture
def look() -> Callable[..., Findings]:
    """What `check_evaluate` finds, complaints only."""

    def check(evaluator: Callable[..., float], calibration: Tensor | None = None) -> Findings:
        findings = Findings()
        inputs = draw("calibration") if calibration is None else calibration
        check_evaluate(replace(GOOD, evaluator=evaluator), net(), (inputs,), findings)
        return Findings(found for found in findings if found.state != "ok")

    return check


def only(findings: Findings, state: str, name: str, words: str) -> None:
    (found,) = findings
    assert (found.name, found.state) == (name, state)
    assert words in found.text


def test_evaluate_that_is_as_it_should_be(look: Callable[..., Findings]) -> None:
    assert not look(evaluate)


def test_evaluate_that_draws(look: Callable[..., Findings]) -> None:
    values = itertools.count()

    def drawing(model: nn.Module, split: str) -> float:
        return evaluate(model, split) + 1e-3 * next(values)

    only(look(drawing), "error", "evaluate", "on the same model and split")


def test_evaluate_that_fails_or_gives_no_number(look: Callable[..., Findings]) -> None:
    only(look(lambda model, split: model(1)), "error", "evaluate", "TypeError")
    only(look(lambda model, split: "good"), "error", "evaluate", "one number")
    only(look(lambda model, split: float("nan")), "error", "evaluate", "nan on split 'selection'")


def test_evaluate_that_fails_on_the_test_split_only(look: Callable[..., Findings]) -> None:
    def failing(model: nn.Module, split: str) -> float:
        if split == "test":
            raise KeyError(split)
        return evaluate(model, split)

    only(look(failing), "error", "splits", "KeyError: 'test'")


def test_evaluate_that_changes_the_model(look: Callable[..., Findings]) -> None:
    def training(model: nn.Module, split: str) -> float:
        value = evaluate(model, split)
        model.train()
        return value

    def writing(model: nn.Module, split: str) -> float:
        value = evaluate(model, split)
        model.register_buffer("count", torch.ones(1))
        return value

    only(look(training), "error", "evaluate leaves the model alone", "in training mode")
    only(look(writing), "error", "evaluate leaves the model alone", "changes weights")


def test_splits_that_are_none(look: Callable[..., Findings]) -> None:
    only(look(lambda model: evaluate(model)), "warning", "splits", "takes no split")
    same = look(lambda model, split: evaluate(model))
    only(same, "error", "splits", "the same inputs on selection and test")


def test_evaluate_without_the_model(look: Callable[..., Findings]) -> None:
    only(look(lambda model, split: 3.0), "warning", "data leaks", "never called the model")


def test_leaks(look: Callable[..., Findings]) -> None:
    with_test = torch.cat([draw("calibration"), draw("test", 500)[:7]])
    only(look(evaluate, with_test), "error", "data leaks", "7 of 500 test inputs")
    with_selection = torch.cat([draw("calibration"), draw("selection", 500)[:3]])
    only(look(evaluate, with_selection), "warning", "data leaks", "3 of 500 selection inputs")

    def overlapping(model: nn.Module, split: str) -> float:
        x = torch.cat([draw(split), draw("selection")[:2]])
        return float(model(x).double().mean())

    only(look(overlapping), "error", "splits", "2 of 502 test inputs are selection inputs")


def test_inputs_that_were_prepared_in_another_way(look: Callable[..., Findings]) -> None:
    only(look(evaluate, 255 * draw("calibration")), "warning", "same preparation", "normalised")
    only(look(evaluate, draw("calibration") + 9), "warning", "same preparation", "normalised")
    wide = look(evaluate, torch.cat([draw("calibration")] * 2, 1))
    only(wide, "warning", "same preparation", "(16,), one of evaluate() (8,)")
