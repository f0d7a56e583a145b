"""Runs that are started, killed and looked at from outside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

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


def entries(count: int) -> Moment:
    return lambda folder: len(list((folder / "bank").glob("*.safetensors"))) >= count


def lines(count: int) -> Moment:
    def reached(folder: Path) -> bool:
        journal = folder / "study.journal"
        return journal.is_file() and journal.read_bytes().count(b"\n") >= count

    return reached
