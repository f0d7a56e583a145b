"""The dashboard of a finished run: served, read, and not written through."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna_dashboard", reason="pip install 'autocompress[dashboard]'")

Cli = Callable[..., tuple[int, str, str]]


@contextmanager
def dashboard(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of a dashboard that another process serves; Ctrl-C ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "autocompress.cli", "dashboard", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+/", line)
        assert found, line + process.communicate()[1]
        yield found[0]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    finally:
        process.kill()
        process.communicate()


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def test_dashboard_shows_a_run_and_changes_nothing(cli: Cli, finished: tuple[Path, Any]) -> None:
    folder = finished[0]
    before = (folder / "study.journal").read_bytes()
    with dashboard(folder, "--port", "0") as url:
        assert b"<html" in fetched(url).lower()
        (study,) = json.loads(fetched(f"{url}api/studies"))["study_summaries"]
        assert study["study_name"] == "autocompress"
        assert study["directions"] == ["minimize"] * 3
        detail = json.loads(fetched(f"{url}api/studies/{study['study_id']}"))
        lines = before.count(b'"candidate"')
        assert len(detail["trials"]) == lines
        delete = urllib.request.Request(f"{url}api/studies/{study['study_id']}", method="DELETE")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(delete, timeout=30)
        refused.value.close()
        assert refused.value.code == 403
        port = url.rstrip("/").rpartition(":")[2]
        code, _, err = cli("dashboard", folder, "--port", port)
        assert code == 2
        assert port in err
        assert "give another --port" in err
    assert (folder / "study.journal").read_bytes() == before


def test_dashboard_needs_its_extra_and_a_run(
    cli: Cli, finished: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = cli("dashboard", tmp_path)
    assert code == 2
    assert "not a run directory" in err
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    code, _, err = cli("dashboard", finished[0])
    assert code == 2
    assert "autocompress[dashboard]" in err
