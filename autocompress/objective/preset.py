"""Reads an objective: what is made small, under which limits when the user gives none, judged by
which proxy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from autocompress.errors import ConfigError
from autocompress.objective.budget import LIMITED, Limit, budget_from
from autocompress.toml import Schema, load

FOLDER = "objectives"


class ObjectivePreset(Schema):
    """What a search is after.

    Attributes:
        minimise: `quality` loses as little as possible within the limits; `size` and `latency`
            are made as small as the limit on quality allows.
        size: Limit on size unless the user gives one, such as `25%`; empty is none.
        latency: Limit on latency, likewise.
        energy: Limit on the estimated energy of a pass, likewise.
        quality: Limit on quality, likewise, such as `-0.5pt`.
        front: `size`, `latency` or both: the whole front of quality and these is wanted, within
            the limits; the point that is delivered is its knee unless there are limits.
        proxy: `kl` (divergence from the original's class probabilities), `mse` (squared error of
            the outputs, relative to their variance) or `task` (rise of the cross-entropy with the
            user's labels of the calibration inputs).
        finalists: How many candidates are confirmed with the user's metric and the clock.
    """

    minimise: Literal["quality", "size", "latency"] = "quality"
    size: str = ""
    latency: str = ""
    energy: str = ""
    quality: str = ""
    front: Annotated[tuple[Literal["size", "latency"], ...], Field(strict=False)] = ()
    proxy: Literal["kl", "mse", "task"] = "kl"
    finalists: int = Field(default=4, ge=1, le=64)

    def limits(self) -> dict[str, Limit]:
        """The limits that hold where the user gives none."""
        texts = {name: getattr(self, name) for name in LIMITED}
        return budget_from({name: text for name, text in texts.items() if text})

    def check(self) -> None:
        """Refuses values that are well-formed but make no sense.

        Raises:
            ConfigError: Naming the key.
        """
        self.limits()
        if len(set(self.front)) < len(self.front):
            raise ConfigError(f"key 'front': {', '.join(self.front)} names one twice")
        if self.front and self.minimise != "quality":
            raise ConfigError(
                f"key 'front': size and latency are traded against quality; minimise must be"
                f" 'quality', not {self.minimise!r}"
            )


def load_objective(name: str, relative_to: Path | None = None) -> tuple[ObjectivePreset, str]:
    """An objective by preset name or path, and the file it came from.

    Raises:
        ConfigError: If there is none, or it is malformed.
    """
    return load(FOLDER, name, relative_to, ObjectivePreset, ObjectivePreset.check)
