"""How the confirmed few are trained after the search: the table `[recovery]` of `study.toml`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RecoverySettings(BaseModel):
    """The table `[recovery]` of `study.toml`.

    Attributes:
        method: `none`; `distil`: masks and bits stay, the values of the weights are trained, at
            the same size, all together; `blocks`: the same, one run of layers after another, each
            to give the original's feature map; `squeeze`: the search may take `start` times the
            limit on size, and training makes the file smaller, with whatever zeros and codes,
            until the limit is kept.
        finalists: How many of the confirmed candidates are trained, the best ones first.
        trials: How many candidates of the search have a short training first, of an eighth of the
            passes, which decides on those that are trained in full (successive halving, Jamieson
            and Talwalkar 2016, 1502.07943, with one rung): what trains best need not be what was
            best untrained.  No more than `finalists` for none.
        epochs: Passes over what `training()` of the task gives, or over the calibration inputs.
        max_time: Longest time for each candidate, such as `10m`; the schedule is cut to it.
        learning_rate: Of Adam, at its highest.
        temperature: Of the original's soft targets.
        features: Weight of the feature maps' distance from the original's.
        attention: Weight of the distance of attention maps.
        start: Multiple of the limit on size that the search may take before a squeeze.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    method: Literal["none", "distil", "blocks", "squeeze"] = "none"
    finalists: int = Field(default=1, ge=1)
    trials: int = Field(default=0, ge=0)
    epochs: int = Field(default=10, ge=1)
    max_time: str = ""
    learning_rate: float = Field(default=1e-3, gt=0)
    temperature: float = Field(default=2.0, gt=0)
    features: float = Field(default=0.0, ge=0)
    attention: float = Field(default=0.0, ge=0)
    start: float = Field(default=4.0, ge=1)
