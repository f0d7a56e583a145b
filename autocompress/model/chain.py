"""Blocks of a model that hand one tensor on, run one at a time on values that are kept.

The layers of a transformer are such a chain: what one gives, the next one takes, beside arguments
that all have in common.  What lies between two blocks is then all that is needed to go on, so that
the inputs pass through the model once however many looks are taken at its layers, and never is
there more than one block's worth of values at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.model.shelf import Shelf
from autocompress.model.task import Inputs, batches


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
        for part in self._parts:
            call = enter(self._model, self._chain, part)
            self._kept.append(call.handed)
            self._calls.append(call.without())
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
        pairs = zip(self._parts, given, strict=True)
        return [leave(self._model, self._chain, part, tensor) for part, tensor in pairs]


def enter(model: nn.Module, chain: Chain, inputs: Inputs) -> Call:
    """Runs a model as far as its first block; how that is called.

    Raises:
        ValueError: If it is not.
    """
    calls: list[Call] = []

    def stop(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        calls.append(Call(arguments, keywords, chain.slot))
        raise Stopped

    first = model.get_submodule(chain.names[0])
    handle = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with contextlib.suppress(Stopped):
            model(*inputs)
    finally:
        handle.remove()
    if not calls:
        raise ValueError(f"the model does not come to {chain.names[0]!r}")
    return calls[0]


def leave(model: nn.Module, chain: Chain, inputs: Inputs, tensor: Tensor) -> Any:
    """A model's output where the last block gives this tensor: no block runs."""
    with _standing_in(model, chain, tensor):
        return model(*inputs)


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
    own = [vars(block).get("forward") for block in blocks]  # mostly it is that of the class
    for block in blocks:
        block.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for block, before in zip(blocks, own, strict=True):
            del block.forward
            if before is not None:
                block.forward = before
