"""Killed, torn, crowded and full: the same command goes on, and nothing finished is done twice."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autocompress.study.storage import load_records

Cli = Callable[..., tuple[int, str, str]]
Moment = Callable[[Path], bool]


def trials(folder: Path) -> list[tuple[str, float]]:
    """Candidate and loss of every finished trial, straight from the journal's lines."""
    lines = (folder / "study.journal").read_bytes().split(b"\n")[:-1]
    found = [line for line in map(json.loads, lines) if "user_attrs" in json.dumps(line)]
    return [
        (line["user_attrs"]["candidate"], line["values"][0])
        for line in found
        if isinstance(line.get("user_attrs"), dict) and "candidate" in line["user_attrs"]
    ]


def assert_whole(folder: Path) -> None:
    """No candidate twice, and what Optuna reads is what the lines say."""
    counts = Counter(candidate for candidate, _ in trials(folder))
    assert set(counts.values()) <= {1}
    assert [record.id for record in load_records(folder / "study.journal")] == list(counts)


@pytest.fixture(scope="session")
def undisturbed(finished: tuple[Path, Any]) -> tuple[bytes, list[tuple[str, float]]]:
    """Plan and trials of a run that nothing happened to."""
    folder = finished[0]
    return (folder / "plan.json").read_bytes(), trials(folder)


@contextmanager
def started(study: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process group of its own; what it says is in `said(folder)`."""
    arguments = [sys.executable, "-m", "autocompress.cli", "run", str(study), "--out", str(folder)]
    with said(folder).open("wb") as output:
        process = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A background shell ignores SIGINT, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def said(folder: Path) -> Path:
    return folder.with_suffix(".txt")


def kill(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` of the whole process group, once it is dead."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(process: subprocess.Popen[bytes], moment: Moment, folder: Path) -> None:
    """Waits until the run directory shows the moment; fails if the run ends before."""
    deadline = time.monotonic() + 120
    while not moment(folder):
        assert process.poll() is None, f"ended too early: {said(folder).read_text()}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def stage(name: str) -> Moment:
    def reached(folder: Path) -> bool:
        log = folder / "log.jsonl"
        return log.is_file() and f'"name": "{name}"' in log.read_text()

    return reached


def entries(count: int) -> Moment:
    return lambda folder: len(list((folder / "bank").glob("*.safetensors"))) >= count


def lines(count: int) -> Moment:
    def reached(folder: Path) -> bool:
        journal = folder / "study.journal"
        return journal.is_file() and journal.read_bytes().count(b"\n") >= count

    return reached


MOMENTS: dict[str, Moment] = {
    "bank": entries(20),
    "price": stage("price"),
    "first line of the journal": lines(1),
    "amid the search": lines(7),
    "confirm": stage("confirm"),
    "ship": lambda folder: (folder / "model.acz").is_file(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_goes_on(
    cli: Cli,
    trained: Path,
    with_device: Any,
    tmp_path: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
    moment: str,
) -> None:
    folder = with_device(tmp_path / "run")
    with started(trained, folder) as process:
        wait_for(process, MOMENTS[moment], folder)
        kill(process)
    kept = {path.name for path in (folder / "bank").glob("*.safetensors")}
    code, out, err = cli("show", folder)
    assert code == 0, err
    assert "interrupted" in out
    code, out, err = cli("run", trained, "--out", folder)
    assert code == 0, err
    if kept:
        assert re.search(rf"bank: {len(kept)} of \d+ entries reused", out)
    plan, expected = undisturbed
    assert (folder / "plan.json").read_bytes() == plan
    assert trials(folder) == expected
    assert_whole(folder)
    assert not list(folder.glob(".*.json.*")) or moment != "ship"


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 13))
def test_killed_again_and_again(
    cli: Cli,
    trained: Path,
    with_device: Any,
    tmp_path: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
    count: int,
) -> None:
    """Two processes die, the second after two more lines of the journal; the third finishes."""
    folder = with_device(tmp_path / "run")
    for written in (count, count + 2):
        with started(trained, folder) as process:
            wait_for(process, lines(written), folder)
            kill(process)
    assert cli("run", trained, "--out", folder)[0] == 0
    assert (folder / "plan.json").read_bytes() == undisturbed[0]
    assert trials(folder) == undisturbed[1]
    assert_whole(folder)


def test_same_seed_same_plan(
    cli: Cli,
    trained: Path,
    with_device: Any,
    tmp_path: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
) -> None:
    folder = with_device(tmp_path / "run")
    code, _, err = cli("run", trained, "--out", folder)
    assert code == 0, err
    assert (folder / "plan.json").read_bytes() == undisturbed[0]
    assert trials(folder) == undisturbed[1]


def test_another_seed_asks_for_others(
    cli: Cli,
    trained: Path,
    with_device: Any,
    tmp_path: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
) -> None:
    """What makes the test above worth something: the seed does decide."""
    folder = with_device(tmp_path / "run")
    assert cli("run", trained, "--out", folder, "--seed", "5", "--sampler", "random")[0] == 0
    assert trials(folder) != undisturbed[1]


@pytest.mark.parametrize("damage", ["half a line more", "last line cut", "last line garbled"])
def test_torn_journal(
    cli: Cli,
    trained: Path,
    run_copy: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
    damage: str,
) -> None:
    journal = run_copy / "study.journal"
    whole = journal.read_bytes()
    last = whole[whole[:-1].rfind(b"\n") + 1 :]
    torn = {
        "half a line more": whole + last[: len(last) // 2],
        "last line cut": whole[: -len(last) // 2],
        "last line garbled": whole[: -len(last)] + b'{"op_code": 6, "wor\x00\n',
    }[damage]
    journal.write_bytes(torn)
    lost = damage != "half a line more"
    code, out, err = cli("show", run_copy)
    assert code == 0, err
    assert f"{len(undisturbed[1]) - lost} candidates evaluated" in out
    code, out, err = cli("run", trained, "--out", run_copy)
    assert code == 0, err
    assert trials(run_copy) == undisturbed[1]
    assert_whole(run_copy)
    assert (run_copy / "plan.json").read_bytes() == undisturbed[0]


def test_journal_damaged_in_the_middle_is_refused(cli: Cli, trained: Path, run_copy: Path) -> None:
    journal = run_copy / "study.journal"
    parts = journal.read_bytes().split(b"\n")
    parts[5] = parts[5][:20]
    journal.write_bytes(b"\n".join(parts))
    for arguments in (["show", run_copy], ["run", trained, "--out", run_copy]):
        code, _, err = cli(*arguments)
        assert code == 2
        assert str(journal) in err
        assert "not a readable study" in err
    assert journal.read_bytes() == b"\n".join(parts), "what can be saved by hand is kept"


def test_lock_that_a_crash_left_is_taken_over(cli: Cli, trained: Path, run_copy: Path) -> None:
    (run_copy / "study.journal.lock").symlink_to("study.journal")
    before = len(trials(run_copy))
    assert "finished" in cli("show", run_copy)[1]
    code, _, err = cli("run", trained, "--out", run_copy, "--budget", "size=40%")
    assert code == 0, err
    assert_whole(run_copy)
    assert len(trials(run_copy)) > before


def test_damaged_bank_entries_are_made_again(
    cli: Cli,
    trained: Path,
    run_copy: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
) -> None:
    files = sorted((run_copy / "bank").iterdir())
    before = {path: path.read_bytes() for path in files}
    files[0].write_bytes(before[files[0]][:-7])
    files[1].write_bytes(b"")
    files[2].write_bytes(before[files[2]][:20])
    files[3].unlink()
    code, out, err = cli("run", trained, "--out", run_copy)
    assert code == 0, err
    assert f"bank: {len(files) - 4} of {len(files)} entries reused" in out
    assert {path: path.read_bytes() for path in files} == before
    assert (run_copy / "plan.json").read_bytes() == undisturbed[0]


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}"])
def test_damaged_prices_are_made_again(
    cli: Cli,
    trained: Path,
    run_copy: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
    content: str,
) -> None:
    prices = run_copy / "prices.json"
    before = prices.read_bytes()
    prices.write_text(content)
    code, out, err = cli("run", trained, "--out", run_copy)
    assert code == 0, err
    assert "prices: reused" not in out
    assert prices.read_bytes() == before
    assert trials(run_copy) == undisturbed[1]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"schema": 1}'])
def test_damaged_device_record_is_refused(
    cli: Cli, trained: Path, run_copy: Path, content: str
) -> None:
    """Other times would lead the search elsewhere, so they are never measured in silence."""
    device = run_copy / "device.json"
    device.write_text(content)
    code, _, err = cli("run", trained, "--out", run_copy)
    assert code == 2
    assert str(device) in err
    assert device.read_text() == content


def test_damaged_run_record_is_refused(cli: Cli, trained: Path, run_copy: Path) -> None:
    (run_copy / "run.json").write_text('{"schema": 1')
    code, _, err = cli("run", trained, "--out", run_copy)
    assert code == 2
    assert "run.json" in err


def test_second_run_at_once_is_refused_and_show_works(
    cli: Cli,
    trained: Path,
    with_device: Any,
    tmp_path: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
) -> None:
    folder = with_device(tmp_path / "run")
    states = set()
    with started(trained, folder) as process:
        wait_for(process, lambda folder: (folder / "run.json").is_file(), folder)
        code, _, err = cli("run", trained, "--out", folder, "--budget", "size=50%")
        assert code == 2
        assert "another process is running" in err
        assert str(folder) in err
        while process.poll() is None:
            code, out, err = cli("show", folder)
            assert code == 0, err
            states.add(re.search(r": (\w+), ", out)[1])  # type: ignore[index]
    assert process.returncode == 0, said(folder).read_text()
    assert states <= {"running", "finished"}
    assert "running" in states
    assert json.loads((folder / "run.json").read_text())["budget"] == []
    assert (folder / "plan.json").read_bytes() == undisturbed[0]
    assert_whole(folder)


def test_interrupt_ends_with_130_and_can_go_on(
    cli: Cli,
    trained: Path,
    with_device: Any,
    tmp_path: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
) -> None:
    folder = with_device(tmp_path / "run")
    with started(trained, folder) as process:
        wait_for(process, lines(5), folder)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    out = said(folder).read_text()
    assert process.returncode == 130
    assert "run the same command to go on" in out
    assert "Traceback" not in out
    assert "interrupted" in cli("show", folder)[1]
    assert cli("run", trained, "--out", folder)[0] == 0
    assert (folder / "plan.json").read_bytes() == undisturbed[0]
    assert trials(folder) == undisturbed[1]


def test_full_disk_while_the_bank_is_written(
    cli: Cli,
    command: Callable[..., subprocess.CompletedProcess[str]],
    trained: Path,
    with_device: Any,
    tmp_path: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
) -> None:
    """A limit on the size of files stands for the full disk: larger entries cannot be written."""
    folder = with_device(tmp_path / "run")
    most = 2000  # above run.json and log.jsonl, below the largest entries
    out = command(
        "run",
        trained,
        "--out",
        folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert out.returncode == 2, out.stdout + out.stderr
    assert re.search(r"error: .*bank.*cannot be written: File too large", out.stderr)
    assert "Traceback" not in out.stderr
    kept = list((folder / "bank").iterdir())
    assert kept
    assert all(path.suffix == ".safetensors" for path in kept), "half-written files are left"
    code, text, err = cli("run", trained, "--out", folder)
    assert code == 0, err
    assert re.search(rf"bank: {len(kept)} of \d+ entries reused", text)
    assert (folder / "plan.json").read_bytes() == undisturbed[0]


def test_full_disk_while_the_journal_is_written(
    cli: Cli,
    command: Callable[..., subprocess.CompletedProcess[str]],
    trained: Path,
    run_copy: Path,
    undisturbed: tuple[bytes, list[tuple[str, float]]],
) -> None:
    """A line that the full disk cut in two is no trial, and the rerun writes it whole."""
    journal = run_copy / "study.journal"
    parts = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join(parts[:8]) + b"\n")
    most = max(path.stat().st_size for path in (run_copy / "bank").iterdir())
    most = max(most, journal.stat().st_size) + len(parts[8]) // 2
    out = command(
        "run",
        trained,
        "--out",
        run_copy,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert out.returncode == 2, out.stdout + out.stderr
    assert "study.journal" in out.stderr
    assert "Traceback" not in out.stderr
    left = journal.read_bytes()
    assert left.endswith(b"\n"), "the torn line is cut off at once"
    assert [json.loads(line) for line in left.splitlines()]
    assert cli("run", trained, "--out", run_copy)[0] == 0
    assert trials(run_copy) == undisturbed[1]
    assert_whole(run_copy)


def test_study_changed_since_the_run_began(cli: Cli, make_study: Any, run_copy: Path) -> None:
    study = make_study()
    watched = ["prices.json", "run.json", "study.journal", "device.json", "result.json"]
    before = {name: (run_copy / name).read_bytes() for name in watched}
    bank = sorted((run_copy / "bank").iterdir())

    def refused(*more: str) -> str:
        code, _, err = cli("run", study, "--out", run_copy, *more)
        assert code == 2
        assert "begun with another" in err
        assert "--out" in err
        assert {name: (run_copy / name).read_bytes() for name in watched} == before
        assert sorted((run_copy / "bank").iterdir()) == bank
        return err

    assert "search space" in refused("--space", "uniform_bits")
    assert "storage format" in refused("--format", "onnx")
    task = (study / "task.py").read_text()
    (study / "task.py").write_text(task.replace("images(1, 256)[0]\n", "images(9, 256)[0]\n"))
    assert "model or calibration data" in refused()
    (study / "task.py").write_text(task)
    other = task.replace("return net.eval()", "net.fc2.bias.data += 0.5; return net.eval()")
    (study / "task.py").write_text(other)
    assert "model or calibration data" in refused()
    shutil.rmtree(run_copy / "bank")


def test_crash_before_the_first_line_leaves_a_run_to_show(cli: Cli, run_copy: Path) -> None:
    (run_copy / "result.json").unlink()
    (run_copy / "study.journal").write_bytes(b"")
    code, out, err = cli("show", run_copy)
    assert code == 0, err
    assert "0 candidates evaluated" in out
