"""TensorBoard: an event file in the run directory, written by tensorboardX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.errors import ConfigError
from autocompress.study.trackers.tracker import Point

FOLDER = "tensorboard"


class TensorboardTracker:
    """Settings as text, candidates as steps of scalars; a resumed run writes one more file.

    Args:
        folder: The run directory.
        study: Name of the study.

    Raises:
        ConfigError: If tensorboardX is not installed.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, study: str) -> None:
        try:
            import tensorboardX
        except ImportError as error:
            raise ConfigError(
                f"trackers: tensorboardX cannot be imported ({error}):"
                " pip install 'autocompress[ray]' or tensorboardX"
            ) from error
        self._module = tensorboardX
        self._folder, self._study = folder / FOLDER, study
        self._writer: Any = None

    def begin(self, settings: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self._writer = self._module.SummaryWriter(str(self._folder))
        rows = [f"| {key} | {value} |" for key, value in {**settings, **tags}.items()]
        table = "\n".join(["| setting | value |", "| --- | --- |", *rows])
        self._writer.add_text(self._study, table)

    def points(self, points: Sequence[Point]) -> None:
        for point in points:
            seconds = point.milliseconds / 1000
            for name, value in point.metrics.items():
                self._writer.add_scalar(f"search/{name}", value, point.step, seconds)
        self._writer.flush()

    def files(self, paths: Sequence[Path]) -> None:
        """TensorBoard keeps no files."""

    def end(self, status: str, metrics: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(f"result/{name}", value)
            self._writer.close()
