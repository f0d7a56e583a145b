"""The clock of the machine is set while a study runs: limits and results are what they were."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from autocompress.study.events import Silent
from autocompress.study.nightly import _begin

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def losses(folder: Path) -> list[Any]:
    lines = map(json.loads, (folder / "study.journal").read_bytes().split(b"\n")[:-1])
    return [line["values"][0] for line in lines if line.get("values")]


@pytest.mark.skipif(not LIBRARIES, reason="needs libfaketime (Debian package faketime)")
def test_a_clock_that_jumps_changes_nothing(
    trained: Path, with_device: Any, finished: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, clock = with_device(tmp_path / "run"), tmp_path / "clock"
    clock.write_text("+0s")
    arguments = [sys.executable, "-m", "autocompress.cli", "run", str(trained)]
    process = subprocess.Popen(
        [*arguments, "--out", str(folder), "--max-time", "10m"],
        env={
            **os.environ,
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as of a machine whose clock is set
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    journal, jumps = folder / "study.journal", ["-2d", "+30d", "-1y"]
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if jumps and journal.is_file() and len(losses(folder)) > 2 * (3 - len(jumps)):
            clock.write_text(jumps.pop(0))
        time.sleep(0.02)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert len(jumps) < 3, "the clock was set while it ran"
    assert losses(folder) == losses(finished[0])
    assert (folder / "plan.json").read_bytes() == (finished[0] / "plan.json").read_bytes()


def test_a_night_follows_the_last_one_though_the_clock_was_set_back(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "2999-01-01_020000").mkdir(parents=True)
    later, _ = _begin(tmp_path, tmp_path / "studies", Silent())
    assert later == "2999-01-01_020000-2"
    shutil.rmtree(tmp_path / "tiny")
    (tmp_path / "tiny" / "2001-01-01_020000").mkdir(parents=True)
    (tmp_path / "tiny" / "tracked").mkdir()
    now, _ = _begin(tmp_path, tmp_path / "other", Silent())
    assert now.startswith(str(datetime.now(timezone.utc).year))
