"""What a model takes beside size and latency: energy and memory, both estimated from its graph.

The memories of a device that is known from its data sheet are compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autocompress.errors import TaskError
from autocompress.hardware.device import Device
from autocompress.hardware.memory import peak_bytes
from autocompress.hardware.rest import Shapes, rest_work, tensor_shapes
from autocompress.hardware.work import layer_work
from autocompress.search.resource import Resource
from autocompress.search_space.option import Option
from autocompress.study.subject import Model

Choices = Mapping[str, Option]


@dataclass(frozen=True)
class Footprint:
    """Estimates for one forward pass.

    Args:
        energy_mj: Energy in millijoules; None where the device gives no figures.
        peak_memory_bytes: The most bytes of activations that are alive at a time.

    Both are None where the model cannot be exported, so that nothing is known of its graph.
    """

    energy_mj: float | None
    peak_memory_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Room:
    """A memory of the device and what the model takes of it, in bytes."""

    name: str
    used: float
    limit: int

    @property
    def fits(self) -> bool:
        return self.used <= self.limit

    @property
    def complaint(self) -> str:
        """In one sentence, where the model does not fit."""
        return (
            f"takes {self.used / 1024:.1f} KiB of {self.name}, and there are {self.limit / 1024:g}"
        )


class Footprints:
    """Estimates of candidates of one model on one device.

    Args:
        model: The traced model.
        device: Where it runs.
    """

    def __init__(self, model: Model, device: Device) -> None:
        self._model = model
        self._device = device
        self._seen: dict[tuple[tuple[str, str], ...], Shapes] = {}

    def _shapes(self, choices: Choices) -> Shapes:
        """Of the tensors between layers, seen once for each choice of widths."""
        narrow = {
            name: Option(inputs=option.inputs, outputs=option.outputs)
            for name, option in choices.items()
            if option.is_narrow
        }
        key = tuple(sorted((name, option.id) for name, option in narrow.items()))
        if key not in self._seen:
            model = self._model
            self._seen[key] = tensor_shapes(model.graph, model.example_inputs, narrow)
        return self._seen[key]

    def of(self, choices: Choices) -> Footprint:
        """A candidate's; layers that are not named are dense float32."""
        graph, energy = self._model.graph, self._device.energy
        if not graph.is_exported:
            return Footprint(None, None)
        shapes = self._shapes(choices)
        spent = None
        if energy is not None:
            work = rest_work(graph, shapes)
            for layer in graph.layers:
                work += layer_work(layer, choices.get(layer.name, Option()))
            spent = energy.millijoules(work)
        return Footprint(spent, peak_bytes(graph, shapes, choices))

    def energy(self, units: Mapping[str, Sequence[Option]]) -> Resource:
        """Millijoules as the search adds them up; what is outside of layers counts as wide as in
        the original, so that a narrow candidate takes a little less than this says.

        Args:
            units: Layer name to its options; other layers are dense float32.

        Raises:
            TaskError: If the model cannot be exported.
        """
        graph, energy = self._model.graph, self._device.energy
        if not graph.is_exported:
            raise TaskError("a budget on energy needs the model's ONNX graph, which has none")
        assert energy is not None, "a budget on energy was refused where it has no figures"
        layers = {layer.name: layer for layer in graph.layers}
        fixed = rest_work(graph, self._shapes({}))
        for name, layer in layers.items():
            fixed += () if name in units else layer_work(layer, Option())
        tables = tuple(
            np.array([energy.millijoules(layer_work(layers[name], option)) for option in menu])
            if name in layers
            else np.zeros(len(menu))  # only stored in fewer bytes: the work stays
            for name, menu in units.items()
        )
        return Resource(energy.millijoules(fixed), tables)

    def rooms(self, footprint: Footprint, size_bytes: float) -> tuple[Room, ...]:
        """The memories that the device gives, with what a model takes of each."""
        peak = footprint.peak_memory_bytes
        return () if peak is None else rooms(self._device, peak, size_bytes)


def rooms(device: Device, peak_memory_bytes: float, size_bytes: float) -> tuple[Room, ...]:
    """The memories that a device gives, with what a model takes of each: what ships lies in flash,
    activations in RAM."""
    sheet = device.sheet
    if sheet is None:
        return ()
    given = (("flash", size_bytes, sheet.flash_kib), ("ram", peak_memory_bytes, sheet.ram_kib))
    return tuple(Room(name, used, 1024 * kib) for name, used, kib in given if kib)
