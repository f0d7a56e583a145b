"""Blocks of a model that hand one tensor on, run one at a time on values that are kept.

The layers of a transformer are such a chain: what one gives, the next one takes, beside arguments
that all have in common.  What lies between two blocks is then all that is needed to go on, so that
the inputs pass through the model once however many looks are taken at its layers, and never is
there more than one block's worth of values at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.model.shelf import Shelf
from autocompress.model.task import Inputs, batches
from autocompress.model.trace import run

TOLERANCE = 1e-4  # of what comes out in blocks, relative to the largest value


class Stopped(BaseException):
    """Ends a forward pass of which the rest is not needed; no error, and not for `except
    Exception` of the model's own."""


@dataclass(frozen=True)
class Call:
    """How a block is called.

    Args:
        arguments: By position.
        keywords: By name.
        slot: Position or name of the tensor that is handed on.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    slot: int | str

    @property
    def handed(self) -> Tensor:
        slot = self.slot
        tensor: Tensor = self.keywords[slot] if isinstance(slot, str) else self.arguments[slot]
        return tensor

    def without(self) -> Call:
        """The same without the tensor, which is kept elsewhere."""
        arguments = tuple(
            None if index == self.slot else value for index, value in enumerate(self.arguments)
        )
        keywords = {name: v for name, v in self.keywords.items() if name != self.slot}
        return Call(arguments, keywords, self.slot)

    def on(self, block: nn.Module, tensor: Tensor) -> Any:
        """What a block gives for another tensor."""
        arguments, keywords = list(self.arguments), dict(self.keywords)
        if isinstance(self.slot, int):
            arguments[self.slot] = tensor
        else:
            keywords[self.slot] = tensor
        return block(*arguments, **keywords)


@dataclass(frozen=True)
class Chain:
    """The blocks of a model.

    Args:
        names: Their names, in running order.
        slot: Position or name of the argument that is handed on.
        form: What a block gives beside it: None where it gives the tensor alone, else the list or
            tuple of None in whose first place it is.
        before: Names of the other modules that run before them.
    """

    names: tuple[str, ...]
    slot: int | str
    form: tuple[Any, ...] | list[Any] | None
    before: frozenset[str]

    @property
    def last(self) -> int:
        """Number of the stage behind the last block."""
        return len(self.names) + 1

    def stage(self, module: str) -> int:
        """Where a module runs: 0 before the blocks, 1 in the first, ..., `last` behind them."""
        for index, name in enumerate(self.names):
            if module == name or module.startswith(f"{name}."):
                return index + 1
        return 0 if module in self.before else self.last


def find_chain(model: nn.Module, inputs: Inputs) -> Chain | None:
    """The blocks that hold the most parameters, of all lists of modules that are a chain.

    Args:
        model: In evaluation mode.
        inputs: One or a few examples.

    Returns:
        None where there is no such list, or running its blocks one at a time gives another output.
    """
    lists = {
        name: tuple(f"{name}.{child}".lstrip(".") for child, _ in module.named_children())
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1
    }

    def parameters(names: tuple[str, ...]) -> int:
        return sum(p.numel() for name in names for p in model.get_submodule(name).parameters())

    for names in sorted(lists.values(), key=parameters, reverse=True):
        chain = _chain_of(names, *_watched(model, names, inputs))
        if chain is not None and _gives_the_same(model, chain, inputs):
            return chain
    return None


class Walk:
    """Runs the stages of a model one at a time: what is before its blocks, each block, what is
    behind.

    Args:
        model: In evaluation mode.
        chain: Its blocks.
        inputs: `(n, ...)` for each input of the model.
        batch: Examples in one forward pass.
        memory: Bytes of values between two blocks that are kept in memory; more are on disk.
    """

    def __init__(
        self, model: nn.Module, chain: Chain, inputs: Inputs, batch: int, memory: int = 2**63
    ) -> None:
        self._model = model
        self._chain = chain
        self._parts = tuple(batches(inputs, batch))
        self._memory = memory
        self._calls: list[Call] = []  # of a block by each part, whichever tensor is handed
        self._block = 0  # the number of the one that takes what is kept; 0 before there is any
        self._kept = Shelf(memory)
        self._given: Shelf | None = None  # what that block gave, once it has run

    def run(self, stage: int) -> list[Any]:
        """Runs a stage, and before it those that lead to it and have not run.

        Args:
            stage: As `Chain.stage` says.  One that is asked for again runs again; asking for an
                earlier one begins anew.

        Returns:
            Outputs of the model, one for each batch, of the last stage; nothing of others.
        """
        with torch.no_grad():
            if stage == 0 or not self._block or stage < self._block:
                self._enter()
            last = len(self._chain.names)
            while self._block < min(stage, last):
                self._kept = self._given or self._pass_through()
                self._given = None
                self._block += 1
            if 0 < stage <= last:
                self._given = self._pass_through()
            elif stage > last:
                self._given = self._given or self._pass_through()
                return self._leave(self._given)
        return []

    def _enter(self) -> None:
        """Runs every part as far as the first block."""
        self._calls, self._kept, self._given = [], Shelf(self._memory), None
        first = self._model.get_submodule(self._chain.names[0])

        def stop(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            call = Call(arguments, keywords, self._chain.slot)
            self._kept.append(call.handed)
            self._calls.append(call.without())
            raise Stopped

        handle = first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            for part in self._parts:
                with contextlib.suppress(Stopped):
                    self._model(*part)
        finally:
            handle.remove()
        self._block = 1

    def _pass_through(self) -> Shelf:
        """What the block at hand gives for what is kept."""
        block = self._model.get_submodule(self._chain.names[self._block - 1])
        given = Shelf(self._memory)
        for call, tensor in zip(self._calls, self._kept, strict=True):
            given.append(handed_on(call.on(block, tensor)))
        return given

    def _leave(self, given: Shelf) -> list[Any]:
        """Runs every part with blocks that give what has come out of the last one."""
        outputs = []
        for part, tensor in zip(self._parts, given, strict=True):
            with _standing_in(self._model, self._chain, tensor):
                outputs.append(self._model(*part))
        return outputs


def handed_on(output: Any) -> Tensor:
    """The tensor in what a block gave."""
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor


@contextlib.contextmanager
def _standing_in(model: nn.Module, chain: Chain, tensor: Tensor) -> Iterator[None]:
    """While it is entered, every block gives the same tensor without any work."""
    output: Any = tensor
    if chain.form is not None:
        output = type(chain.form)([tensor, *chain.form[1:]])
    blocks = [model.get_submodule(name) for name in chain.names]
    for block in blocks:
        block.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _watched(
    model: nn.Module, names: Sequence[str], inputs: Inputs
) -> tuple[list[tuple[str, tuple[Any, ...], dict[str, Any], Any]], list[str]]:
    """Name, arguments and output of every call of some modules, and which other modules were
    called before the first of them."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []
    before: list[str] = []
    entered: list[str] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any
        ) -> None:
            calls.append((name, arguments, keywords, output))

        return hook

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            entered.append(name)
            if not any(other in names for other in entered):
                before.append(name)

        return hook

    handles = [
        model.get_submodule(name).register_forward_hook(keep(name), with_kwargs=True)
        for name in names
    ]
    handles += [m.register_forward_pre_hook(note(n)) for n, m in model.named_modules() if n]
    try:
        run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls, before


def _chain_of(
    names: tuple[str, ...],
    calls: Sequence[tuple[str, tuple[Any, ...], dict[str, Any], Any]],
    before: Sequence[str],
) -> Chain | None:
    """The chain that some calls are; None if they are none."""
    if tuple(call[0] for call in calls) != names:
        return None
    outputs = [call[3] for call in calls]
    try:
        forms = [_form(output) for output in outputs]
    except ValueError:
        return None
    if any(form != forms[0] for form in forms):
        return None
    given = [_values(arguments, keywords) for _, arguments, keywords, _ in calls]
    slots = [key for key, value in given[1].items() if value is handed_on(outputs[0])]
    if len(slots) != 1:
        return None
    (slot,) = slots
    common = None
    for index, values in enumerate(given):
        handed = values.pop(slot, None)
        if not isinstance(handed, Tensor) or not all(map(_is_simple, values.values())):
            return None
        if index and handed is not handed_on(outputs[index - 1]):
            return None
        common = common or values
        if common.keys() != values.keys():
            return None
        if not all(_is_same(common[key], values[key]) for key in values):
            return None
    return Chain(names, slot, forms[0], frozenset(before))


def _values(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[int | str, Any]:
    """All arguments of a call by position or name."""
    return dict([*enumerate(arguments), *keywords.items()])


def _form(output: Any) -> tuple[Any, ...] | list[Any] | None:
    """What is beside the tensor in a block's output, as `Chain.form`.

    Raises:
        ValueError: If it holds no tensor in the first place, or more than that.
    """
    if isinstance(output, Tensor):
        return None
    if type(output) in (tuple, list) and output and isinstance(output[0], Tensor):
        rest = output[1:]
        if all(value is None for value in rest):
            return type(output)([None, *rest])  # type: ignore[no-any-return]
    raise ValueError("a block gives one tensor")


def _is_simple(value: Any) -> bool:
    """Whether a block cannot change an argument for the next one: no cache of keys and values."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_simple, value))
    return value is None or isinstance(value, (Tensor, bool, int, float, str))


def _is_same(first: Any, second: Any) -> bool:
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)):
        return len(first) == len(second) and all(map(_is_same, first, second))
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return first is second
    return bool(first == second)


def _gives_the_same(model: nn.Module, chain: Chain, inputs: Inputs) -> bool:
    """Whether the model's output is that of its stages, each of them run twice."""
    expected = run(model, inputs)
    walk = Walk(model, chain, inputs, len(inputs[0]))
    for stage in range(chain.last):
        walk.run(stage)
        if stage:
            walk.run(stage)
    (found,) = walk.run(chain.last)
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return False
    room = TOLERANCE * float(expected.abs().max())
    return found.shape == expected.shape and bool((found - expected).abs().max() <= room)
