"""Models that take and give other things than tensors: dictionaries, keyword arguments, nested
lists, dataclasses, the outputs of `transformers`.

Everything here works on tensors in a row.  A copy of the model with a `forward` of its own takes
them and gives the one output that is compared; whoever the user's own code is handed to gets the
original's way of being called.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import keyword
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from autocompress.errors import TaskError
from autocompress.model.memory import shared_copy

Path: TypeAlias = tuple[Any, ...]
PREFERRED = "logits"  # where a model gives several outputs
_CALLED_AS = "_called_as"  # the user's class of an adapted one


@dataclass(frozen=True)
class Interface:
    """How a model is called, and which of its outputs counts.

    Args:
        arguments: Positional arguments of the example, whatever they are.
        keywords: Keyword arguments of the example.
        result: What the model gave for it.
        output: Where in it the tensor is that counts; empty where it is that tensor.
        names: Of the tensors among the arguments, in their order.
        parameters: Names of the parameters of `forward` that may be given by position.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    result: Any
    output: Path
    names: tuple[str, ...]
    parameters: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the model takes tensors in a row and gives one already."""
        positional = all(isinstance(value, Tensor) for value in self.arguments)
        return positional and not self.keywords and isinstance(self.result, Tensor)

    def tensors(self, value: Any, where: str) -> tuple[Tensor, ...]:
        """The tensors of other arguments of the same structure, in the order of `names`.

        Raises:
            TaskError: If their structure is another.
        """
        return self.tensors_of(*split_call(value), where)

    def tensors_of(
        self, arguments: tuple[Any, ...], keywords: Mapping[str, Any], where: str
    ) -> tuple[Tensor, ...]:
        """The same of a call."""
        found = dict(_leaves(_by_name(arguments, keywords, self.parameters)))
        example = _by_name(self.arguments, self.keywords, self.parameters)
        wanted = [path for path, _ in _leaves(example)]
        if set(found) != set(wanted):
            raise TaskError(
                f"{where}: inputs {_listed(found)}; example_inputs() gives {_listed(wanted)}"
            )
        return tuple(found[path] for path in wanted)

    def call(self, model: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Any:
        """Calls a model as the user does, with other tensors in the places of the example's."""
        values = iter(tensors)
        arguments = _filled(self.arguments, values)
        keywords = _filled(dict(self.keywords), values)
        return model(*arguments, **keywords)

    def chosen(self, result: Any) -> Tensor:
        """The output that counts."""
        for step in self.output:
            result = getattr(result, step) if _has_field(result) else result[step]
        assert isinstance(result, Tensor)
        return result

    def rebuilt(self, tensor: Tensor) -> Any:
        """A result of the model's own type with the one output in its place, and None for all
        others."""
        return _put(self.result, self.output, tensor)

    def adapted(self, model: nn.Module) -> nn.Module:
        """A copy, which shares the tensors, that takes `names` and gives the one output."""
        own = type(model)
        result = shared_copy(model)

        def compute(module: nn.Module, *tensors: Tensor) -> Tensor:
            def plain(*arguments: Any, **keywords: Any) -> Any:
                return own.forward(module, *arguments, **keywords)

            return self.chosen(self.call(plain, tensors))

        # A signature of its own, for exporters and tracers count parameters.
        listed = ", ".join(self.names)
        space: dict[str, Any] = {"compute": compute}
        exec(f"def forward(self, {listed}):\n    return compute(self, {listed})", space)  # noqa: S102
        members = {
            "forward": space["forward"],
            "__module__": own.__module__,
            "__doc__": own.__doc__,
            _CALLED_AS: own,
        }
        result.__class__ = type(own.__name__, (own,), members)
        return result

    def presented(self, model: nn.Module) -> nn.Module:
        """A model that takes tensors, as the user's code calls it."""
        if self.is_plain:
            return model
        own = vars(type(model)).get(_CALLED_AS)
        if own is None:
            return _Presented(model, self)
        restored = copy.copy(model)
        restored.__class__ = own
        return restored


class _Presented(nn.Module):
    """Calls a model of tensors in the user's way."""

    def __init__(self, model: nn.Module, interface: Interface) -> None:
        super().__init__()
        self.model = model
        self.interface = interface

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        tensors = self.interface.tensors_of(arguments, keywords, "the compressed model")
        return self.interface.rebuilt(self.model(*tensors))


def split_call(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that a value of `example_inputs()` means.

    A mapping holds keyword arguments; a tuple or a list positional ones, and if a mapping comes
    last keyword ones after them; anything else is the only argument.
    """
    if isinstance(value, Mapping):
        return (), {str(key): item for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        if len(value) > 1 and isinstance(value[-1], Mapping):
            return tuple(value[:-1]), {str(key): item for key, item in value[-1].items()}
        return tuple(value), {}
    return (value,), {}


def is_nested(value: Any) -> bool:
    """Whether a value holds tensors, but not in a row."""
    in_row = isinstance(value, (tuple, list)) and all(isinstance(item, Tensor) for item in value)
    return not isinstance(value, Tensor) and not in_row and any(True for _ in _leaves(value))


def interface_of(
    model: nn.Module, example: Any, choose: Callable[[Any], Tensor] | None, origin: str
) -> Interface:
    """Calls a model once to see what it takes and gives.

    Args:
        model: In evaluation mode.
        example: What `example_inputs()` gave.
        choose: The user's `output(result)`; None takes the only tensor, `logits`, or the first
            floating one.
        origin: Where the functions came from, for messages.

    Raises:
        TaskError: If the model fails, or gives no tensor to compare.
    """
    arguments, keywords = split_call(example)
    parameters = tuple(
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    )
    paths = [path for path, _ in _leaves(_by_name(arguments, keywords, parameters))]
    if not paths:
        raise TaskError(f"{origin}: example_inputs() holds no tensor")
    try:
        with torch.no_grad():
            result = model(*arguments, **keywords)
    except Exception as error:  # the user's forward may raise anything
        found = [str(tuple(tensor.shape)) for _, tensor in _leaves((arguments, keywords))]
        raise TaskError(
            f"{origin}: the model fails on inputs of shape {', '.join(found)}:"
            f" {type(error).__name__}: {error}"
        ) from error
    output = _choose(result, choose, origin)
    return Interface(arguments, keywords, result, output, _names(paths), parameters)


def _by_name(
    arguments: tuple[Any, ...], keywords: Mapping[str, Any], parameters: tuple[str, ...]
) -> dict[str, Any]:
    """All arguments under the names of their parameters."""
    places = [*parameters, *(f"input_{i}" for i in range(len(parameters), len(arguments)))]
    return {**dict(zip(places, arguments, strict=False)), **keywords}


def _choose(result: Any, choose: Callable[[Any], Tensor] | None, origin: str) -> Path:
    leaves = list(_leaves(result))
    if choose is not None:
        wanted = choose(result)
        for path, tensor in leaves:
            if tensor is wanted:
                return path
        raise TaskError(f"{origin}: output() must return one of the tensors of the model's result")
    floating = [path for path, tensor in leaves if tensor.is_floating_point()]
    if not floating:
        raise TaskError(
            f"{origin}: the model returned {type(result).__name__}, which holds no tensor of"
            " floating numbers to compare"
        )
    return next((path for path in floating if path[-1:] == (PREFERRED,)), floating[0])


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in a structure, with the way to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name, item in zip(value._fields, value, strict=True):
            yield from _leaves(item, (*path, name))
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), (*path, field.name))


def _filled(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The structure with other tensors in the places of its own."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return {key: _filled(item, tensors) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_filled(item, tensors) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_filled(item, tensors) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(
            value, **{name: _filled(getattr(value, name), tensors) for name in names}
        )
    return value


def _put(value: Any, path: Path, tensor: Tensor) -> Any:
    """The structure with one tensor at a place, and None in the places of all others."""
    if not path:
        return tensor
    if isinstance(value, Mapping):
        found = {key: _at(item, (key,), path, tensor) for key, item in value.items()}
        if type(value) is dict:
            return found
        try:
            return type(value)(**found)
        except TypeError:
            return found
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
        return type(value)(*(_at(item, (name,), path, tensor) for name, item in items))
    if isinstance(value, (tuple, list)):
        return type(value)(_at(item, (i,), path, tensor) for i, item in enumerate(value))
    names = [field.name for field in dataclasses.fields(value) if field.init]
    return dataclasses.replace(
        value, **{n: _at(getattr(value, n), (n,), path, tensor) for n in names}
    )


def _at(item: Any, step: Path, path: Path, tensor: Tensor) -> Any:
    if path[:1] == step:
        return _put(item, path[1:], tensor)
    return None if any(True for _ in _leaves(item)) else item


def _has_field(value: Any) -> bool:
    """Whether parts are reached by a name instead of a key or a number."""
    return hasattr(value, "_fields") or (
        dataclasses.is_dataclass(value) and not isinstance(value, Mapping)
    )


def _names(paths: list[Path]) -> tuple[str, ...]:
    """A name for each tensor: of its parameter, and of the way to it from there."""
    names: list[str] = []
    for path in paths:
        joined = "_".join(map(str, path))
        name = "".join(letter if letter.isalnum() else "_" for letter in joined)
        if not name.isidentifier() or keyword.iskeyword(name) or name == "self":
            name = f"input_{len(names)}"
        names.append(name if name not in names else f"{name}_{len(names)}")
    return tuple(names)


def _listed(paths: Any) -> str:
    shown = [".".join(map(str, path)) for path in paths]
    return ", ".join(shown) or "none"
