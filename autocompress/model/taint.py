"""Marks channels with NaN and sees where they arrive, in any model that runs.

Every treated layer is *cut*: it looks at the marks in its input, and gives its recorded dense
output whatever they are.  So a mark in the output of one layer arrives exactly where that output
is read without another layer in between, and everything else (activations, pooling, additions,
concatenations, attention, batch norms, depthwise convolutions) carries it by running.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree

from autocompress.errors import TaskError
from autocompress.model.task import Inputs
from autocompress.model.trace import run

OUTPUT = ""  # the model's output among the observers; it has one column
VALUES = 2**26  # values of layer outputs in one batch of marked copies
# Module types between layers that work channel by channel, or group by group.
PASSING = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.PReLU,
    nn.modules.conv._ConvNd,
)


class _UnbatchedError(Exception):
    """The model does not take several copies of its input at once, or mixes them."""


class Taint:
    """A copy of a model whose layers are cut, to be run with marks.

    Args:
        model: In evaluation mode; copied, never changed.
        layers: Names of the Linear and Conv2d to cut; each runs once in a pass.
        inputs: Example inputs; one example is used where all of them are batches.

    Raises:
        TaskError: If the model fails.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], inputs: Inputs) -> None:
        self._model = copy.deepcopy(model).eval()
        same = len({len(x) for x in inputs}) == 1
        self._inputs = tuple(x[:1] if same else x for x in inputs)
        self._outputs: dict[str, Tensor] = {}  # recorded dense outputs
        self._shapes: dict[tuple[str, int], tuple[int, ...]] = {}  # of one copy, by call
        self._channels: dict[str, int] = {}  # channel dimension of an observer's input
        self._calls: dict[str, int] = {}
        self._chunk = 1  # copies that run at once
        self._rows = 0  # copies in the running batch; 0 while outputs are recorded
        self._marks: Mapping[str, Tensor] = {}
        self._seen: dict[str, Tensor] = {}
        self.layers: dict[str, int] = {}  # name to output channels
        self.columns: dict[str, int] = {OUTPUT: 1}  # observer to what it can tell apart
        for name in layers:
            self._cut(name)
        self.passing: dict[str, nn.Module] = {}
        for name, module in self._model.named_modules():
            if name not in self.layers and is_passing(module):
                self._watch(name, module)
        self._record()

    def __call__(self, marks: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        """Runs one copy of the example for each row of marks.

        Args:
            marks: Layer to `(rows, channels)` bool, true where an output channel is NaN.
            inputs: `(rows,)` bool, true where the model's own float inputs are NaN.

        Returns:
            Observer (layer, passing module or `OUTPUT`) to `(rows, columns)` bool, true where a
            mark arrived.

        Raises:
            TaskError: If the model fails on marked values.
        """
        rows, parts, start = len(inputs), [], 0
        while start < rows:
            stop = min(rows, start + self._chunk)
            part = {name: marked[start:stop] for name, marked in marks.items()}
            try:
                parts.append(self._run(part, inputs[start:stop]))
            except Exception as error:  # the user's forward may raise anything
                if self._chunk == 1:
                    raise TaskError(
                        f"the model fails on marked values: {type(error).__name__}: {error}"
                    ) from error
                self._chunk = 1  # from here on one copy at a time
                continue
            start = stop
        return {name: torch.cat([part[name] for part in parts]) for name in self.columns}

    def parameters_reach(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """For each other module that owns parameters: where these arrive, `(1, columns)` bool.

        Scalars are left out: they have no channels.
        """
        for name, module in self._model.named_modules():
            own = [p for p in module.parameters(recurse=False) if p.numel() > 1]
            own = [p for p in own if p.is_floating_point()]
            if name in self.layers or name in self.passing or not own:
                continue
            kept = [parameter.detach().clone() for parameter in own]
            with torch.no_grad():
                for parameter in own:
                    parameter.fill_(torch.nan)
                try:
                    found = self({}, torch.zeros(1, dtype=torch.bool))
                finally:
                    for parameter, values in zip(own, kept, strict=True):
                        parameter.copy_(values)
            yield f"{type(module).__name__} {name!r}" if name else "the model itself", found

    def _cut(self, name: str) -> None:
        module = self._model.get_submodule(name)
        linear = isinstance(module, nn.Linear)
        self._channels[name] = -1 if linear else -3
        self.columns[name] = int(module.in_features if linear else module.in_channels)  # type: ignore[arg-type]
        self.layers[name] = int(module.out_features if linear else module.out_channels)  # type: ignore[arg-type]
        compute = module.forward

        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor:
            (x,) = (*args, *kwargs.values())
            if self._rows:
                return self._marked(name, self._observe(name, x))
            self._outputs[name] = compute(x).clone()
            self._shapes[name, 0] = tuple(x.shape)
            return self._outputs[name].clone()

        # On the instance, so that type and attributes stay for whoever asks.
        module.forward = forward
        # Where there are hooks, torch's fused encoder layers call their parts one by one.
        module.register_forward_pre_hook(lambda *_: None)

    def _watch(self, name: str, module: nn.Module) -> None:
        self.passing[name] = module
        grouped = isinstance(module, nn.modules.conv._ConvNd)
        self._channels[name] = -1 - len(module.kernel_size) if grouped else 1  # type: ignore[arg-type]
        self.columns[name] = passing_channels(module)

        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            call = self._calls.get(name, 0)
            self._calls[name] = call + 1
            if self._rows:
                self._observe(name, inputs[0], call)
            else:
                self._shapes[name, call] = tuple(inputs[0].shape)

        module.register_forward_pre_hook(hook)

    def _record(self) -> None:
        output = run(self._model, self._inputs)
        self._calls.clear()
        for name in set(self.layers) - set(self._outputs):
            del self.layers[name], self.columns[name]  # a fused kernel took its weights
        leaves = _floats(output)
        self._shapes |= {(OUTPUT, i): tuple(leaf.shape) for i, leaf in enumerate(leaves)}
        total = sum(values.numel() for values in self._outputs.values())
        same = len({len(x) for x in self._inputs}) == 1
        self._chunk = max(1, VALUES // max(1, total)) if same else 1

    def _run(self, marks: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        # The last copy of a batch bears no mark: one that arrives there has crossed over.
        spare = int(self._chunk > 1)
        self._rows = len(inputs) + spare
        blank = torch.zeros(spare, dtype=torch.bool)
        self._marks = {
            name: torch.cat([marked, blank[:, None].expand(spare, marked.shape[1])])
            for name, marked in marks.items()
        }
        self._seen = {
            name: torch.zeros(self._rows, columns, dtype=torch.bool)
            for name, columns in self.columns.items()
        }
        self._calls.clear()
        try:
            # The fused attention kernels lose NaN where there are few tokens.
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                output = self._model(*self._copies(torch.cat([inputs, blank])))
            for index, leaf in enumerate(_floats(output)):
                self._observe(OUTPUT, leaf, index)
        finally:
            self._rows = 0
        if spare and any(bool(seen[-1].any()) for seen in self._seen.values()):
            raise _UnbatchedError("examples of a batch are mixed")
        return {name: seen[: len(inputs)] for name, seen in self._seen.items()}

    def _copies(self, marked: Tensor) -> list[Tensor]:
        copies = []
        for x in self._inputs:
            copied = x.repeat(self._rows, *[1] * (x.ndim - 1))
            if x.is_floating_point():
                copied[marked.repeat_interleave(len(x))] = torch.nan
            copies.append(copied)
        return copies

    def _observe(self, name: str, x: Tensor, call: int = 0) -> int:
        """Notes the marks in what an observer reads; returns the dimension of the batch."""
        shape = self._shapes[name, call]
        batch = _batch_dimension(shape, tuple(x.shape), self._rows)
        if x.is_floating_point():
            split = _split(x.isnan(), batch, self._rows)
            place = batch  # of the columns; the output has but one
            if name != OUTPUT:
                channel = self._channels[name] % len(shape)
                place = channel + (channel >= batch)
            seen = split.any(dim=tuple(d for d in range(split.ndim) if d not in (batch, place)))
            seen = seen if batch <= place else seen.T
            self._seen[name] |= seen.reshape(self._rows, -1)
        return batch

    def _marked(self, name: str, batch: int) -> Tensor:
        """The recorded output of a layer for every copy, NaN where it is marked."""
        values = self._outputs[name]
        channel = self._channels[name] % values.ndim
        place = channel + (channel >= batch)
        copies = values.unsqueeze(batch).repeat(
            [self._rows if d == batch else 1 for d in range(values.ndim + 1)]
        )
        if name in self._marks:
            marks = self._marks[name] if batch < place else self._marks[name].T
            sizes = [copies.shape[d] if d in (batch, place) else 1 for d in range(copies.ndim)]
            copies.masked_fill_(marks.reshape(sizes), torch.nan)
        return copies.flatten(batch, batch + 1)


def is_passing(module: nn.Module) -> bool:
    """Whether a module works channel by channel, or group by group, and has one for each."""
    if isinstance(module, nn.modules.conv._ConvNd):
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        return module.groups > 1 and not transposed
    return isinstance(module, PASSING) and passing_channels(module) > 1


def passing_channels(module: nn.Module) -> int:
    """Input channels of a passing module."""
    for attribute in ("in_channels", "num_features", "num_channels", "num_parameters"):
        if hasattr(module, attribute):
            return int(getattr(module, attribute))
    raise TypeError(f"{type(module).__name__} has no channels")


def _batch_dimension(one: tuple[int, ...], many: tuple[int, ...], rows: int) -> int:
    """The dimension that grew by `rows` when that many copies ran."""
    if len(one) != len(many) or not one:
        raise _UnbatchedError(f"shape {one} became {many}")
    for index, size in enumerate(one):
        grown = (*one[:index], size * rows, *one[index + 1 :])
        if grown == many:
            return index
    raise _UnbatchedError(f"shape {one} became {many}")


def _split(x: Tensor, batch: int, rows: int) -> Tensor:
    """Takes the dimension of the batch apart into copies and what one copy has of it."""
    shape = tuple(x.shape)
    return x.reshape(*shape[:batch], rows, shape[batch] // rows, *shape[batch + 1 :])


def _floats(output: Any) -> list[Tensor]:
    """Tensors in a model's output, however it is packed."""
    leaves = _pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
