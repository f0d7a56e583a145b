"""Every mistake ends with exit code 2 and a sentence that names it and says what is allowed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[..., None]:
    """Runs a study that must be refused with some words, and leave nothing behind."""

    def check(study: Path, words: list[str], *more: str) -> None:
        folder = tmp_path / "run"
        code, _, err = cli("run", study, "--out", folder, *more)
        assert code == 2, err
        # Usage errors of the command line itself are framed; ours are one line.
        flat = " ".join(err.replace("│", " ").split())
        for word in words:
            assert word in flat
        assert "Traceback" not in err
        left = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        assert left <= {"log.jsonl", "study.pid"}, "something half-written is left"

    return check


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_missing_files(refused: Any, make_study: Any, tmp_path: Path) -> None:
    refused(tmp_path / "none", ["none", "no such study folder", "study.toml"])
    study = make_study()
    (study / "task.py").rename(study / "other.py")
    refused(study, ["task.py", "no such file", "model, calibration"])
    (study / "study.toml").unlink()
    refused(study, ["study.toml", "no such file"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema = \n", ["study.toml", "not valid TOML", "line 1"]),
        ("\udcff", ["study.toml", "cannot be read"]),
        ("seed = 1\n", ["study.toml", "schema", "missing"]),
        ("schema = 2\n", ["study.toml", "schema", "2"]),
        ("schema = 1\nsede = 1\n", ["study.toml", "unknown key 'sede'", "seed"]),
        ("schema = 1\nseed = 'a'\n", ["study.toml", "'seed'", "integer", "'a'"]),
        ("schema = 1\nseed = -1\n", ["study.toml", "'seed'", "-1"]),
        ("schema = 1\nevaluations = 0\n", ["study.toml", "'evaluations'", "0"]),
        ("schema = 1\nformat = 'zip'\n", ["study.toml", "'format'", "archive", "onnx", "zip"]),
        ("schema = 1\nmetric_direction = 'up'\n", ["'metric_direction'", "maximize", "'up'"]),
        ("schema = 1\nspace = 'nope'\n", ["no preset 'nope'", "storage", "low_rank"]),
        ("schema = 1\nspace = 'nope.toml'\n", ["nope.toml", "no such file"]),
        ("schema = 1\nobjective = 'nope'\n", ["no preset 'nope'", "balanced", "smallest"]),
        ("schema = 1\ndevice = 'nope'\n", ["'nope'", "onnxruntime-cpu"]),
        ("schema = 1\nsampler = 'nope'\n", ["'nope'", "budget", "tpe", "random"]),
        ("schema = 1\nmax_time = 'soon'\n", ["'soon'", "10m"]),
        ("schema = 1\ngoal = 'be small'\n", ["study.toml", "'be small'", "minimise latency"]),
        (
            "schema = 1\ngoal = 'maximise quality s.t. size<=3%'\n[budget]\nsize = '5%'\n",
            ["study.toml", "size<=3%", "budget limits size as well (5%)"],
        ),
        ("schema = 1\npatience = -1\n", ["study.toml", "'patience'", "-1"]),
        ("schema = 1\nworkers = -1\n", ["study.toml", "'workers'", "-1"]),
        ("schema = 1\nstop_when_met = 1\n", ["study.toml", "'stop_when_met'", "boolean"]),
        (
            "schema = 1\nobjective = 'pareto'\nstop_when_met = true\n",
            ["study.toml", "stop_when_met", "no limit"],
        ),
        ("schema = 1\n[budget]\naccuracy = '<=98'\n", ["accuracy<=98", "write >="]),
        (
            "schema = 1\n[budget]\naccuracy = '>=98'\nquality = '-1pt'\n",
            ["study.toml", "'quality' is given twice"],
        ),
        ("schema = 1\n[budget]\nsize = 3\n", ["study.toml", "budget.size", "string", "3"]),
        ("schema = 1\n[budget]\nsize = '3 apples'\n", ["study.toml", "apples", "MB"]),
        ("schema = 1\n[budget]\nweight = '3%'\n", ["study.toml", "'weight'", "latency"]),
    ],
)
def test_study_file(refused: Any, make_study: Any, text: str, words: list[str]) -> None:
    study = make_study()
    (study / "study.toml").write_bytes(text.encode(errors="surrogateescape"))
    refused(study, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema = 1\nbits = [5]\n", ["space.toml", "bits", "5"]),
        ("schema = 1\nbits = []\n", ["space.toml", "'bits'"]),
        ("schema = 1\nbits = '4'\n", ["space.toml", "'bits'", "list"]),
        ("schema = 1\nsparsity = [1.5]\n", ["space.toml", "sparsity", "1.5"]),
        ("schema = 1\nrank = [0]\n", ["space.toml", "rank", "0"]),
        ("schema = 1\nactivations = ['int4']\n", ["space.toml", "int4", "float32"]),
        ("schema = 1\nmethods = ['magic']\n", ["space.toml", "magic", "nearest"]),
        ("schema = 1\nbitz = [4]\n", ["space.toml", "'bitz'", "bits"]),
        (
            "schema = 1\nbits = [4]\ninclude = ['conv*', 'head*']\n",
            ["space.toml", "include", "'head*'", "conv1", "fc2"],
        ),
        (
            "schema = 1\nbits = [4]\nexclude = ['head']\n",
            ["space.toml", "exclude", "'head'", "conv1"],
        ),
        (
            "schema = 1\nbits = [4]\ninclude = ['norm']\n",
            ["space.toml", "no layer can be treated"],
        ),
        ("schema = 1\n", ["space.toml", "no layer can be treated"]),
    ],
)
def test_search_space(refused: Any, make_study: Any, text: str, words: list[str]) -> None:
    study = make_study()
    (study / "space.toml").write_text(text)
    refused(study, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema = 1\nminimise = 'time'\n", ["objective.toml", "'minimise'", "latency", "time"]),
        ("schema = 1\nsize = 'small'\n", ["objective.toml", "size=small"]),
        ("schema = 1\nfinalists = 0\n", ["objective.toml", "'finalists'", "0"]),
    ],
)
def test_objective(refused: Any, make_study: Any, text: str, words: list[str]) -> None:
    study = make_study()
    (study / "objective.toml").write_text(text)
    refused(study, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "size"], ["'size'", "NAME=VALUE"]),
        (["--budget", "weight=3%"], ["'weight'", "size, latency, energy, quality"]),
        (["--budget", "size=3 apples"], ["size=3 apples", "MB"]),
        (["--budget", "latency=3MB"], ["latency=3MB", "ms"]),
        (["--budget", "size=-3%"], ["size=-3%", "greater than zero"]),
        (["--budget", "size=0%"], ["size=0%", "greater than zero"]),
        (["--budget", "size="], ["size=", "number"]),
        (["--budget", "quality=+1pt"], ["quality=+1pt", "lost"]),
        (["--budget", "size=1%", "--budget", "size=2%"], ["twice"]),
        (["--budget", "quality=98.5"], ["quality>=98.5", "quality>=-98.5pt"]),
        (["--goal", ""], ["goal ''", "what is wanted"]),
        (["--goal", "minimise power"], ["'power'", "size, latency, quality, accuracy"]),
        (["--goal", "minimise size"], ["nothing holds the quality", "quality>=-0.5pt"]),
        (
            ["--goal", "maximise quality s.t. size<=3%", "--budget", "size=2%"],
            ["size<=3%", "budget limits size as well (2%)"],
        ),
        (["--patience", "-1"], ["'patience'", "0"]),
        (["--workers", "-2"], ["'workers'", "0"]),
        (["--max-time", "soon"], ["'soon'", "10m"]),
        (["--max-time", "-5m"], ["-5m", "10m"]),
        (["--max-time", "0s"], ["'0s'", "10m"]),
        (["--sampler", "nope"], ["'nope'", "nsga2"]),
        (["--device", "nope"], ["'nope'", "onnxruntime-cpu"]),
        (["--space", "nope"], ["no preset 'nope'", "storage"]),
        (["--objective", "nope"], ["no preset 'nope'", "balanced"]),
        (["--executor", "cloud"], ["'executor'", "'local', 'processes' or 'ray'", "'cloud'"]),
        (["--address", "auto"], ["needs executor", "'local'"]),
        (["--executor", "ray", "--address", "here"], ["'here'", "auto or HOST:PORT"]),
        (["--candidate-time", "soon"], ["'soon'", "such as 10m"]),
        (["--batch", "0"], ["'batch'", "1"]),
        (["--format", "zip"], ["'format'", "'archive' or 'onnx'", "'zip'"]),
        (["--evaluations", "0"], ["'evaluations'", "1"]),
        (["--evaluations", "many"], ["--evaluations"]),
        (["--seed", "-1"], ["'seed'", "0"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_options(refused: Any, make_study: Any, arguments: list[str], words: list[str]) -> None:
    refused(make_study(), words, *arguments)


MODEL = "    return net.eval()"
CALIBRATION = "return images(1, 256)[0]\n"
FORWARD = "return self.fc2(self.fc1(self.norm(x.flatten(1))).relu())"
METRIC = "return 100 * (net(x).argmax(1) == y).double().mean().item()"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def model()", "def model(:", ["task.py", "SyntaxError"]),
        ("import torch\n", "import torch\nimport no_such_module\n", ["no_such_module"]),
        ("def evaluate(", "def evaluates(", ["task.py", "missing function evaluate"]),
        (MODEL, "    return 3", ["task.py", "model()", "nn.Module", "int"]),
        (MODEL, "    raise OSError('no disk')", ["task.py", "model()", "OSError: no disk"]),
        (
            MODEL,
            "    net.fc1.weight.data[0, 0] = float('nan'); return net",
            ["'fc1.weight'", "NaN"],
        ),
        (MODEL, "    return net.double().eval()", ["shape (1, 1, 8, 8)", "double"]),
        (MODEL, "    return nn.Flatten()", ["no layer"]),
        (
            CALIBRATION,
            "x = images(1, 256)[0]; x[3] = float('nan'); return x\n",
            ["NaN", "64 values"],
        ),
        (CALIBRATION, "return images(1, 256)[0][:0]\n", ["calibration()", "non-empty", "0"]),
        (CALIBRATION, "return []\n", ["calibration()", "no batches"]),
        (CALIBRATION, "return None\n", ["calibration()", "tensor", "None"]),
        (CALIBRATION, "return [1, 2]\n", ["calibration()", "tensor", "int"]),
        (CALIBRATION, "return images(1, 256)[0][:9]\n", ["calibration()", "9 examples", "32"]),
        (
            CALIBRATION,
            "return images(1, 256)[0][:, :, :7, :7]\n",
            ["calibration()", "(1, 1, 7, 7)"],
        ),
        (
            CALIBRATION,
            "return torch.cat([images(1, 256)[0]] * 2, 1)\n",
            ["(1, 2, 8, 8)"],
        ),
        ("[0][:1]\n", "[0][0, 0, 0, 0]\n", ["example_inputs()", "tensor"]),
        ("[0][:1]\n", "[0][:1, :, :4]\n", ["fails on inputs of shape", "(1, 1, 4, 8)"]),
        (FORWARD, "return 'none'", ["returned str", "no tensor of floating numbers"]),
        (FORWARD, "return {'label': x.long()}", ["returned dict", "no tensor of floating"]),
        (FORWARD, "raise ValueError('my own')", ["ValueError: my own"]),
        (METRIC, "raise KeyError('label')", ["task.py", "evaluate()", "KeyError", "label"]),
        (METRIC, "return float('nan')", ["task.py", "evaluate()", "nan", "selection"]),
        (METRIC, "return 'good'", ["task.py", "evaluate()", "one number", "str"]),
        (METRIC, "return None", ["task.py", "evaluate()", "one number", "None"]),
    ],
)
def test_task(refused: Any, make_study: Any, old: str, new: str, words: list[str]) -> None:
    study = make_study()
    edit(study / "task.py", old, new)
    refused(study, words)


def test_metric_that_fails_on_the_test_split_keeps_the_trials(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    study, folder = make_study(evaluations=4), with_device(tmp_path / "run")
    edit(study / "task.py", METRIC, f"assert split != 'test', 'no test data'\n    {METRIC}")
    code, _, err = cli("run", study, "--out", folder)
    assert code == 2
    assert "no test data" in err
    assert "4 candidates evaluated" in cli("show", folder)[1]
    assert not (folder / "result.json").exists()


def test_message_is_all_that_a_process_says(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out = command("run", tmp_path / "none")
    assert out.returncode == 2
    assert out.stderr.startswith("error: ")
    assert out.stderr.count("\n") == 1


def test_run_directory_that_cannot_be_made(cli: Cli, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = cli("run", trained, "--out", tmp_path / "file")
    assert code == 2
    assert str(tmp_path / "file") in err


def test_layers_and_profile_refuse_likewise(cli: Cli, tmp_path: Path, make_study: Any) -> None:
    code, _, err = cli("layers", tmp_path / "none")
    assert code == 2
    assert "no such study folder" in err
    code, _, err = cli("layers", make_study(), "--space", "nope")
    assert code == 2
    assert "no preset" in err
    code, _, err = cli("profile", "nope")
    assert code == 2
    assert "onnxruntime-cpu" in err
