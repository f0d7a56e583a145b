"""Finds the blocks of a model that hand one tensor on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from autocompress.model.chain import Chain, Walk, handed_on
from autocompress.model.task import Inputs
from autocompress.model.trace import run

TOLERANCE = 1e-4  # of what comes out in blocks, relative to the largest value


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
