"""`autocompress init` and `autocompress check` as a user meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., tuple[int, str, str]]


def test_a_new_study_is_written_checked_and_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    code, out, _ = cli("init", folder)
    assert code == 0
    for words in (folder / "study.toml", folder / "task.py", f"autocompress check {folder}"):
        assert str(words) in out
    code, out, _ = cli("check", folder)
    assert code == 0, out
    assert "nothing wrong was found" in out
    code, _, err = cli("init", folder)
    assert code == 2
    assert err == f"error: {folder / 'study.toml'}: is there already; init never overwrites\n"


def test_errors_of_a_study_end_with_two(cli: Cli, make_study: Callable[..., Path]) -> None:
    folder = make_study()
    task = folder / "task.py"
    task.write_text(task.read_text().replace('"test": 3', '"test": 2'))
    code, out, err = cli("check", folder, "--space", "uniform_bits")
    assert (code, err) == (2, "")
    assert "the same inputs on selection and test" in out
    assert "256 examples: 500 or more are better" in out
    assert "1 error, 1 warning: a run would fail or mislead" in out


def test_a_study_that_cannot_be_read_is_an_error_of_its_own(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("check", tmp_path)
    assert code == 2
    assert err == f"error: {tmp_path / 'study.toml'}: no such file\n"


def test_init_says_what_the_model_takes(cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "zoo_of_cli.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Linear(2, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("init", "mine", "--model", "zoo_of_cli:make")
    assert code == 0
    assert "make() of zoo_of_cli returns: takes input" in out
    assert "write mine/data.npz: the head of mine/task.py says what it holds" in out
