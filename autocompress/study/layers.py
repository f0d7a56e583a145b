"""Looks at a study without running it: the layers with their shares, and the device with its cost
model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autocompress.errors import ConfigError
from autocompress.hardware.device import get_device, reject
from autocompress.hardware.fit import Fit
from autocompress.hardware.measure import measure_table
from autocompress.hardware.profile import fit_latency
from autocompress.hardware.reference import reference_model
from autocompress.hardware.runtimes.single_op import layer_signature
from autocompress.hardware.table import cache_path
from autocompress.model.trace import trace
from autocompress.search_space.option import Option
from autocompress.search_space.space import build_space
from autocompress.search_space.widths import SharedWidth
from autocompress.study.config import Study, load_study
from autocompress.study.events import Listener
from autocompress.study.subject import trace_model

HELD_OUT = 20


def layer_shares(study: Study) -> list[dict[str, Any]]:
    """One row a layer for `report.tables.layers_table`.

    The latency share is that of the layer's float operation timed alone; layers that are not
    treated are not timed.
    """
    model = trace_model(study)
    try:
        space = build_space(
            model.layers,
            study.space,
            lambda option, layer: reject(option, layer, study.device, study.settings.storage),
            study.space_file,
            study.device.suited,
            model.widths(study),
        )
        menus = space.units
    except ConfigError:
        menus = {}
    classes = {name: (Option(),) for name in menus}
    table = measure_table(model.graph, classes, study.device) if classes else None
    times = {
        layer.name: table.p20_ms(layer_signature(layer, model.graph.modules[layer.name], Option()))
        for layer in model.layers
        if table and layer.name in classes
    }
    parameters = sum(layer.parameters for layer in model.layers) or 1
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "weight_shape": list(layer.weight_shape),
            "parameters": layer.parameters,
            "macs": layer.macs,
            "treated": layer.name in menus,
            "reason": layer.reason
            or ("" if layer.name in menus else "excluded by the search space"),
            "size_share": layer.parameters / parameters,
            "latency_share": times[layer.name] / sum(times.values())
            if layer.name in times
            else None,
            "options": len(menus.get(layer.name, ())),
        }
        for layer in model.layers
    ]


def measure_device(name: str, folder: Path | None, listener: Listener) -> tuple[Fit, Path]:
    """Times a device's operations and judges the cost model on held-out candidates.

    Args:
        name: Device.
        folder: Study whose layers and options are timed; None takes a small reference net.
        listener: Hears of the measurements.

    Returns:
        How good the model is, and where the table is kept.

    Raises:
        DeviceError: If there is no such device.
    """
    device = get_device(name)
    listener.stage("profile", f"timing operations on {name}")
    if folder is None:
        dense, inputs = reference_model()
        layers, seed = trace(dense, inputs), 0
        menu = (Option(), Option(rank=0.5), Option(bits=7, activations="int8"))
        widths: tuple[SharedWidth, ...] = ()
        menus: dict[str, Any] = {layer.name: menu for layer in layers if layer.is_treated}
    else:
        study = load_study(folder, {"device": name})
        model = trace_model(study)
        dense, inputs, layers = model.dense, model.example_inputs, model.layers
        seed = study.settings.seed
        space = build_space(
            layers,
            study.space,
            lambda option, layer: reject(option, layer, device),
            study.space_file,
            device.suited,
            model.widths(study),
        )
        menus, widths = dict(space.units), space.widths
    profile = fit_latency(
        dense,
        layers,
        inputs,
        menus,
        np.random.default_rng([seed, 1]),
        device=device,
        held_out=HELD_OUT,
        widths=widths,
        progress=lambda what, share: listener.progress(round(100 * share), 100, what),
    )
    return profile.fit, cache_path(device)
