"""MLflow: one run of MLflow for each run directory, in an SQLite file beside it by default.

`MLFLOW_TRACKING_URI` names another store or server.  MLflow 3 keeps its file store in maintenance
only, and refuses it unless `MLFLOW_ALLOW_FILE_STORE` is `true`.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.errors import ConfigError
from autocompress.files import read_json, write_json
from autocompress.study.place import without_password
from autocompress.study.trackers.tracker import Point

EXPERIMENT = "autocompress"
STATE = "mlflow.json"  # which run of MLflow the run directory is
LONGEST = 500  # characters of a value


class MlflowTracker:
    """Settings are parameters, candidates steps of metrics, versions and fingerprint tags.

    Args:
        folder: The run directory.
        study: Name of the study.

    Raises:
        ConfigError: If MLflow is not installed.
    """

    name = "mlflow"

    def __init__(self, folder: Path, study: str) -> None:
        # A run on one machine calls nobody, unless it is told otherwise.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # What warns when it is imported, or takes a while, does so here.
                importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
        except ImportError as error:
            raise ConfigError(
                f"trackers: mlflow cannot be imported ({error}):"
                " pip install 'autocompress[mlflow]'"
            ) from error
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self._folder, self._study = folder.absolute(), study
        given = os.environ.get("MLFLOW_TRACKING_URI", "")
        self._uri = given or f"sqlite:///{self._folder.parent / 'mlflow.db'}"
        # MLflow's own default would put files where the command was given.
        self._artefacts = None if given else (self._folder.parent / "mlartifacts").as_uri()
        self._client: Any = None
        self._run = ""
        self._last = 0  # step that MLflow has

    def begin(self, settings: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        known = self._open()
        if known is None:
            name = self._folder.name
            found = self._client.get_experiment_by_name(EXPERIMENT)
            experiment = (
                found.experiment_id
                if found
                else self._client.create_experiment(EXPERIMENT, self._artefacts)
            )
            known = self._client.create_run(experiment, run_name=name)
            self._run = known.info.run_id
            state = {"uri": without_password(self._uri), "run_id": self._run}
            write_json(self._folder / STATE, state)
        self._client.update_run(self._run, status="RUNNING")
        self._last = int(known.data.metrics.get("candidates", 0))
        had = known.data.params
        params = [Param(key, value[:LONGEST]) for key, value in settings.items() if key not in had]
        # A parameter stays what it was; what a later command changed is a tag.
        changed = {
            f"changed.{key}": value[:LONGEST]
            for key, value in settings.items()
            if had.get(key, value[:LONGEST]) != value[:LONGEST]
        }
        labels = [RunTag(key, value) for key, value in {**tags, **changed}.items()]
        self._client.log_batch(self._run, params=params, tags=labels)

    def points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, point.milliseconds, point.step)
            for point in points
            if point.step > self._last
            for name, value in {**point.metrics, "candidates": point.step}.items()
        ]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)

    def files(self, paths: Sequence[Path]) -> None:
        if self._open() is not None:
            for path in paths:
                self._client.log_artifact(self._run, str(path))

    def end(self, status: str, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if not self._run:
            return
        now = int(1000 * time.time())
        final = [Metric(name, value, now, 0) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=final)
        self._client.set_terminated(self._run, status)

    def _open(self) -> Any:
        """The run of MLflow that the run directory is, if its store still has it."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._uri)
        path = self._folder / STATE
        state = read_json(path) if path.is_file() else {}
        if state.get("uri") != without_password(self._uri):
            return None
        self._run = state["run_id"]
        try:
            return self._client.get_run(self._run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
