"""Looks at a study without running it: the layers with their shares, and what the model takes."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from autocompress.errors import ConfigError
from autocompress.hardware.device import reject
from autocompress.hardware.measure import measure_table
from autocompress.hardware.runtimes.single_op import layer_signature
from autocompress.model.channels import group_rows
from autocompress.search_space.option import Option
from autocompress.search_space.space import build_space
from autocompress.study.config import Study
from autocompress.study.footprint import Footprints
from autocompress.study.subject import Model, trace_model

# Why a group that torch could make narrower is left whole.
LEFT = "its layers are not all treated, read and make it at once, or the exported graph fixes it"


def layer_shares(study: Study, model: Model | None = None) -> list[dict[str, Any]]:
    """One row a layer for `report.tables.layers_table`.

    The latency share is that of the layer's float operation timed alone; layers that are not
    treated are not timed.

    Args:
        study: Names the device.
        model: The traced model, where it is at hand.
    """
    model = model or trace_model(study)
    try:
        space = build_space(
            model.layers,
            study.space,
            lambda option, layer: reject(option, layer, study.device, study.settings.format),
            study.space_file,
            study.device.suited,
            model.widths(study),
        )
        menus = space.units
    except ConfigError:
        menus = {}
    timed = [layer for layer in model.layers if layer.name in menus and layer.is_operator]
    classes = {layer.name: (Option(),) for layer in timed}
    table = measure_table(model.graph, classes, study.device) if classes else None
    times = {
        layer.name: layer.calls
        * table.p20_ms(layer_signature(layer, model.graph.modules[layer.name], Option()))
        for layer in timed
        if table
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


def dense_footprint(study: Study, model: Model) -> dict[str, Any]:
    """Energy and memory of the original, both estimated, and what of the device's it takes."""
    found = Footprints(model, study.device)
    footprint = found.of({})
    return {
        **footprint.as_dict(),
        "rooms": [
            asdict(room) | {"fits": room.fits} for room in found.rooms(footprint, model.size_bytes)
        ],
    }


def channel_groups(study: Study, model: Model) -> list[dict[str, Any]]:
    """One row a channel group: who makes and reads it, its widths, or why it keeps its width."""
    free = {group.name for group in model.groups}
    groups = [
        group if group.frozen or group.name in free else replace(group, frozen=LEFT)
        for group in model.channel_groups
    ]
    return group_rows(groups, study.device.channel_step)
