"""The audit of the proxy in whole runs: one that misleads, and one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., tuple[int, str, str]]
HONEST = "return 100 * (net(x).argmax(1) == y).double().mean().item()"
# The further from the original, the better: nothing that the proxy could know.
OTHERWISE = "return 10 * (net(x) - model()(x)).abs().mean().item()"


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_an_honest_proxy_gets_no_warning(finished: tuple[Path, Any]) -> None:
    result = read(finished[0], "result.json")
    audit = result["audit"]
    assert "warning" not in audit
    assert audit["promoted"] == 0
    assert audit["proxy_regret"] <= audit["proxy_tolerance"]
    assert len(read(finished[0], "details.json")["finalists"]) <= 3
    assert not [note for note in read(finished[0], "details.json")["notes"] if "misleads" in note]


def test_a_proxy_that_misleads_is_named_and_more_are_confirmed(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    study = make_study(evaluations=40)
    task = study / "task.py"
    task.write_text(task.read_text().replace(HONEST, OTHERWISE))
    folder = with_device(tmp_path / "run")
    code, out, err = cli("run", study, "--out", folder)
    assert code == 0, err
    audit = read(folder, "result.json")["audit"]
    assert audit["warning"].startswith("the proxy misleads")
    assert "more candidates are confirmed" in " ".join(out.split())
    rows = read(folder, "details.json")["finalists"]
    assert 1 <= audit["promoted"] <= 6
    assert len(rows) == 3 + audit["promoted"]
    # What was promoted takes part: the best of all by the metric is delivered.
    (chosen,) = [row for row in rows if row["chosen"]]
    assert chosen["measured"]["quality"] == max(
        row["measured"]["quality"] for row in rows if row["met"]
    )
    least = min(rows, key=lambda row: row["predicted"]["loss"])
    assert chosen["measured"]["quality"] > least["measured"]["quality"]
    # The same again, from the records: nothing of it is drawn by chance.
    assert cli("run", study, "--out", folder)[0] == 0
    again = read(folder, "result.json")
    assert again["audit"]["warning"] == audit["warning"]
    assert {row["candidate"] for row in read(folder, "details.json")["finalists"]} == {
        row["candidate"] for row in rows
    }
