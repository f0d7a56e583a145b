"""The user's model and data as a run sees them: traced, split, hashed, with their menus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from autocompress.compression.bank import fingerprint, recipe
from autocompress.compression.calibration import Calibration
from autocompress.compression.channels import Channels, usable
from autocompress.compression.treated import Treated
from autocompress.errors import ConfigError, DataError, TaskError
from autocompress.hardware.device import Device, reject
from autocompress.hardware.runtimes.float_graph import Dimension, FloatGraph, sketch
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.model.canonical import canonical
from autocompress.model.channels import ChannelGroup
from autocompress.model.grouping import find_groups
from autocompress.model.layer import Layer
from autocompress.model.memory import safetensors_bytes
from autocompress.model.task import Inputs
from autocompress.model.trace import run, trace
from autocompress.objective.scores import labels_key
from autocompress.search_space.space import Space, build_space
from autocompress.search_space.widths import SharedWidth, share_widths
from autocompress.study.config import Study
from autocompress.study.events import Listener
from autocompress.study.knobs import Knobs, protected, sparing
from autocompress.study.lengths import free_dimensions, shortened
from autocompress.study.narrowing import held_by_graph, ordered_channels
from autocompress.study.traced import NAME as TRACE
from autocompress.study.traced import is_faithful, read_trace, trace_key

FEWEST = 32  # calibration examples
UNEXPORTED = "without an export there is --device torch-cpu --format archive"


@dataclass(frozen=True)
class Model:
    """The user's model and data, traced and split.

    Args:
        dense: The original in evaluation mode, in canonical form.
        layers: Every layer, in running order.
        example_inputs: One input as the device sees it.
        calibration: The calibration inputs that are used, in the user's order.
        content: Hash of weights and of all calibration inputs.
        knobs: How the calibration inputs are shared out, and the damping.
        draw: Number of the order of the calibration inputs; 0 is the user's.
        trace_key: Says what the trace depends on; empty when it cannot be told.
        labels: Class numbers of the calibration inputs; only read where the proxy needs them.
        known_graph: The float ONNX graph, if an earlier command of the run has exported it.
        original: The original as the user gave it; None where that is `dense`.
        forms: How many modules of it were brought down to treatable layers.
        dynamic: Dimensions of inputs, besides the batch, that are free in the exported graph.
        is_run_as_module: Whether neither the device nor the storage format needs an ONNX graph.
    """

    dense: nn.Module
    layers: tuple[Layer, ...]
    example_inputs: Inputs
    calibration: Inputs
    content: str
    knobs: Knobs = Knobs()
    draw: int = 0
    trace_key: str = ""
    labels: Tensor | None = None
    known_graph: FloatGraph | None = None
    original: nn.Module | None = None
    forms: int = 0
    dynamic: tuple[Dimension, ...] = ()
    is_run_as_module: bool = False

    @property
    def key(self) -> str:
        """What the bank's entries and a candidate's loss depend on, the options aside."""
        return f"{self.content} {self.knobs.measured}" + f" draw={self.draw}" * bool(self.draw)

    @cached_property
    def cost_inputs(self) -> Inputs:
        """The part that options are fitted to and priced on."""
        return tuple(tensor[: self._cut] for tensor in self.calibration)

    @cached_property
    def search_inputs(self) -> Inputs:
        """The part on which candidates are compared."""
        return tuple(tensor[self._cut :] for tensor in self.calibration)

    @property
    def search_labels(self) -> Tensor | None:
        """Labels of the search inputs, if there are any."""
        return None if self.labels is None else self.labels[self._cut :]

    def proxy_key(self, proxy: str) -> str:
        """What tells one proxy from another: its name and, where it has any, its labels."""
        return proxy if self.labels is None else f"{proxy} {labels_key(self.labels)}"

    @property
    def _cut(self) -> int:
        return round((1 - self.knobs.search_share) * len(self.calibration[0]))

    @cached_property
    def graph(self) -> FloatGraph:
        """The float ONNX graph, exported once.

        Raises:
            TaskError: If the model cannot be exported, or not so that it gives the same outputs.
        """
        if self.known_graph:
            return self.known_graph
        try:
            graph = export_float(self.dense, self.layers, self.example_inputs, self.dynamic)
        except TaskError as error:
            if self.is_run_as_module:
                return sketch(self.dense, self.layers, self.example_inputs)
            raise TaskError(f"{error}; {UNEXPORTED}") from error
        shorter = shortened(self.example_inputs, self.dynamic)
        faithful = is_faithful(graph, self.dense, self.example_inputs)
        if faithful and self.dynamic and not is_faithful(graph, self.dense, shorter):
            raise TaskError(
                "the exported ONNX graph is wrong for other lengths than the example's"
            )
        if not faithful:
            raise TaskError(
                "the exported ONNX graph does not give the model's outputs on the example inputs;"
                " please report it with the model"
            )
        return graph

    @cached_property
    def statistics(self) -> Calibration:
        """Second moments and grids of the treated layers on the cost inputs, a few at a time."""
        treated = [layer for layer in self.layers if layer.is_treated]
        return Calibration(self.dense, treated, self.cost_inputs, self.knobs.damping)

    @cached_property
    def size_bytes(self) -> int:
        """The original as one plain safetensors file."""
        return safetensors_bytes(_state(self.original or self.dense))

    @property
    def state(self) -> dict[str, Tensor]:
        """Every tensor of `dense` once, shared ones under their first name."""
        return _state(self.dense)

    def rest(self, treated: Mapping[str, Treated]) -> dict[str, Tensor]:
        """The tensors of `state` that do not belong to treated layers."""
        return {
            key: tensor
            for key, tensor in self.state.items()
            if key.rpartition(".")[0] not in treated
        }

    @cached_property
    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """Every channel group, verified on the example inputs; some are frozen.

        Raises:
            TaskError: If the model fails on NaN.
        """
        return find_groups(self.dense, self.layers, self.example_inputs)

    @cached_property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """Those that a search may make narrower, in torch and in the exported graph.

        Raises:
            TaskError: If the model fails on NaN, or cannot be exported.
        """
        if not self.graph.is_exported:
            return ()
        treated = {layer.name: layer for layer in self.layers if layer.is_treated}
        chosen = usable(self.channel_groups, treated)
        return tuple(held_by_graph(self.graph, self.dense, chosen, self.example_inputs))

    def widths(self, study: Study) -> tuple[SharedWidth, ...]:
        """What layers have in common, for the shares of channels that the search space names."""
        shares = study.space.channels
        if min(shares) == 1:
            return ()
        layers = {layer.name: layer for layer in self.layers}
        return share_widths(self.groups, layers, shares, study.device.channel_step)

    def channels(self, widths: Sequence[SharedWidth], path: Path) -> Channels:
        """Which channels stay in the groups that are made narrower.

        Args:
            widths: What is made narrower.
            path: Where a run keeps the order in which channels go.
        """
        names = {width.name for width in widths}
        groups = tuple(group for group in self.groups if group.name in names) if names else ()
        return ordered_channels(
            self.dense, groups, lambda name: self.statistics[name], self.key, path
        )

    def layer(self, name: str) -> Layer:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)


def _state(module: nn.Module) -> dict[str, Tensor]:
    seen: set[int] = set()
    kept = {}
    for name, tensor in module.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor.detach()
    return kept


def trace_model(study: Study, folder: Path | None = None) -> Model:
    """Builds the user's model and finds its layers.

    Args:
        study: What is asked.
        folder: A run directory, whose trace is used if it was made from the same.

    Raises:
        TaskError: If the model or its output is not usable.
        DataError: If there are too few calibration inputs, or the model does not take them.
    """
    original = study.task.model()
    example_inputs = study.task.example_inputs()
    dense, forms = canonical(original, example_inputs)
    calibration = study.task.calibration()
    knobs = study.settings.knobs
    if 0 < knobs.calibration < FEWEST:
        raise ConfigError(
            f"{study.name}: knob calibration = {knobs.calibration}: expected 0, which takes all,"
            f" or at least {FEWEST} examples"
        )
    if len(calibration[0]) < FEWEST:
        raise DataError(
            f"{study.task.origin}: calibration() gives {len(calibration[0])} examples; at least"
            f" {FEWEST} are needed, 500 or more are better"
        )
    content = fingerprint(dense, calibration)
    dynamic = free_dimensions(study, example_inputs)
    key = trace_key(dense, content, example_inputs, dynamic)
    known = read_trace(folder / TRACE, dense, key, example_inputs) if folder else None
    layers, graph = known or (trace(dense, example_inputs), None)
    try:
        run(dense, tuple(tensor[:1] for tensor in calibration))
    except TaskError as error:
        raise DataError(f"{study.task.origin}: calibration(): {error}") from error
    used = tuple(tensor[: knobs.calibration or None] for tensor in calibration)
    labels = None
    if study.objective.proxy == "task":
        labels = study.task.labels(len(calibration[0]))
        labels = labels if labels is None else labels[: knobs.calibration or None]
    return Model(
        dense,
        layers,
        example_inputs,
        used,
        content,
        knobs,
        trace_key=key,
        labels=labels,
        known_graph=graph,
        original=original,
        forms=forms,
        dynamic=dynamic,
        is_run_as_module=study.settings.format == "archive" and not _reads_onnx(study.device),
    )


def _reads_onnx(device: Device) -> bool:
    return device.sheet is not None or device.engine.reads_onnx


def look(study: Study, listener: Listener, folder: Path | None = None) -> tuple[Model, Space]:
    """What there is and what may be done with it; writes nothing.

    Args:
        study: What is asked.
        listener: Hears of the stage.
        folder: A run directory, whose trace is used if it was made from the same.

    Raises:
        AutocompressError: If the model, the data or the search space is not usable.
    """
    listener.stage("trace", "finding layers")
    model = trace_model(study, folder)
    offered = [layer for layer in model.layers if study.space.selects(layer.name)]
    refused = sparing(
        lambda option, layer: reject(option, layer, study.device, study.settings.format),
        protected(offered, study.settings.knobs.protect),
    )
    space = build_space(
        model.layers,
        study.space,
        refused,
        study.space_file,
        study.device.suited,
        model.widths(study),
    )
    return model, space


def made_from(study: Study, model: Model, space: Space) -> dict[str, str]:
    """What may not change in a run directory, by the name that a message gives it."""
    menus = json.dumps([menus_of(space), study.space.menu])
    return {
        "model or calibration data": model.content[:16],
        "set of knobs": model.knobs.measured,
        "search space": hashlib.sha256(menus.encode()).hexdigest()[:16],
        "version of the compression code": recipe()[:16],
        "device": study.device.name,
        "storage format": study.settings.format,
        "proxy": model.proxy_key(study.objective.proxy),
    }


def menus_of(space: Space) -> dict[str, list[str]]:
    """Unit to option ids, as stored."""
    return {unit: [option.id for option in menu] for unit, menu in space.units.items()}


def space_key(model: Model, space: Space, *more: object) -> str:
    """Hash of what was compressed, from which menus, by which code, and anything else."""
    text = json.dumps([model.key, menus_of(space), recipe(), *map(str, more)])
    return hashlib.sha256(text.encode()).hexdigest()
