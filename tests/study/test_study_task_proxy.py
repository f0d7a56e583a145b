"""Runs that are judged by the loss with the user's labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., tuple[int, str, str]]
LABELS = """

def labels() -> Tensor:
    return images(1, 256)[1]
"""


def by_task(study: Path, labels: str) -> Path:
    objective = study / "objective.toml"
    objective.write_text(objective.read_text() + 'proxy = "task"\n')
    task = study / "task.py"
    task.write_text(task.read_text() + labels)
    return study


def test_a_run_by_the_task_loss(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    study = by_task(make_study(), LABELS)
    folder = with_device(tmp_path / "run")
    code, _, err = cli("run", study, "--out", folder)
    assert code == 0, err
    result = json.loads((folder / "result.json").read_text())
    assert result["budget_met"]
    assert result["best"]["predicted"]["loss"] >= 0
    # Other labels are another run.
    task = study / "task.py"
    task.write_text(task.read_text().replace(LABELS, LABELS.replace("[1]", "[1].flip(0)")))
    code, _, err = cli("run", study, "--out", folder)
    assert code == 2
    assert "another proxy" in err


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("", ["proxy 'task'", "labels()", "kl"]),
        (LABELS.replace("[1]", "[1][:9]"), ["labels() gives 9 labels for 256"]),
        (LABELS.replace("[1]", "[1].float()"), ["class numbers", "float32"]),
        (LABELS.replace("[1]", "[1] + 9"), ["9 to 14", "6 classes"]),
        (LABELS.replace("images", "imagos"), ["labels() raised NameError"]),
    ],
)
def test_labels_that_are_not_usable(
    cli: Cli, make_study: Any, tmp_path: Path, labels: str, words: list[str]
) -> None:
    code, _, err = cli("run", by_task(make_study(), labels), "--out", tmp_path / "run")
    assert code == 2, err
    for word in words:
        assert word in err
