"""Candidates for calibration: drawn over kernel classes, with made-up weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.compression.treated import Treated
from autocompress.hardware.cost_model import Candidate
from autocompress.hardware.device import kernel_class
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.stand_in import GRID, RECTIFIED, output_grid, stand_in
from autocompress.hardware.work import layer_work
from autocompress.model.layer import Layer
from autocompress.search_space.option import ACTIVATIONS, Option
from autocompress.search_space.widths import SharedWidth, at_levels

Menus = Mapping[str, Sequence[Option]]


def draw_candidates(
    classes: Menus,
    count: int,
    generator: np.random.Generator,
    widths: Sequence[SharedWidth] = (),
    together: Sequence[Sequence[str]] = (),
) -> list[dict[str, Option]]:
    """Distinct candidates of kernel classes: all dense, all int8, all on packed weights where
    there are such kernels, then random mixtures.

    The share of int8 layers differs from one to the next, so that every amount of mixing occurs;
    where layers may run on packed weights, every other mixture has those in the place of int8, or
    both.  Layers that share a width have it in common: each width that all may have comes once in
    each type of activations, and half of the mixtures are narrow.  Fewer than `count` come back
    when there are no more.

    Args:
        classes: Layer name to its kernel classes.
        count: Most candidates.
        generator: Draws them.
        widths: What layers have in common.
        together: Layers around a residual addition: chance alone would rarely make all of them
            int8, as such a set may be in half of the mixtures.
    """
    full = at_levels(classes, widths, {width.name: 0 for width in widths})
    offered = {option.activations for menu in classes.values() for option in menu}
    kinds = [kind for kind in ACTIVATIONS if kind in offered | {"float32", "int8"}]
    drawn: list[dict[str, Option]] = []
    for level in range(max((width.levels for width in widths), default=1)):
        levels = {width.name: min(level, width.levels - 1) for width in widths}
        menus = at_levels(classes, widths, levels)
        for wanted in kinds:
            uniform = {name: _plain(menu, wanted) for name, menu in menus.items()}
            drawn += [uniform] if uniform not in drawn and len(drawn) < count else []
    tries = 0
    while len(drawn) < count and tries < 50 * count:
        tries += 1
        share = generator.random()
        chosen: Menus = full
        if widths and len(drawn) % 2:
            levels = {width.name: int(generator.integers(width.levels)) for width in widths}
            chosen = at_levels(classes, widths, levels)
        grouped = bool(together) and len(drawn) % 4 > 1
        joined = [group for group in together if grouped and generator.random() < share]
        packed = generator.random() if "dynamic" in kinds and tries % 2 else 0.0
        candidate = {}
        for name, menu in chosen.items():
            is_int8 = generator.random() < share or any(name in group for group in joined)
            wanted = "int8" if is_int8 else "float32"
            if "dynamic" in kinds and generator.random() < packed:
                wanted = "dynamic"
            options = [option for option in menu if option.activations == wanted] or list(menu)
            candidate[name] = options[int(generator.integers(len(options)))]
        if candidate not in drawn:
            drawn.append(candidate)
    return drawn


def _plain(menu: Sequence[Option], activations: str) -> Option:
    """The first option with such activations, or else the first of all."""
    return next((option for option in menu if option.activations == activations), menu[0])


def stand_ins(graph: FloatGraph, candidate: Candidate) -> dict[str, Treated]:
    """Made-up treatments with the kernels of a candidate; grids of neighbours agree."""
    grids = {layer.name: output_grid(layer) for layer in graph.layers}
    read = {
        reader: RECTIFIED if found.around.is_rectified else GRID
        for found in graph.sums.values()
        for reader in found.around.readers
    }
    return {
        layer.name: stand_in(
            layer,
            graph.modules[layer.name],
            kernel_class(candidate[layer.name]),
            read.get(layer.name) or grids.get(layer.source, GRID),
        )
        for layer in graph.layers
        if not kernel_class(candidate.get(layer.name, Option())).is_identity
    }


def candidate_macs(layers: Sequence[Layer], candidate: Candidate) -> float:
    """Multiply-adds of a candidate's treated layers for the example inputs."""
    total = 0.0
    for layer in layers:
        option = candidate.get(layer.name, Option())
        total += layer.calls * sum(work.macs for work in layer_work(layer, option))
    return total
