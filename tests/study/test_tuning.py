"""Tuning the knobs on the tiny study: defaults first, resumable, confirmed on further draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console
from torch import nn

from autocompress.errors import ConfigError, StudyMismatchError, TaskError
from autocompress.model.task import Task
from autocompress.report.tuning_tables import importance_table, trials_table
from autocompress.study import tuning
from autocompress.study.config import Study, load_study
from autocompress.study.events import Silent
from autocompress.study.journal import open_journal
from autocompress.study.knobs import Knobs
from autocompress.study.rehearsal import Recorder, rehearse, selection_inputs
from autocompress.study.tuned import Tuning
from autocompress.study.tuning import CHOICES, tune

EVALUATIONS = 6


@pytest.fixture
def study(make_study: Callable[..., Path]) -> Study:
    return load_study(make_study())


@pytest.fixture
def places(with_device: Callable[[Path], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A journal, and a working folder whose device is recorded already."""
    place = tmp_path / "work" / "tiny" / tuning._short(Knobs())
    with_device(place)
    return tmp_path / "knobs.journal", tmp_path / "work"


def test_the_defaults_are_among_the_choices() -> None:
    defaults = Knobs().model_dump()
    assert set(CHOICES) == set(defaults)
    for name, values in CHOICES.items():
        assert defaults[name] in values
        for value in values:
            Knobs.model_validate({name: value})


def test_recorder_keeps_what_evaluate_gives_the_model(study: Study) -> None:
    recorder = Recorder(study.task.model())
    quality = study.task.evaluate(recorder, "selection")
    assert quality == study.task.evaluate(study.task.model(), "selection")
    assert sum(len(call[0]) for call in recorder.calls) == 400


def test_a_rehearsal_repeats_itself_and_a_milder_budget_loses_less(
    make_study: Callable[..., Path], places: tuple[Path, Path], tmp_path: Path
) -> None:
    def loss(budget: dict[str, str]) -> float:
        folder = places[1] / "tiny" / tuning._short(Knobs())
        given = load_study(make_study(budget=budget))
        found = rehearse(given, Knobs(), 0, EVALUATIONS, folder, Silent())
        assert found.excess == 0
        assert set(found.seconds) == {"bank", "price", "search"}
        return found.loss

    assert loss({"size": "25%"}) == loss({"size": "25%"}) > loss({"size": "60%"}) > 0


def test_another_draw_is_fitted_and_searched_on_other_inputs(
    study: Study, places: tuple[Path, Path]
) -> None:
    folder = places[1] / "tiny" / tuning._short(Knobs())
    first, other, again = (
        rehearse(study, Knobs(), draw, EVALUATIONS, folder, Silent()).loss for draw in (0, 1, 0)
    )
    assert first == again != other


def lines(journal: Path) -> list[str]:
    """All but those that say that the study was opened."""
    return [line for line in journal.read_text().splitlines() if '"op_code":0,' not in line]


def test_tuning_goes_on_and_says_what_it_showed(
    study: Study, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "DRAWS", 2)
    journal, work = places
    first = tune([study], 1, EVALUATIONS, journal, work, Silent())
    assert [row["value"] for row in first.rows] == [1.0]
    assert (first.best, dict(first.confirmed)) == (0, {})
    assert "defaults" in first.conclusion

    # As a process leaves it that dies within a trial: the same knobs are asked again.
    book = optuna.load_study(study_name="tune-settings", storage=open_journal(journal))
    book.sampler = tuning._sampler(1)
    torn = book.ask({name: tuning._distribution(name) for name in CHOICES})
    shutil.rmtree(work / "tiny" / tuning._short(Knobs()) / "bank")

    second = tune([study], 2, EVALUATIONS, journal, work, Silent())
    assert [row["knobs"] for row in second.rows] == [first.rows[0]["knobs"], torn.params]
    trials = book.get_trials(deepcopy=False)
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert second.rows[0] == first.rows[0]
    assert second.rows[1]["seconds"] > 0
    written = lines(journal)
    third = tune([study], 2, EVALUATIONS, journal, work, Silent())
    assert third == second
    assert lines(journal) == written  # nothing was rehearsed again

    record = json.loads(json.dumps(third.as_dict([study])))
    assert record["summary"]["studies"] == ["tiny"]
    assert [row["trial"] for row in record["rows"]] == [0, 2]
    with pytest.raises(StudyMismatchError, match="another number of evaluations"):
        tune([study], 2, EVALUATIONS + 1, journal, work, Silent())


def test_the_command_prints_its_tables_and_writes_the_figures(
    make_study: Callable[..., Path],
    places: tuple[Path, Path],
    cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "DRAWS", 2)
    out = places[1].parent
    given = ("--trials", 1, "--evaluations", 4, "--out", out, "--budget", "size=30%")
    code, said, _ = cli("tune-settings", make_study(), *given)
    assert code == 0
    assert "0 (defaults) *" in said
    assert "No trial was better than the defaults: they stay." in said
    record = json.loads((out / "knobs.json").read_text())
    assert (record["name"], len(record["rows"])) == ("tune-settings", 1)
    assert cli("tune-settings", make_study(), *given[:-1], "size=40%")[0] == 2


def test_a_study_without_a_budget_is_refused(
    make_study: Callable[..., Path], places: tuple[Path, Path]
) -> None:
    given = load_study(make_study(budget={"quality": "-5pt"}))
    with pytest.raises(ConfigError, match="tiny: .* a limit on size or latency"):
        tune([given], 1, EVALUATIONS, *places, Silent())


def test_two_studies_of_one_name_are_refused(study: Study, places: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="different names"):
        tune([study, study], 1, EVALUATIONS, *places, Silent())


def tuned(**confirmed: float) -> Tuning:
    rows = [
        {"trial": 0, "knobs": Knobs().model_dump(), "value": 1.0, "seconds": 9.0},
        {"trial": 1, "knobs": Knobs(damping=0.1).model_dump(), "value": 0.8, "seconds": 8.0},
        {"trial": 2, "knobs": Knobs(protect="both").model_dump(), "value": None, "seconds": None},
    ]
    extra = [{"excess": 0.0, "error": ""}, {"excess": 0.2, "error": ""}]
    filled = [
        row | more
        for row, more in zip(rows, [*extra, {"excess": None, "error": "x"}], strict=True)
    ]
    return Tuning(tuple(filled), {"damping": 0.7, "protect": 0.3}, 1, 0.05, confirmed)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.85, 0.95, "better beyond noise"),
        (0.85, 1.05, "No knob matters beyond noise"),
        (1.1, 1.3, "was the best by luck"),
    ],
)
def test_only_what_holds_on_further_draws_counts(low: float, high: float, said: str) -> None:
    found = tuned(ratio=0.9, low=low, high=high)
    assert said in found.conclusion
    assert f"0.900 ({low:.3f} to {high:.3f})" in found.conclusion


def test_tables_show_defaults_best_and_failures() -> None:
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(trials_table(tuned().rows, 1))
        console.print(importance_table({"damping": 0.7, "protect": 0.3}))
    text = capture.get()
    shown = [line.strip() for line in text.splitlines()]
    assert next(line for line in shown if line.startswith("0 (defaults)")).endswith("9.0 s")
    assert "0.8 beyond limits" in next(line for line in shown if line.startswith("1 *"))
    assert "failed" in text
    assert text.index("1 *") < text.index("0 (defaults)") < text.index("failed")
    assert text.index("70.0 %") < text.index("30.0 %")


def test_evaluate_that_never_calls_the_model_is_named() -> None:
    task = Task(nn.Identity, lambda: None, lambda: None, lambda model: 1.0, "here")
    with pytest.raises(TaskError, match=r"here: evaluate\(\) does not call the model"):
        selection_inputs(task, nn.Identity())


def test_batches_of_several_shapes_are_named() -> None:
    def evaluate(model: Any) -> float:
        model(torch.zeros(2, 3))
        return float(model(torch.zeros(2, 4)).sum())

    task = Task(nn.Identity, lambda: None, lambda: None, evaluate, "here")
    with pytest.raises(TaskError, match="batches that cannot be joined"):
        selection_inputs(task, nn.Identity())
