"""A run that is killed, interrupted or begun twice loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from durable_runs import Cli, Moment, assert_whole, entries, lines, trials


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


def test_lock_that_a_crash_left_is_taken_over(cli: Cli, trained: Path, run_copy: Path) -> None:
    (run_copy / "study.journal.lock").symlink_to("study.journal")
    before = len(trials(run_copy))
    assert "finished" in cli("show", run_copy)[1]
    code, _, err = cli("run", trained, "--out", run_copy, "--budget", "size=40%")
    assert code == 0, err
    assert_whole(run_copy)
    assert len(trials(run_copy)) > before


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


def test_crash_before_the_first_line_leaves_a_run_to_show(cli: Cli, run_copy: Path) -> None:
    (run_copy / "result.json").unlink()
    (run_copy / "study.journal").write_bytes(b"")
    code, out, err = cli("show", run_copy)
    assert code == 0, err
    assert "0 candidates evaluated" in out
