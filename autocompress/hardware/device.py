"""The devices that can be priced, and which options each can store and run."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

from autocompress.errors import DeviceError
from autocompress.hardware.energy import HOROWITZ, Energy
from autocompress.hardware.processor import exact_bits, int8_instructions, processor_name
from autocompress.hardware.runtimes.catalogue import RUNTIMES
from autocompress.hardware.runtimes.runtime import Runtime
from autocompress.hardware.sheet import FOLDER, DataSheet, load_sheet
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option
from autocompress.toml import presets


@dataclass(frozen=True)
class Device:
    """Where a model will run.

    Args:
        name: Name in a study, such as `onnxruntime-cpu`.
        runtime: What runs the model, one of `RUNTIMES`, or a name where nothing does here.
        threads: Threads inside one operator.
        batch_size: Rows of one forward pass; 0 takes that of the example inputs.
        format: Storage format by default, `archive` or `onnx`.
        precisions: Activation types that have kernels: `float32`, `int8`, and `dynamic`, which
            are rounded to int8 at each call.
        channel_step: Counts of channels that are no multiple of it are not faster than the next.
        int8_bits: Most bits of a weight that the int8 kernels take at full speed, with exact sums.
        energy: What operations and bytes cost there; None where no figure is known.
        sheet: Data sheet of a device that is not here; None for one that is measured.
    """

    name: str
    runtime: str
    threads: int = 1
    batch_size: int = 0
    format: str = "archive"
    precisions: tuple[str, ...] = ("float32", "int8")
    channel_step: int = 8
    int8_bits: int = 8
    energy: Energy | None = HOROWITZ
    sheet: DataSheet | None = None

    def suited(self, option: Option) -> Option:
        """The option itself, or the nearest one that runs on the device's fast kernels."""
        if option.activations != "float32" and option.kernel_bits > self.int8_bits:
            return replace(option, bits=self.int8_bits - option.affine)
        return option

    @property
    def costs(self) -> str:
        """How latency is known: `measured` here, or `estimated` from a data sheet."""
        return "measured" if self.sheet is None else "estimated"

    def missing(self) -> str:
        """Why nothing can be run on it here; empty when models can."""
        if self.sheet is not None:
            return "not here: its times are estimates, or imported measurements"
        return self.engine.missing()

    @property
    def engine(self) -> Runtime:
        """What opens models and looks at what really runs.

        Raises:
            DeviceError: If the device is known from its data sheet only.
        """
        if self.sheet is not None:
            raise DeviceError(f"{self.name} is known from its data sheet: nothing runs on it here")
        return RUNTIMES[self.runtime]

    @property
    def file_engine(self) -> Runtime:
        """What runs the ONNX file that ships: the device's runtime where that is here and reads
        such files."""
        has_own = self.sheet is None and self.engine.reads_onnx
        return self.engine if has_own else RUNTIMES["onnxruntime"]


def get_device(name: str, relative_to: Path | None = None) -> Device:
    """The device of that name.

    Args:
        name: One that is measured here, a data sheet of `objectives/devices/`, or the path of
            one's own, ending in `.toml`.
        relative_to: Folder that relative paths start from.

    Raises:
        DeviceError: If there is none; lists those that exist.
        ConfigError: If its data sheet is malformed.
    """
    if name in DEVICES:
        return DEVICES[name]
    sheets = presets(FOLDER)
    if name not in sheets and not name.endswith(".toml"):
        raise DeviceError(
            f"device {name!r}: known are {', '.join([*DEVICES, *sheets])}"
            " (or give the path of a data sheet ending in .toml)"
        )
    sheet, _ = load_sheet(name, relative_to)
    energy = Energy(sheet.float32_mac_pj, sheet.int8_mac_pj, sheet.byte_pj)
    return Device(
        name,
        sheet.runtime,
        sheet.threads,
        sheet.batch_size,
        sheet.format,
        sheet.precisions,
        sheet.channel_step,
        energy=energy if sheet.byte_pj else None,
        sheet=sheet,
    )


def all_devices() -> list[Device]:
    """Every device there is a name for, the measured ones first."""
    return [*DEVICES.values(), *(get_device(name) for name in presets(FOLDER))]


def machine_fingerprint(device: Device) -> dict[str, str]:
    """What a measured time depends on: processor and its instructions for int8, cores, runtime
    version and threads; of an estimate, the data sheet."""
    if device.sheet is not None:
        content = device.sheet.model_dump_json(exclude={"description"})
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        return {"runtime": device.runtime, "threads": str(device.threads), "sheet": digest}
    return {
        "processor": processor_name(),
        "int8": int8_instructions(),
        "cores": str(os.cpu_count()),
        "runtime": f"{device.runtime} {device.engine.version()}",
        "threads": str(device.threads),
        "system": platform.system(),
    }


def kernel_class(option: Option) -> Option:
    """The option that stands for all those the clock cannot tell apart.

    Codes, zeros and method change what is stored, not which kernels run: weights of eight bits
    or fewer with float activations are unfolded when the session loads.  Seven bits stand for the
    int8 kernels, for every processor runs these at full speed (`Device.suited`).  Kernels of
    packed weights differ by their bits, 4 or 8, by what shares a step, and by zero points.
    """
    plain = Option(
        rank=option.rank, tucker=option.tucker, inputs=option.inputs, outputs=option.outputs
    )
    if option.activations == "dynamic":
        is_run, bits = bool(option.group), 4 if option.bits <= 4 else 7
        scales = option.scales if is_run else "channel"
        return replace(
            plain, bits=bits, scales=scales, affine=option.affine, activations="dynamic"
        )
    if option.activations == "int8":
        return replace(plain, bits=7, activations="int8")
    return plain


def reject(
    option: Option, layer: Layer, device: Device | None = None, format: str = "archive"
) -> str:
    """Why an option cannot be stored or run for a layer; empty when it can.

    Args:
        option: What is asked for.
        layer: Which layer.
        device: Where it runs; `onnxruntime-cpu` by default.
        format: `archive` holds any option; `onnx` only the types that ONNX has.
    """
    device = device or DEVICES["onnxruntime-cpu"]
    if option.is_identity:
        return ""
    if layer.reason:
        return layer.reason
    if not layer.is_operator and (option.activations != "float32" or option.is_factored):
        return f"{layer.kind} is only stored in fewer bytes: it has no int8 kernel and no factors"
    if option.activations not in device.precisions:
        return f"{device.name} has no {option.activations} kernels"
    if option.is_factored and layer.groups > 1:
        return f"a convolution in {layer.groups} groups is not factored"
    if option.tucker < 1 and (reason := _no_core(option, layer)):
        return reason
    if option.activations == "dynamic" and (reason := _no_packed(option, layer)):
        return reason
    if option.activations != "float32" and option.kernel_bits > device.int8_bits:
        return (
            f"int8 kernels of {device.runtime} overflow on this processor with weights of more"
            f" than {device.int8_bits} bits"
        )
    if option.pattern and (reason := _no_pattern(option, layer)):
        return reason
    if option.rank < 1 and layer.rank(option.rank) >= layer.full_rank:
        return f"a rank of {option.rank:g} of {layer.full_rank} leaves nothing out"
    if format != "onnx":
        return ""
    if option.zeros or option.rate:
        return "an ONNX file stores zeros like any other value"
    if option.activations == "dynamic" and layer.tied:
        return f"an ONNX file would hold the weight twice, packed and for {layer.tied[0]}"
    if option.activations == "dynamic":
        return "" if option.bits in (4, 7, 8) else "an ONNX file packs weights in 4 or 8 bits"
    if option.codebook or option.affine or option.group:
        return "an ONNX file holds symmetric codes with one scale for each channel or for all"
    allowed = (7, 8) if option.activations == "int8" else (4, 8, 16, 32)
    if option.bits not in allowed:
        kernels = " for int8 kernels" if option.activations == "int8" else ""
        return (
            f"an ONNX file holds {', '.join(map(str, allowed))} bits{kernels}, not {option.bits}"
        )
    return ""


def _no_packed(option: Option, layer: Layer) -> str:
    """Why a layer cannot run on packed weights; empty when it can."""
    if layer.kind != "Linear":
        return "kernels of packed weights are those of linear layers"
    if option.bits == 1:
        return "kernels of packed weights take 2 to 8 bits"
    if option.inputs < 1:
        return "kernels of packed weights round runs of inputs, which all have to be there"
    return ""


def _no_core(option: Option, layer: Layer) -> str:
    """Why a layer cannot be put around a core; empty when it can."""
    if layer.kind != "Conv2d" or max(layer.weight_shape[2:]) == 1:
        return "a Tucker core needs a Conv2d larger than 1x1"
    if option.zeros:
        return "factors around a Tucker core are not pruned"
    if layer.core(option.tucker) == layer.weight_shape[1::-1]:
        rows, columns = layer.weight_shape[:2]
        return f"a core of {option.tucker:g} of {columns} and {rows} channels leaves nothing out"
    return ""


def _no_pattern(option: Option, layer: Layer) -> str:
    """Why a pattern cannot be laid along a layer's inputs; empty when it can."""
    counted = [layer.weight_shape[1]]
    if option.rank < 1:
        counted.append(layer.rank(option.rank))
    _, run = option.kept_of
    for inputs in counted:
        if inputs % run:
            return f"{inputs} inputs are no whole runs of {run} for the pattern {option.pattern}"
    return ""


DEVICES = {
    device.name: device
    for device in (
        Device(
            "onnxruntime-cpu",
            "onnxruntime",
            precisions=("float32", "int8", "dynamic"),
            int8_bits=exact_bits(),
        ),
        Device("openvino-cpu", "openvino", int8_bits=exact_bits()),
        Device("openvino-cpu-bf16", "openvino-bf16", int8_bits=exact_bits()),
        Device("torch-cpu", "torch", precisions=("float32",)),
        Device("torch-cuda", "torch-cuda", precisions=("float32",)),
    )
}
