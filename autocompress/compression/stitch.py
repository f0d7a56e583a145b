"""A working copy of the model in which only the layers that changed are swapped."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import nn

from autocompress.compression.rounded import RoundedSum, rounded_sums, swap_sums
from autocompress.compression.treated import Grid, Treated, build_module
from autocompress.model.memory import allowance, model_bytes, shared_copy
from autocompress.model.sums import sums_of
from autocompress.model.swap import swap
from autocompress.search_space.option import Option

LEAST_CACHED, MOST_CACHED = 2**26, 2**30  # bytes of built modules that are kept


class Stitcher:
    """Assembles candidates from bank entries.

    Args:
        model: The dense model, whose tensors the stitched ones share; never changed.
        lookup: What is stored for a layer under an option.
        cached: Most of the modules once built that are kept, as a share of the model's bytes:
            from `LEAST_CACHED` to `MOST_CACHED` bytes.
    """

    def __init__(
        self, model: nn.Module, lookup: Callable[[str, Option], Treated], cached: float = 1.0
    ) -> None:
        self._dense = model
        self._most_cached = allowance(model, cached, LEAST_CACHED, MOST_CACHED)
        self._working = shared_copy(model)
        self._plain: dict[str, nn.Module] = {}  # the copy's own, of layers that were swapped
        self._lookup = lookup
        self._current: dict[str, Option] = {}
        self._sums = sums_of(model)
        self._rounded: Mapping[str, nn.Module] = {}
        self._built_sums: dict[tuple[str, Grid], RoundedSum] = {}
        self._built: OrderedDict[tuple[str, Option], nn.Module] = OrderedDict()
        self._cached = 0

    def sparing(self) -> Stitcher:
        """Another that keeps few modules, for what builds each option once."""
        return Stitcher(self._dense, self._lookup, cached=0.0)

    def stitch(self, choices: Mapping[str, Option]) -> nn.Module:
        """The model under a candidate; valid until the next call."""
        for name, chosen in choices.items():
            option = chosen.computed
            if self._current.get(name, Option()) != option:
                plain = self._plain.setdefault(name, self._working.get_submodule(name))
                swap(
                    self._working, name, plain if option.is_identity else self.module(name, option)
                )
                self._current[name] = option
        rounded = self.sums(self._current)
        for name in {*self._rounded, *rounded}:
            swap(self._working, name, rounded.get(name, self._sums[name]))
        self._rounded = rounded
        return self._working

    def sums(self, choices: Mapping[str, Option]) -> dict[str, nn.Module]:
        """The sums that are rounded under a candidate, by name; equal ones are one object."""

        def treated(name: str) -> Treated | None:
            option = choices.get(name, Option()).computed
            return None if option.activations == "float32" else self._lookup(name, option)

        return {
            name: self._built_sums.setdefault((name, grid), RoundedSum(self._sums[name], grid))
            for name, grid in rounded_sums(self._sums, treated).items()
        }

    def module(self, name: str, option: Option) -> nn.Module:
        """The module of one layer under an option; the dense one for the identity."""
        dense = self._dense.get_submodule(name)
        option = option.computed
        if option.is_identity:
            return dense
        key = (name, option)
        if key not in self._built:
            module = build_module(dense, self._lookup(name, option))
            self._cached += model_bytes(module)
            while self._built and self._cached > self._most_cached:
                self._cached -= model_bytes(self._built.popitem(last=False)[1])
            self._built[key] = module
        self._built.move_to_end(key)
        return self._built[key]


def stitched(model: nn.Module, treated: Mapping[str, Treated]) -> nn.Module:
    """A new model with the given layers in place of the dense ones."""
    result = copy.deepcopy(model)
    for name, layer in treated.items():
        swap(result, name, build_module(model.get_submodule(name), layer))
    swap_sums(result, treated.get)
    return result
