"""Sums that are rounded because every layer around them runs on integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from autocompress.compression.treated import FakeQuantize, Grid, Treated
from autocompress.model.sums import Sum, sums_of
from autocompress.model.swap import swap


class RoundedSum(Sum):
    """A sum on the grid of the layer that reads it; what is rectified lies at zero or above there.

    Args:
        plain: The sum.
        grid: Of the first reader's input.
    """

    def __init__(self, plain: Sum, grid: Grid) -> None:
        super().__init__(plain.around)
        self.round = FakeQuantize(grid)

    @property
    def grid(self) -> Grid:
        return self.round.grid

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        rounded: Tensor = self.round(super().forward(x, y))
        return rounded


def rounded_sums(
    sums: Mapping[str, Sum], treated: Callable[[str], Treated | None]
) -> dict[str, Grid]:
    """Which sums are rounded under a candidate, and on which grid.

    Args:
        sums: Of the model, by name.
        treated: What is stored for a layer; None where it stays dense.
    """
    grids = {}
    for name, plain in sums.items():
        stored = [treated(layer) for layer in plain.around.layers]
        if all(layer is not None and layer.is_int8 for layer in stored):
            reader = treated(plain.around.readers[0])
            assert reader is not None
            assert reader.grids[0] is not None
            grids[name] = reader.grids[0]
    return grids


def swap_sums(model: nn.Module, treated: Callable[[str], Treated | None]) -> None:
    """Puts rounded sums into a model, in place, where a candidate has them."""
    sums = sums_of(model)
    for name, grid in rounded_sums(sums, treated).items():
        swap(model, name, RoundedSum(sums[name], grid))
