"""Files of a run that are torn, damaged or do not fit on the disk are mended or refused."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from durable_runs import Cli, assert_whole, trials


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
