"""Knobs: the few settings of a run that are not decided per layer.

`autocompress tune-settings` compares them over whole runs; the defaults follow from what it showed
(`docs/tune_settings.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from autocompress.model.layer import Layer
from autocompress.search_space.option import Option

BATCH = 8  # candidates that are asked for at a time
PROTECTED_BITS = 7  # the fewest that a protected unit is stored with: what int8 kernels take

Reject = Callable[[Option, Layer], str]


class Knobs(BaseModel):
    """The table `[knobs]` of `study.toml`.

    Attributes:
        calibration: Calibration examples that are used, the first ones; 0 takes all.
        search_share: Share of them that is held back to judge candidates; the rest fits and prices
            the options.
        damping: Share of the mean diagonal that is added to second moments before they are
            inverted.
        explore: Share of the candidates that is spent along the front, away from the budget.
        protect: Whether the first or last treated layer, or both, are only offered 7 bits and
            more, without pruning or a lower rank.
        swap_examples: Search inputs on which every option is priced alone; 0 takes all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    calibration: int = Field(default=0, ge=0)
    search_share: float = Field(default=0.25, ge=0.05, le=0.75)
    damping: float = Field(default=0.01, gt=0, le=1)
    explore: float = Field(default=0.25, ge=0, le=1)
    protect: Literal["none", "first", "last", "both"] = "none"
    swap_examples: int = Field(default=256, ge=0)

    @property
    def measured(self) -> str:
        """The knobs that change what a candidate's loss is; they may not change within a run."""
        return f"calibration={self.calibration} {self.fitted}"

    @property
    def fitted(self) -> str:
        """The knobs that change what a bank entry holds, beside the calibration inputs."""
        return f"search_share={self.search_share!r} damping={self.damping!r}"


def protected(layers: Sequence[Layer], protect: str) -> frozenset[str]:
    """Names of the layers that `protect` means, of those that can be treated.

    Args:
        layers: In running order.
        protect: `none`, `first`, `last` or `both`.
    """
    names = [layer.name for layer in layers if layer.is_treated]
    ends = {"none": [], "first": names[:1], "last": names[-1:], "both": names[:1] + names[-1:]}
    return frozenset(ends[protect])


def sparing(reject: Reject, names: Collection[str]) -> Reject:
    """`reject`, and for the layers of these names all but plain options of 7 bits and more."""

    def rejects(option: Option, layer: Layer) -> str:
        is_strong = option.bits < PROTECTED_BITS or option.zeros > 0 or option.is_factored
        if layer.name in names and is_strong:
            return "protected: stronger than 7 bits"
        return reject(option, layer)

    return rejects
