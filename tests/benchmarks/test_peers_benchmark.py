"""The peers benchmark without the peers: budgets, scores, and rows of tools that fail."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import peers
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rivals import attempt
from rivals.attempt import Effort, attempts
from rivals.entries import ENTRIES, Entry, chosen
from rivals.environment import ToolError, call, last_line
from rivals.problem import Budget, Problem, scored_inputs
from rivals.scoring import Score, agreement_percent, kl_nats, score
from torch import Tensor, nn

from autocompress.model.task import Task


def linear_model(weight: np.ndarray, name: str = "x") -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Gemm", [name, "w"], ["y"], transB=1)],
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", weight.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    rng = np.random.default_rng(0)
    proto = linear_model(rng.normal(size=(4, 6)))
    onnx.save(proto, str(tmp_path / "float.onnx"))
    x = rng.normal(size=(250, 6)).astype(np.float32)
    size = (tmp_path / "float.onnx").stat().st_size
    return Problem(tmp_path, tmp_path, proto, size, {"x": x[:1]}, {"x": x})


def test_budgets_are_read() -> None:
    assert Budget.parse("size=12.5%") == Budget("size", 0.125)
    assert str(Budget.parse("latency=50%")) == "latency=50%"
    for text in ("size=25", "quality=1%", "size", "size=-5%", "size=x%"):
        with pytest.raises(ValueError, match="write size=25%"):
            Budget.parse(text)


def test_agreement_and_divergence() -> None:
    expected = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]))
    given = np.log(np.array([[0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]))
    assert agreement_percent(expected, given) == 50
    assert kl_nats(expected, given) == pytest.approx(0.125 * np.log(2), rel=1e-12)
    assert kl_nats(expected, expected + 3) == pytest.approx(0, abs=1e-12)


def test_the_original_scores_as_itself(problem: Problem) -> None:
    path = problem.folder / "same.onnx"
    onnx.save(
        linear_model(numpy_helper.to_array(problem.original.graph.initializer[0]), "z"), path
    )
    found = score(problem, path, problem.folder / "float.onnx")
    assert found.agreement == 100
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert found.bytes_percent == 100
    assert 50 < found.latency_percent < 200


def test_a_limit_is_on_what_was_measured() -> None:
    found = Score(99.0, 0.01, 25.0, 51.5)
    assert found.meets(Budget("size", 0.25))
    assert not found.meets(Budget("latency", 0.5))
    assert replace(found, latency_percent=50.9).meets(Budget("latency", 0.5))


def test_a_tool_without_budget_runs_once(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weight = numpy_helper.to_array(problem.original.graph.initializer[0])
    (tmp_path / "ready.onnx").write_bytes(linear_model(weight).SerializeToString())
    (tmp_path / "tool.py").write_text(
        "import pathlib, shutil, sys\n"
        "problem, out = map(pathlib.Path, sys.argv[1:])\n"
        "with (problem / 'calls').open('a') as f: f.write('x')\n"
        "shutil.copy(problem / 'ready.onnx', out / 'model.onnx')\n"
    )
    monkeypatch.setattr(attempt, "TOOLS", tmp_path)
    budgets = [Budget("size", 1.0), Budget("size", 0.1), Budget("latency", 9.0)]
    python, effort = Path(sys.executable), Effort()
    deaf = Entry("deaf", "", (), "tool.py")
    rows = list(attempts(deaf, problem, budgets, python, effort))
    assert (tmp_path / "calls").read_text() == "x"
    assert [row["met"] for row in rows] == [True, False, True]
    assert {row["agreement"] for row in rows} == {100.0}
    told = Entry("told", "", (), "tool.py", ("size",))
    list(attempts(told, problem, budgets, python, effort))
    assert (tmp_path / "calls").read_text() == "xxxx"


def test_a_tool_that_fails_is_a_row(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text("raise KeyError('no such layer')\n")
    (tmp_path / "idle.py").write_text("")
    monkeypatch.setattr(attempt, "TOOLS", tmp_path)
    python, budget = Path(sys.executable), Budget("size", 0.5)
    for script, words in (("bad.py", "no such layer"), ("idle.py", "no model was written")):
        (found,) = attempts(Entry("tool", "", (), script), problem, [budget], python, Effort())
        assert words in found["error"]
        assert found["met"] is False
        assert found["agreement"] is None
        keys = "tool budget met agreement kl bytes_percent latency_percent seconds error"
        assert list(found) == keys.split()


def test_commands() -> None:
    assert call([sys.executable, "-c", "print(5)"]) == "5\n"
    assert call([sys.executable, "-c", "exit(3)"], ok=(0, 3)) == ""
    with pytest.raises(ToolError, match="not done after"):
        call([sys.executable, "-c", "import time; time.sleep(9)"], seconds=0.2)
    assert last_line("a\n  b \n\n") == "b"
    assert last_line("") == ""


def test_versions_are_pinned() -> None:
    assert all("==" in text for entry in ENTRIES for text in entry.requirements)
    assert [entry.name for entry in chosen(["nncf"])] == ["nncf"]
    with pytest.raises(ValueError, match="known are autocompress"):
        chosen(["sparta"])


def test_inputs_are_those_of_the_test_split() -> None:
    splits = {"selection": torch.zeros(4, 2), "test": torch.ones(6, 2)}

    def evaluate(model: nn.Module, split: str) -> float:
        outputs: Tensor = torch.cat([model(part) for part in splits[split].split(4)])
        return float(outputs.sum())

    net = nn.Linear(2, 2)
    task = Task(lambda: net, lambda: None, lambda: None, evaluate)
    (found,) = scored_inputs(task, net, 5)
    assert torch.equal(found, torch.ones(5, 2))
    with pytest.raises(ValueError, match="no split"):
        scored_inputs(replace(task, evaluator=lambda model: 0.0), net, 5)


def test_table_and_summary(capsys: pytest.CaptureFixture[str]) -> None:
    good = attempt.row("a", Budget("size", 0.5), 1.5, Score(99.5, 0.01, 40, 90))
    bad = attempt.row("b", Budget("size", 0.5), 0.5, error="it broke")
    rows = [{"study": "s", **item} for item in (good, bad)]
    peers.show("s", rows)
    text = capsys.readouterr().out
    assert "99.5" in text
    assert "b, size=50%: it broke" in text
    assert peers.summary(rows)["s"]["size=50%"]["b"] == {
        "met": False,
        "agreement": None,
        "kl": None,
    }
