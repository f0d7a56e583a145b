"""What a student is taught by the original: its outputs, its feature maps, where it looks.

Soft targets after Hinton et al. (1503.02531), feature maps after FitNets (1412.6550), attention
transfer after Zagoruyko and Komodakis (1612.03928, eq. 2).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.model.layer import Layer
from autocompress.model.task import Inputs

STAGES = 4  # feature maps that are compared


@dataclass(frozen=True)
class Lesson:
    """How the parts of the distance from the original count.

    Args:
        temperature: Of the soft targets, above 0.
        features: Weight of the normalised squared distance of feature maps.
        attention: Weight of the distance of attention maps: where, over the positions of a feature
            map, its energy lies.
    """

    temperature: float = 2.0
    features: float = 0.0
    attention: float = 0.0

    @property
    def looks_inside(self) -> bool:
        """Whether feature maps are needed."""
        return self.features > 0 or self.attention > 0


@dataclass(frozen=True)
class Block:
    """Layers that are reconstructed together (BRECQ, 2102.05426).

    Args:
        end: Layer whose output is to be that of the original; empty for the model's outputs.
        members: Layers that are trained for it.
    """

    end: str
    members: tuple[str, ...]


class Watch:
    """Keeps what some layers of a model give, while it is entered.

    Args:
        model: The model.
        names: Its modules.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model, self._names = model, names
        self._handles: list[Any] = []
        self.maps: dict[str, Tensor] = {}

    def __enter__(self) -> Watch:
        for name in self._names:
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_hook(self._keeper(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            del module, inputs
            # A rectifier behind it may work in place.
            self.maps[name] = output.clone()

        return keep


def stages(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Layers whose feature maps are compared: the last of each resolution, evenly spread ones
    where there are more than `STAGES`.

    Args:
        layers: In running order.
    """
    inner = [layer for layer in layers if layer.is_treated][:-1]
    ends = [
        layer.name
        for layer, following in zip(inner, [*inner[1:], None], strict=True)
        if following is None or _positions(following) != _positions(layer)
    ]
    places = torch.linspace(0, len(ends) - 1, min(STAGES, len(ends))).round().int().tolist()
    return tuple(ends[place] for place in dict.fromkeys(places))


def _positions(layer: Layer) -> tuple[int, ...]:
    shape = layer.output_shape
    return tuple(shape[2:]) if len(shape) > 2 else ()


def blocks(layers: Sequence[Layer], names: Collection[str]) -> tuple[Block, ...]:
    """Runs of layers that are reconstructed one after another: those of one resolution each.

    Args:
        layers: In running order.
        names: Of the layers that are trained.
    """
    treated = [layer for layer in layers if layer.is_treated]
    found: list[Block] = []
    members: list[str] = []
    for layer, following in zip(treated, [*treated[1:], None], strict=True):
        members += [layer.name] if layer.name in names else []
        ends = following is None or _positions(following) != _positions(layer)
        if ends and members:
            found.append(Block(layer.name if following is not None else "", tuple(members)))
            members = []
    return tuple(found)


class _Reached(Exception):
    """Ends a forward pass where all is known that is asked for."""


def reach(model: nn.Module, name: str, inputs: Inputs) -> Tensor:
    """What a module gives for some inputs of the model; the rest of the model does not run.

    Args:
        model: The model.
        name: Of the module; empty for the model's own outputs.
        inputs: `(n, ...)` each.
    """
    if not name:
        outputs: Tensor = model(*inputs)
        return outputs
    found: list[Tensor] = []

    def stop(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        del module, inputs
        found.append(output)
        raise _Reached

    handle = model.get_submodule(name).register_forward_hook(stop)
    try:
        model(*inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(teacher || student)` at temperature `T`, a mean over all but the classes.

    For outputs that are no classes, the squared error over the variance of the teacher's.

    Args:
        student: `(n, ..., classes)` logits.
        teacher: The same of the original.
        temperature: Above 0.
    """
    if teacher.ndim < 2 or teacher.shape[-1] < 2:
        return (student - teacher).square().mean() / teacher.var().clamp_min(1e-12)
    wanted = (teacher / temperature).log_softmax(-1)
    found = (student / temperature).log_softmax(-1)
    divergence = (wanted.exp() * (wanted - found)).sum(-1)
    return temperature**2 * divergence.mean()


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two feature maps over the energy of the teacher's, a scalar."""
    return (student - teacher).square().mean() / teacher.square().mean().clamp_min(1e-12)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two attention maps, a scalar; 0 where there is one position only.

    Args:
        student: `(n, channels, height, width)`, or `(n, tokens, width)`.
        teacher: The same of the original.
    """
    if teacher.ndim < 3:
        return student.new_zeros(())
    distance = (_attention(student) - _attention(teacher)).square().sum(1)
    return distance.mean()


def _attention(features: Tensor) -> Tensor:
    """Energy of each position, `(n, positions)`, of unit norm."""
    axis = 1 if features.ndim == 4 else -1
    return nn.functional.normalize(features.square().mean(axis).flatten(1), dim=1)


def distance(
    lesson: Lesson,
    student: Tensor,
    teacher: Tensor,
    student_maps: dict[str, Tensor],
    teacher_maps: dict[str, Tensor],
) -> Tensor:
    """All that a lesson compares, a scalar."""
    total = soft_targets(student, teacher, lesson.temperature)
    count = max(1, len(teacher_maps))
    for name, wanted in teacher_maps.items():
        if lesson.features:
            found = feature_distance(student_maps[name], wanted)
            total = total + lesson.features / count * found
        if lesson.attention:
            found = attention_distance(student_maps[name], wanted)
            total = total + lesson.attention / count * found
    return total
