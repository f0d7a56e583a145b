"""Nights in which something fails, ends too early or is killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from night_studies import make_studies, one_night

from autocompress.report.night_files import write_night
from autocompress.study.accepted import read_accepted
from autocompress.study.lock import is_locked
from autocompress.study.night_run import Order, StudyFailedError, run_here, run_in_child
from autocompress.study.nightly import (
    Night,
    all_verdicts,
)
from autocompress.study.storage import load_records


def test_a_study_that_fails_leaves_the_others(trained: Path, tmp_path: Path) -> None:
    """And a night that is interrupted goes on where it was: what is done stays done."""
    studies, out = make_studies(trained, tmp_path), tmp_path / "out"
    broken = studies / "broken"
    shutil.copytree(studies / "tiny", broken)
    (broken / "task.py").write_text("raise RuntimeError('no such data')\n")
    ran: list[str] = []

    def interrupted(order: Order) -> None:
        ran.append(order.study.name)
        if order.study.name == "tiny":
            raise KeyboardInterrupt
        run_here(order)

    with pytest.raises(KeyboardInterrupt):
        one_night(studies, out, run=interrupted)
    (before,) = all_verdicts(out)
    assert (before["study"], before["verdict"]) == ("broken", "failed")

    def again(order: Order) -> None:
        ran.append(order.study.name)
        run_here(order)

    night = one_night(studies, out, run=again)
    assert ran == ["broken", "tiny", "tiny"]
    assert [study["verdict"] for study in night.studies] == ["failed", "baseline"]
    assert before == night.studies[0]
    assert "no such data" in night.studies[0]["error"]
    assert night.exit_code == 1
    assert read_accepted(out, "broken") is None
    suite = write_junit(night)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "0", "1")
    # The next command is another night.
    assert one_night(studies / "broken", out).name != night.name


def write_junit(night: Night) -> ElementTree.Element:
    write_night(night)
    suite = ElementTree.parse(night.out / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    return suite


def test_time_is_split_over_what_is_left(tmp_path: Path) -> None:
    """Nothing is left behind by these, so that all of them fail; only their shares matter."""
    for name in "abc":
        (tmp_path / "studies" / name).mkdir(parents=True)
        (tmp_path / "studies" / name / "study.toml").write_text("schema = 1\n")
    (tmp_path / "studies" / "c" / "study.toml").write_text('schema = 1\nmax_time = "40s"\n')
    orders: list[Order] = []
    night = one_night(tmp_path / "studies", tmp_path / "out", run=orders.append, seconds=90)
    assert [study["verdict"] for study in night.studies] == ["failed"] * 3
    shares = [order.seconds or 0 for order in orders]
    assert shares == pytest.approx([30, 45, 90], abs=1)
    # Never more than the study gives itself.
    assert [order.max_time for order in orders[1:]] == ["45s", "40s"]
    late = one_night(tmp_path / "studies", tmp_path / "out", run=orders.append, seconds=-1.0)
    assert len(orders) == 3
    assert "used up" in late.studies[0]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 4, 9])
def test_a_night_that_is_killed_goes_on(trained: Path, tmp_path: Path, lines: int) -> None:
    """The command line itself, killed with -9: its study dies with it, and goes on with it."""
    studies, out = make_studies(trained, tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "autocompress.cli", "nightly", str(studies)]
    command += ["--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120

    def journals() -> list[Path]:
        return list(out.glob("tiny/*/study.journal"))

    while not journals() or journals()[0].read_bytes().count(b"\n") < lines:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    (journal,) = journals()
    while is_locked(journal):  # the child hears of it a moment later
        assert time.monotonic() < deadline
        time.sleep(0.01)
    known = [record.id for record in load_records(journal)]
    assert subprocess.call(command, stdout=subprocess.DEVNULL) == 0
    assert journals() == [journal]
    after = [record.id for record in load_records(journal)]
    assert after[: len(known)] == known
    assert len(set(after)) == len(after)
    (row,) = all_verdicts(out)
    assert (row["verdict"], row["night"]) == ("baseline", journal.parent.name)


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    """One process of its own: its exit code and last words are what is reported."""
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.toml").write_text("schema = 1\n")
    (study / "task.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    order = Order(study, tmp_path / "run", None, None)
    with pytest.raises(StudyFailedError, match="killed by signal 9"):
        run_in_child(order)
