"""Runs a model from the first layer that changed, on values kept from earlier runs.

The model is traced once with `torch.fx`.  Before some of the treated layers (*cuts*) the values
that the rest still needs are kept, under the choices of all layers before; a run that makes the
same choices starts there.  A model that cannot be traced, but is a chain of blocks, has cuts
between blocks.  Others, and those whose values are changed in place in a way that matters, run as
a whole.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from autocompress.model.blocks import find_chain
from autocompress.model.chain import Chain
from autocompress.model.memory import shared_copy
from autocompress.model.replay_blocks import Values, block_cuts, run_blocks
from autocompress.model.sums import SumTracer, sums_of
from autocompress.model.swap import swap
from autocompress.model.task import Inputs
from autocompress.model.tied import TiedEmbedding, ties_of
from autocompress.model.trace import run

MEMORY = 2**30  # bytes of values kept
CUTS = 8  # more save little work, and writing what they keep takes time

Choices: TypeAlias = tuple[int, ...]
Key: TypeAlias = tuple[int, Choices, tuple[nn.Module, ...]]


@dataclass(frozen=True)
class Cut:
    """A place to start from.

    Args:
        unit: Index of the unit that runs next.
        node: Index of its node; in a chain the stage of its block.
        live: Nodes before, whose values are read at or after the cut; inputs are left out.
        left: Share of the units' multiply-adds that comes after, in [0, 1].
        sums: Names of the sums that have been added up before.
    """

    unit: int
    node: int
    live: tuple[fx.Node, ...]
    left: float
    sums: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What a candidate computes with.

    Args:
        modules: Gives the module of a unit.
        choices: What names the candidate: one number a unit, equal for equal modules.
        sums: Sums that are rounded, by name.  Whether one is depends on layers that run after it.
        shared: How many of the first choices other runs will make too: what depends on more is
            not kept.  None keeps all that there is room for.
    """

    modules: Callable[[int], nn.Module]
    choices: Choices
    sums: Mapping[str, nn.Module] = field(default_factory=dict)
    shared: int | None = None

    def shares(self, cut: Cut) -> bool:
        """Whether another run will find the values before a cut of use."""
        return self.shared is None or cut.unit <= self.shared

    def key(self, cut: Cut, part: int) -> Key:
        """What the values before a cut depend on."""
        sums = tuple(self.sums[name] for name in cut.sums if name in self.sums)
        return part, self.choices[: cut.unit], sums


class Replay:
    """Runs candidates on fixed parts of the inputs, each from the last value that is still true.

    Args:
        model: The original in evaluation mode; not changed.
        units: Names of the treated layers, in the order in which they first run.
        macs: Multiply-adds of each unit, to tell what a run costs.
        parts: The inputs in parts; results are kept for each.
        memory: Most bytes of values kept; 0 keeps none.

    Attributes:
        reuses: Whether values are reused.
        reason: Why not; empty if they are.
    """

    def __init__(
        self,
        model: nn.Module,
        units: Sequence[str],
        macs: Sequence[float],
        parts: Sequence[Inputs],
        memory: int = MEMORY,
    ) -> None:
        self._model = model
        self._sums = sums_of(model)
        self._ties = {name: owner for name, owner in ties_of(model).items() if owner in units}
        self._units = tuple(units)
        self._parts = tuple(parts)
        self._memory = memory
        self._kept: OrderedDict[Key, Values] = OrderedDict()
        self._bytes = 0
        self._working: nn.Module | None = None
        self._nodes: list[fx.Node] = []
        self._cuts: list[Cut] = []
        self._chain: Chain | None = None
        self.reason = "no memory is granted" if memory <= 0 else self._prepare(macs)
        if self.reuses or memory > 0 and self._find_blocks(macs):
            self.reason = self._verify()

    @property
    def reuses(self) -> bool:
        return not self.reason

    def __call__(self, candidate: Run, part: int) -> tuple[Tensor, float]:
        """Output of a candidate on one part, and which share of the multiply-adds was spent.

        Args:
            candidate: What it computes with.
            part: Index of the part of the inputs.

        Raises:
            TaskError: If the model fails.
        """
        if not self.reuses:
            return self._whole(candidate, part), 1.0
        with torch.no_grad():
            return self._resume(candidate, part)

    def left(self, unit: int) -> float:
        """Least share of the multiply-adds that a run costs whose first change is `unit`."""
        shares = [cut.left for cut in self._cuts if cut.unit <= unit]
        return min(shares, default=1.0) if self.reuses else 1.0

    def twin(self) -> Replay:
        """Another replay of the same model and inputs, for another thread, with its own values."""
        twin = copy.copy(self)
        twin._kept, twin._bytes, twin._working = OrderedDict(), 0, None
        return twin

    def forget(self) -> None:
        """Drops every kept value."""
        self._kept.clear()
        self._bytes = 0

    def _prepare(self, macs: Sequence[float]) -> str:
        """Traces the model and finds the cuts; returns why it cannot be replayed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph = SumTracer().trace(self._model)
        except Exception as error:  # noqa: BLE001 - runs the user's forward on stand-ins
            return f"cannot be traced: {type(error).__name__}"
        self._nodes = list(graph.nodes)
        places: dict[Any, int] = {}  # of the first call
        for index, node in enumerate(self._nodes):
            if node.op != "call_module":
                continue
            name = str(node.target)
            unit = self._ties.get(name, name)
            if unit in self._units:
                places.setdefault(unit, index)
        if set(places) != set(self._units):
            return "a layer is not called as a module"
        inputs = [node for node in self._nodes if node.op == "placeholder"]
        if any(len(inputs) != len(part) for part in self._parts):
            return "takes other inputs than it is given"
        order = sorted(range(len(self._units)), key=lambda unit: places[self._units[unit]])
        if order != list(range(len(self._units))):
            return "its layers are called in another order"
        left = _left(macs)
        # About equal amounts of work between two cuts.
        band = [int(CUTS * share - 1e-9) for share in left]
        self._cuts = [
            Cut(
                unit, places[name], self._live(places[name]), left[unit], self._added(places[name])
            )
            for unit, name in enumerate(self._units)
            if unit and band[unit] != band[unit - 1]
        ]
        return ""

    def _find_blocks(self, macs: Sequence[float]) -> bool:
        """Whether the model is a chain of blocks; then it has cuts between them."""
        chain = find_chain(self._model, tuple(tensor[:1] for tensor in self._parts[0]))
        if chain is None:
            return False
        readers: dict[str, list[str]] = {}
        for reader, owner in self._ties.items():
            readers.setdefault(owner, []).append(reader)
        left = _left(macs)
        for unit, stage in block_cuts(chain, self._units, readers, left, CUTS):
            added = tuple(name for name in self._sums if chain.stage(name) < stage)
            self._cuts.append(Cut(unit, stage, (), left[unit], added))
        self._chain = chain
        return bool(self._cuts)

    def _live(self, place: int) -> tuple[fx.Node, ...]:
        after = set(self._nodes[place:])
        return tuple(
            node
            for node in self._nodes[:place]
            if node.op not in ("placeholder", "output") and after & set(node.users)
        )

    def _added(self, place: int) -> tuple[str, ...]:
        targets = [node.target for node in self._nodes[:place] if node.op == "call_module"]
        return tuple(str(target) for target in targets if target in self._sums)

    def _verify(self) -> str:
        """Starts from every cut of the first part and compares bit by bit."""
        dense = [self._model.get_submodule(name) for name in self._units]
        choices = (-1,) * len(self._units)
        expected = run(self._model, self._parts[0])
        with torch.no_grad():
            first, _ = self._resume(Run(dense.__getitem__, choices), 0)
            ok = isinstance(expected, Tensor) and torch.equal(first, expected)
            for cut in reversed(self._cuts):
                # Another choice: everything from that cut on is computed again.
                changed = (*choices[: cut.unit], -2, *choices[cut.unit + 1 :])
                again, _ = self._resume(Run(dense.__getitem__, changed), 0)
                ok = ok and torch.equal(again, expected)
        self.forget()
        return "" if ok else "does not give the same output when it starts in the middle"

    def _resume(self, candidate: Run, part: int) -> tuple[Tensor, float]:
        values, start, left = self._start(candidate, part)
        cuts = {cut.node: cut for cut in self._cuts}
        if self._chain is not None:

            def pass_by(stage: int, kept: Values) -> None:
                if stage in cuts and candidate.shares(cuts[stage]):
                    self._keep(candidate.key(cuts[stage], part), kept)

            model, inputs = self._candidate(candidate), self._parts[part]
            return run_blocks(model, self._chain, inputs, start, values, pass_by), left
        given = iter(self._parts[part])
        for index, node in enumerate(self._nodes):
            if node.op == "placeholder":
                values[node] = next(given)
                continue
            if index < start:
                continue
            if node.op == "output":
                return fx.node.map_arg(node.args[0], values.__getitem__), left  # type: ignore[return-value]
            if index in cuts and index > start and candidate.shares(cuts[index]):
                kept = {live: values[live] for live in cuts[index].live}
                self._keep(candidate.key(cuts[index], part), kept)
            values[node] = self._execute(node, values, candidate)
        raise AssertionError("a traced graph ends with its output")

    def _start(self, candidate: Run, part: int) -> tuple[Values, int, float]:
        for cut in reversed(self._cuts):
            key = candidate.key(cut, part)
            if key in self._kept:
                self._kept.move_to_end(key)
                return dict(self._kept[key]), cut.node, cut.left
        return {}, 0, 1.0

    def _keep(self, key: Key, kept: Values) -> None:
        self._kept[key] = kept
        self._bytes += _size(kept)
        while self._bytes > self._memory:
            self._bytes -= _size(self._kept.popitem(last=False)[1])

    def _execute(self, node: fx.Node, values: Values, candidate: Run) -> Any:
        args = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_module":
            name = str(node.target)
            if name in self._ties:
                tied = self._model.get_submodule(name)
                assert isinstance(tied, TiedEmbedding)
                owner = candidate.modules(self._units.index(self._ties[name]))
                return tied.bound(owner)(*args, **kwargs)  # type: ignore[arg-type]
            if name in self._units:
                return candidate.modules(self._units.index(name))(*args, **kwargs)
            if name in candidate.sums:
                return candidate.sums[name](*args, **kwargs)
            return self._model.get_submodule(name)(*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return _attribute(self._model, str(node.target))

    def _whole(self, candidate: Run, part: int) -> Tensor:
        output: Tensor = run(self._candidate(candidate), self._parts[part])
        return output

    def _candidate(self, candidate: Run) -> nn.Module:
        """The model with the modules of a candidate."""
        if self._working is None:
            self._working = shared_copy(self._model)
        for index, name in enumerate(self._units):
            swap(self._working, name, candidate.modules(index))
        for name, plain in self._sums.items():
            swap(self._working, name, candidate.sums.get(name, plain))
        return self._working


def _left(macs: Sequence[float]) -> list[float]:
    """For each unit, the share of the multiply-adds that it and those behind it take."""
    total = float(sum(macs)) or 1.0
    return [float(sum(macs[unit:])) / total for unit in range(len(macs))]


def _attribute(model: nn.Module, path: str) -> Any:
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _size(values: Mapping[Any, Any]) -> int:
    return sum(
        value.numel() * value.element_size()
        for value in values.values()
        if isinstance(value, Tensor)
    )
