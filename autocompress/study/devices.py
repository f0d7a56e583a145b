"""What is known of a device: its measurement, its estimates, and what may be imported for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from autocompress.errors import StorageError
from autocompress.files import read_json
from autocompress.hardware.coverage import Coverage
from autocompress.hardware.device import Device, all_devices, get_device, reject
from autocompress.hardware.imported import (
    import_measurements,
    imported_table,
    imports_path,
    write_operations,
)
from autocompress.hardware.operations import operations_of
from autocompress.hardware.profile import Profile, fit_latency, kernel_classes
from autocompress.hardware.reference import reference_model
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.table import cache_path, empty_table
from autocompress.model.channels import ChannelGroup
from autocompress.model.layer import Layer
from autocompress.model.task import Inputs
from autocompress.model.trace import trace
from autocompress.search_space.option import Option
from autocompress.search_space.space import build_space
from autocompress.search_space.widths import SharedWidth
from autocompress.study.config import load_study
from autocompress.study.events import Listener
from autocompress.study.subject import trace_model

HELD_OUT = 20


@dataclass(frozen=True)
class Wanted:
    """A model whose operations are asked about, and its options.

    Args:
        dense: The model.
        inputs: Inputs of one forward pass.
        layers: As traced.
        menus: Layer name to options.
        seed: Fixes every draw.
        widths: What layers have in common.
        groups: The channels behind the widths.
    """

    dense: nn.Module
    inputs: Inputs
    layers: tuple[Layer, ...]
    menus: Mapping[str, Sequence[Option]]
    seed: int
    widths: tuple[SharedWidth, ...] = ()
    groups: tuple[ChannelGroup, ...] = ()

    @property
    def graph(self) -> FloatGraph:
        """The exported model."""
        return export_float(self.dense, self.layers, self.inputs)


def device_rows() -> list[dict[str, Any]]:
    """One row a device: what it can run, how its costs are known, whether it is here."""
    return [
        {
            "name": device.name,
            "description": device.sheet.description if device.sheet else "",
            "runtime": device.runtime if device.sheet else device.engine.package,
            "version": "" if device.missing() else device.engine.version(),
            "costs": device.costs,
            "format": device.format,
            "activations": list(device.precisions),
            "int8_weight_bits": device.int8_bits if "int8" in device.precisions else None,
            "channel_step": device.channel_step,
            "threads": device.threads,
            "batch_size": device.batch_size,
            "flash_kib": device.sheet.flash_kib if device.sheet else 0,
            "ram_kib": device.sheet.ram_kib if device.sheet else 0,
            "imported": len(imported_table(device).entries) if device.sheet else 0,
            "available": not device.missing(),
            "reason": device.missing(),
        }
        for device in all_devices()
    ]


def measure_device(name: str, folder: Path | None, listener: Listener) -> tuple[Profile, Path]:
    """Times a device's operations and judges the cost model on held-out candidates; of a device
    known from its data sheet, says what is estimated.

    Args:
        name: Device.
        folder: Study whose layers and options are timed; None takes a small reference net.
        listener: Hears of the measurements.

    Returns:
        The prices and how good they are, and where the table is kept.

    Raises:
        DeviceError: If there is no such device, or its runtime is not installed.
    """
    device = get_device(name)
    listener.stage("profile", f"operations of {name}")
    wanted = _wanted(device, folder)
    profile = fit_latency(
        wanted.dense,
        wanted.layers,
        wanted.inputs,
        wanted.menus,
        np.random.default_rng([wanted.seed, 1]),
        device=device,
        held_out=HELD_OUT,
        widths=wanted.widths,
        groups=wanted.groups,
        progress=lambda what, share: listener.progress(round(100 * share), 100, what),
    )
    return profile, imports_path(device) if device.sheet else cache_path(device)


def export_operations(name: str, folder: Path | None, output: Path) -> Coverage:
    """Writes the operations that a study needs as CSV, for measurement on the real device.

    Raises:
        DeviceError: If there is no such device.
        StorageError: If the file cannot be written.
    """
    device = get_device(name)
    wanted = _wanted(device, folder)
    operators = {layer.name for layer in wanted.layers if layer.is_operator}
    classes = {
        name: kernel_classes(menu) for name, menu in wanted.menus.items() if name in operators
    }
    operations = operations_of(wanted.graph, classes, device.precisions)
    table = imported_table(device) if device.sheet else empty_table(device)
    write_operations(output, operations, table)
    known = sum(operation in table.entries for operation in operations)
    return Coverage(known, len(operations) - known)


def import_file(name: str, file: Path) -> tuple[int, Path]:
    """Takes in measurements of the real device; see `import_measurements`."""
    return import_measurements(get_device(name), file)


def recorded_coverage(run: Path) -> Coverage | None:
    """How many of a run's prices were measured; None before it has any."""
    path = run / "device.json"
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, dict):
        raise StorageError(f"{path}: not a device record")
    return Profile.from_dict(record.get("profile", {})).coverage


def _wanted(device: Device, folder: Path | None) -> Wanted:
    if folder is None:
        dense, inputs = reference_model()
        layers = trace(dense, inputs)
        integers = device.suited(Option(bits=8, activations="int8"))
        packed = [
            device.suited(Option(bits=bits, scales=scales, activations="dynamic"))
            for bits in (4, 8)
            for scales in ("channel", "32")
        ]
        options = [Option(), Option(rank=0.5), integers, *packed]
        menus = {
            layer.name: [option for option in options if not reject(option, layer, device)]
            for layer in layers
            if layer.is_treated
        }
        return Wanted(dense, inputs, layers, menus, 0)
    study = load_study(folder, {"device": device.name if not device.sheet else None})
    model = trace_model(study)
    space = build_space(
        model.layers,
        study.space,
        lambda option, layer: reject(option, layer, device),
        study.space_file,
        device.suited,
        model.widths(study),
    )
    return Wanted(
        model.dense,
        model.example_inputs,
        model.layers,
        space.units,
        study.settings.seed,
        space.widths,
        model.groups if space.widths else (),
    )
