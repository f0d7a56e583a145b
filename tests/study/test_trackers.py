"""What MLflow and TensorBoard hear of a run, and that they cannot stop it."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.errors import ConfigError
from autocompress.study.record import Record
from autocompress.study.storage import load_records
from autocompress.study.trackers.run_tracking import make_tracker
from autocompress.study.trackers.tracker import Tracking

pytest.importorskip("mlflow", reason="pip install 'autocompress[mlflow]'")
pytest.importorskip("tensorboardX", reason="pip install 'autocompress[ray]'")

Cli = Callable[..., tuple[int, str, str]]
RECORD = Record("a", {}, 0.5, 0.0, 100.0, 2.0, "", 0.0, samples=np.ones(3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, which MLflow takes seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_tracker("mlflow", folder / "run", "tiny")
        client(folder).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def _unconfigured(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No store of the user's; and SQLAlchemy's warnings about MLflow are not ours."""
    shutil.copy(store, tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def client(folder: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def tracked(folder: Path, name: str, notes: list[str]) -> Tracking:
    folder.mkdir(exist_ok=True)
    return Tracking([make_tracker(name, folder, "tiny")], notes.append)


def test_a_run_and_its_continuation_are_one_run_of_mlflow(
    cli: Cli, trained: Path, with_device: Any, tmp_path: Path
) -> None:
    folder = with_device(tmp_path / "run")
    code, out, err = cli(
        *("run", trained, "--out", folder, "--track", "mlflow", "--track", "tensorboard")
    )
    assert code == 0, err
    assert "tracker" not in out
    run_id = json.loads((folder / "mlflow.json").read_text())["run_id"]
    result = json.loads((folder / "result.json").read_text())
    records = load_records(folder / "study.journal")
    run = client(tmp_path).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["evaluations"] == "12"
    assert run.data.params["budget.size"] == "25%"
    assert run.data.tags["version.torch"] == result["versions"]["torch"]
    assert "fingerprint.search space" in run.data.tags
    assert run.data.metrics["budget_met"] == 1
    assert run.data.metrics["best.size_bytes"] == result["best"]["size_bytes"]
    assert run.data.metrics["best.quality"] == result["best"]["quality"]
    assert run.data.metrics["original.latency_ms"] == result["original"]["latency_ms"]
    history = client(tmp_path).get_metric_history(run_id, "loss")
    assert [(m.step, m.value) for m in history] == [
        (step, record.loss) for step, record in enumerate(records, 1)
    ]
    best = [m.value for m in client(tmp_path).get_metric_history(run_id, "best_loss")]
    assert best == sorted(best, reverse=True)
    files = {file.path for file in client(tmp_path).list_artifacts(run_id)}
    assert files == {"result.json", "report.html", "front.csv", "plan.json"}
    assert (tmp_path / "mlartifacts").is_dir()
    assert list((folder / "tensorboard").glob("events.*"))

    code, out, err = cli("run", trained, "--out", folder, "--track", "mlflow", "--budget=size=30%")
    assert code == 0, err
    assert json.loads((folder / "mlflow.json").read_text())["run_id"] == run_id
    run = client(tmp_path).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["budget.size"] == "25%"
    assert run.data.tags["changed.budget.size"] == "30%"
    records = load_records(folder / "study.journal")
    history = client(tmp_path).get_metric_history(run_id, "loss")
    assert [m.step for m in history] == list(range(1, len(records) + 1))
    assert run.data.metrics["passes"] == pytest.approx(sum(record.passes for record in records))


def test_best_is_the_least_loss_within_the_limits(tmp_path: Path) -> None:
    notes: list[str] = []
    with tracked(tmp_path / "run", "mlflow", notes) as tracking:
        tracking.begin({}, {})
        tracking.go_on([RECORD], {"a"})
        tracking.candidate(replace(RECORD, loss=0.1), {"size_bytes": 0.2})
        tracking.candidate(replace(RECORD, loss=0.3, doubt=0.1), {"size_bytes": -0.2})
        tracking.candidate(replace(RECORD, loss=0.4), {"size_bytes": 0.0})
    assert not notes
    run_id = json.loads((tmp_path / "run" / "mlflow.json").read_text())["run_id"]
    history = client(tmp_path).get_metric_history(run_id, "best_loss")
    assert [(m.step, m.value) for m in history] == [(2, 0.5), (3, 0.5), (4, 0.4)]
    assert client(tmp_path).get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError(), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_that_ends_early_says_so(tmp_path: Path, error: BaseException, status: str) -> None:

    def run() -> None:
        with tracked(tmp_path / "run", "mlflow", []) as tracking:
            tracking.begin({}, {})
            raise error

    with pytest.raises(type(error)):
        run()
    run_id = json.loads((tmp_path / "run" / "mlflow.json").read_text())["run_id"]
    assert client(tmp_path).get_run(run_id).info.status == status


def test_the_file_store_of_mlflow_works_where_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    notes: list[str] = []
    for allowed in ("false", "true"):
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", allowed)
        with tracked(tmp_path / "run", "mlflow", notes) as tracking:
            tracking.begin({"seed": "1"}, {})
            tracking.candidate(RECORD, {})
    assert len(notes) == 1
    assert "tracker mlflow" in notes[0]
    assert "maintenance mode" in notes[0]
    assert list((tmp_path / "mlruns").glob("*/*/metrics/loss"))


def test_a_tracker_that_fails_is_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    notes: list[str] = []
    with tracked(tmp_path / "run", "mlflow", notes) as tracking:
        tracking.begin({}, {})
        for _ in range(3):
            tracking.candidate(RECORD, {})
    assert len(notes) == 1
    assert "tracker mlflow" in notes[0]
    assert "hears no more of this run" in notes[0]


def test_tensorboard_holds_every_candidate(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    with tracked(tmp_path / "run", "tensorboard", []) as tracking:
        tracking.begin({"seed": "1"}, {})
        for loss in (0.5, 0.25):
            tracking.candidate(replace(RECORD, loss=loss), {})
        tracking.finish({"budget_met": 1.0})
    (path,) = (tmp_path / "run" / "tensorboard").glob("events.*")
    data, values = path.read_bytes(), []
    while data:  # length, checksum, event, checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        values += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    assert [value for value in values if value[0] == "search/loss"] == [
        ("search/loss", 1, 0.5),
        ("search/loss", 2, 0.25),
    ]
    assert ("result/budget_met", 0, 1.0) in values


def test_an_unknown_tracker_is_refused(cli: Cli, trained: Path, tmp_path: Path) -> None:
    code, _, err = cli("run", trained, "--out", tmp_path / "run", "--track", "wandb")
    assert code == 2
    assert "'wandb'" in err
    assert "mlflow, tensorboard" in err


def test_a_missing_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.store.tracking.sqlalchemy_store", None)
    with pytest.raises(ConfigError, match=r"autocompress\[mlflow\]"):
        make_tracker("mlflow", tmp_path, "tiny")
