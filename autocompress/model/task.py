"""The user's task: model, calibration and example inputs, evaluation; checked at the door."""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import ConfigError, DataError, TaskError
from autocompress.model.interface import Interface, interface_of, is_nested

Inputs = tuple[Tensor, ...]
FUNCTIONS = ("model", "calibration", "example_inputs", "evaluate")


@dataclass(frozen=True)
class Task:
    """The callables of the user, wrapped so that what they return has been checked.

    Args:
        make_model: Returns the dense model, an `nn.Module`.
        make_calibration: Returns inputs without labels: a tensor `(n, ...)`, a tuple of tensors (a
            model with several inputs), a mapping of keyword arguments, or an iterable of batches
            of these.
        make_example_inputs: Returns one input as the device will see it: a tensor, a tuple of
            arguments, a mapping of keyword arguments, or a tuple whose last item is one.
        evaluator: `evaluate(model)` or `evaluate(model, split)` with split `selection` or `test`;
            returns the metric as one number.
        origin: Where the callables came from, for messages.
        make_labels: Returns the class numbers of the calibration inputs, in their order: a tensor
            `(n, ...)`; None when there are none.
        make_training: Returns inputs to train on, without labels: an iterable of batches that has
            a length and can be gone through again; None when there are none.
        choose_output: Picks, of what the model returns, the tensor that is compared; None takes
            the only one, `logits`, or the first.
    """

    make_model: Callable[[], nn.Module]
    make_calibration: Callable[[], Any]
    make_example_inputs: Callable[[], Any]
    evaluator: Callable[..., float]
    origin: str = "the task"
    make_labels: Callable[[], Any] | None = None
    make_training: Callable[[], Any] | None = None
    choose_output: Callable[[Any], Tensor] | None = None

    @cached_property
    def interface(self) -> Interface:
        """How the model is called.

        Raises:
            TaskError: If the model fails on the example inputs, or gives nothing to compare.
        """
        return self._look(self._model(), self._example())

    def _example(self) -> Any:
        return _call(self.origin, "example_inputs", self.make_example_inputs)

    def _look(self, model: nn.Module, value: Any) -> Interface:
        if not is_nested(value):
            as_inputs(value, f"{self.origin}: example_inputs()")
        return interface_of(model, value, self.choose_output, self.origin)

    def model(self) -> nn.Module:
        """The dense model in evaluation mode, on the CPU, taking tensors in a row and giving one.

        Raises:
            TaskError: If the callable fails, or returns something else, or the model is not
                usable.
        """
        model = self._model()
        if "interface" not in vars(self):  # which would make the model again
            try:
                example = self._example()
            except TaskError:  # such as data that is not here: whoever asks for inputs is told
                return model
            vars(self)["interface"] = self._look(model, example)
        return model if self.interface.is_plain else self.interface.adapted(model)

    def _model(self) -> nn.Module:
        model = _call(self.origin, "model", self.make_model)
        if not isinstance(model, nn.Module):
            raise TaskError(f"{self.origin}: model() must return an nn.Module, got {_kind(model)}")
        for name, parameter in model.named_parameters():
            if parameter.device.type != "cpu":
                raise TaskError(
                    f"{self.origin}: parameter {name!r} is on {parameter.device};"
                    " give the model on the CPU"
                )
            if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
                raise TaskError(f"{self.origin}: parameter {name!r} holds NaN or infinity")
        return model.eval()

    def calibration(self) -> Inputs:
        """All calibration inputs, one tensor `(n, ...)` for each input of the model.

        Raises:
            TaskError: If the callable fails.
            DataError: If inputs are empty, of unequal length, or not finite.
        """
        value = _call(self.origin, "calibration", self.make_calibration)
        return gather(value, self.origin, None if self.interface.is_plain else self.interface)

    def example_inputs(self) -> Inputs:
        """One input as the device will see it.

        Raises:
            TaskError: If the callable fails.
            DataError: If it is no tensor or tuple of tensors, or not finite.
        """
        value = self._example()
        where = f"{self.origin}: example_inputs()"
        if is_nested(value):
            return _checked(self.interface.tensors(value, where), self.origin)
        return _checked(as_inputs(value, where), self.origin)

    def labels(self, count: int) -> Tensor | None:
        """Class numbers of the calibration inputs, `(count, ...)`; None when the user has none.

        Raises:
            TaskError: If the callable fails.
            DataError: If it gives no integers, or another number of them.
        """
        if self.make_labels is None:
            return None
        value = _call(self.origin, "labels", self.make_labels)
        whole = isinstance(value, Tensor) and not (
            value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
        )
        if not whole or not value.ndim:
            raise DataError(
                f"{self.origin}: labels() must return a tensor of class numbers, got"
                f" {value.dtype if isinstance(value, Tensor) else _kind(value)}"
            )
        if len(value) != count:
            raise DataError(
                f"{self.origin}: labels() gives {len(value)} labels for {count} calibration inputs"
            )
        labels: Tensor = value.detach().long()
        return labels

    def training(self) -> Any:
        """Batches to train on; None when the user has none.

        Raises:
            TaskError: If the callable fails.
        """
        if self.make_training is None:
            return None
        return _call(self.origin, "training", self.make_training)

    @property
    def has_splits(self) -> bool:
        """Whether `evaluate` takes a split, so that the test data can be kept apart.

        That is a parameter called `split`, or a second one that must be given.
        """
        parameters = [*inspect.signature(self.evaluator).parameters.values()]
        needed = [
            p
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]
        return len(needed) > 1 or any(p.name == "split" for p in parameters)

    def evaluate(self, model: nn.Module, split: str) -> float:
        """The user's metric of `model` on `selection` or `test`.

        Raises:
            TaskError: If `evaluate` raises, or returns NaN or no number.
        """
        if "interface" in vars(self):  # known since the model was made
            model = self.interface.presented(model)
        arguments: tuple[Any, ...] = (model,)
        named: dict[str, Any] = {}
        if "split" in inspect.signature(self.evaluator).parameters:
            named = {"split": split}
        elif self.has_splits:
            arguments = (model, split)
        with torch.no_grad():
            value = _call(self.origin, "evaluate", self.evaluator, *arguments, **named)
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):  # a tensor of several values raises the last
            raise TaskError(
                f"{self.origin}: evaluate() must return one number, got {_kind(value)}"
            ) from None
        if not math.isfinite(number):
            raise TaskError(f"{self.origin}: evaluate() returned {number} on split {split!r}")
        return number


def load_task(folder: Path | str) -> Task:
    """The task of a study folder, from its `task.py`.

    Raises:
        ConfigError: If the file is missing, does not import, or lacks one of the four functions.
    """
    path = Path(folder) / "task.py"
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; a study needs task.py with {', '.join(FUNCTIONS)}"
        )
    module = _import(path)
    missing = [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
    if missing:
        raise ConfigError(
            f"{path}: missing function {', '.join(missing)} (needed: {', '.join(FUNCTIONS)})"
        )
    functions = [getattr(module, name) for name in FUNCTIONS]
    labels, training, output = (
        getattr(module, name, None) for name in ("labels", "training", "output")
    )
    return Task(
        functions[0],
        functions[1],
        functions[2],
        functions[3],
        str(path),
        labels if callable(labels) else None,
        training if callable(training) else None,
        output if callable(output) else None,
    )


def batches(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """The inputs in parts of at most `size` examples, in order."""
    for start in range(0, len(inputs[0]), size):
        yield tuple(tensor[start : start + size] for tensor in inputs)


def gather(value: Any, origin: str, interface: Interface | None = None) -> Inputs:
    """One tensor `(n, ...)` for each model input from a tensor, a tuple, or batches of these.

    Args:
        value: What `calibration()` gave.
        origin: Where it came from, for messages.
        interface: Of a model that takes more than tensors in a row.
    """
    where = f"{origin}: calibration()"
    if interface is not None:
        return _checked(_gathered(value, where, origin, interface), origin)
    if isinstance(value, (Tensor, tuple)):
        inputs = as_inputs(value, where)
    elif isinstance(value, Iterable):
        # A generator is the user's code as well.
        parts = [as_inputs(part, where) for part in _call(origin, "calibration", list, value)]
        if not parts:
            raise DataError(f"{where} returned no batches")
        shapes = {tuple((x.dtype, x.shape[1:]) for x in part): None for part in parts}
        if len(shapes) > 1:
            listed = ", ".join(str([tuple(shape) for _, shape in key]) for key in shapes)
            raise DataError(
                f"{where}: all batches must hold inputs of the same shape and type, got {listed}"
            )
        inputs = tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
    else:
        raise DataError(
            f"{where} must return a tensor, a tuple of tensors or batches, got {_kind(value)}"
        )
    if len({len(tensor) for tensor in inputs}) != 1 or not len(inputs[0]):
        lengths = ", ".join(str(len(tensor)) for tensor in inputs)
        raise DataError(f"{where}: inputs must be non-empty and of one length, got {lengths}")
    return _checked(inputs, origin)


def _gathered(value: Any, where: str, origin: str, interface: Interface) -> Inputs:
    is_whole = isinstance(value, (Tensor, tuple, Mapping))
    parts = [value] if is_whole else _call(origin, "calibration", list, value)
    if not parts:
        raise DataError(f"{where} returned no batches")
    found = [interface.tensors(part, where) for part in parts]
    try:
        inputs = tuple(torch.cat(columns) for columns in zip(*found, strict=True))
    except RuntimeError as error:
        raise DataError(f"{where}: batches cannot be joined: {error}") from error
    lengths = [len(tensor) for tensor in inputs]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise DataError(
            f"{where}: inputs {', '.join(interface.names)} must be non-empty and of one length,"
            f" got {', '.join(map(str, lengths))}"
        )
    return inputs


def as_inputs(value: Any, where: str) -> Inputs:
    """`value` as a tuple of tensors.

    Raises:
        DataError: If it is neither a tensor nor a tuple or list of tensors.
    """
    values = value if isinstance(value, (tuple, list)) else (value,)
    if not values or not all(isinstance(item, Tensor) and item.ndim for item in values):
        raise DataError(f"{where} must give a tensor or a tuple of tensors, got {_kind(value)}")
    return tuple(values)


def _checked(inputs: Inputs, origin: str) -> Inputs:
    for index, tensor in enumerate(inputs):
        if tensor.is_floating_point():
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise DataError(
                    f"{origin}: input {index} holds {bad} values that are NaN or infinite"
                )
    return inputs


def _call(
    origin: str, name: str, function: Callable[..., Any], *arguments: Any, **named: Any
) -> Any:
    try:
        return function(*arguments, **named)
    except KeyboardInterrupt:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # the user's code may raise anything; the message keeps its words
        raise TaskError(f"{origin}: {name}() raised {type(error).__name__}: {error}") from error


def _import(path: Path) -> ModuleType:
    name = f"autocompress_task_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's file may raise anything at import
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__
