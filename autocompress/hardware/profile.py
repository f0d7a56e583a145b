"""Measures what the cost model needs: single operations for its table, candidates for its fit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from autocompress.compression.narrowed import counts_of, narrowed
from autocompress.errors import DeviceError, StorageError
from autocompress.hardware.batches import time_in_batches
from autocompress.hardware.candidates import Menus, candidate_macs, draw_candidates, stand_ins
from autocompress.hardware.clock import Progress, feeds, time_models
from autocompress.hardware.cost_model import Candidate, LatencyPrices, fit_prices
from autocompress.hardware.coverage import Coverage
from autocompress.hardware.device import Device, get_device, kernel_class
from autocompress.hardware.fit import Fit, Point, judge
from autocompress.hardware.measure import isolated_prices, measure_table
from autocompress.hardware.operations import operations_of
from autocompress.hardware.rest import rest_work, tensor_shapes
from autocompress.hardware.roofline import roofline_ms
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.runtime import Program, Values
from autocompress.hardware.timing import Timing
from autocompress.model.channels import ChannelGroup
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option
from autocompress.search_space.widths import SharedWidth

BLOCKS, BLOCK_MS = 40, 3.0
FEWEST = 20  # candidates that a fit takes; with ten the error is a quarter larger
MOST = 100
# Weights of the candidates that are open at once, to be timed in turn.
OPEN_BYTES = 1_500_000_000


@dataclass(frozen=True)
class Profile:
    """What a device costs for one model.

    Args:
        device: Name of the device.
        prices: For the search.
        fit: How far to trust them; None where no whole model can be run, on a device that is known
            from its data sheet.
        coverage: How many of the operations behind the prices were measured.
    """

    device: str
    prices: LatencyPrices
    fit: Fit | None
    coverage: Coverage

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "device": self.device,
            "prices": self.prices.as_dict(),
            "fit": asdict(self.fit) if self.fit else None,
            "coverage": self.coverage.as_dict(),
        }

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Profile:
        """The inverse of `as_dict`.

        Raises:
            StorageError: If a field is missing or malformed.
        """
        try:
            prices = LatencyPrices.from_dict(content["prices"])
            fit = Fit.from_dict(content["fit"]) if content["fit"] else None
            # Before there were estimates every price was measured.
            measured = {"measured": sum(map(len, prices.unit_ms.values())), "estimated": 0}
            coverage = Coverage(**content.get("coverage", measured))
            return Profile(str(content["device"]), prices, fit, coverage)
        except (KeyError, TypeError) as error:
            raise StorageError(f"not a profile of a device: {error!r}") from error


def fit_latency(
    model: nn.Module,
    layers: Sequence[Layer],
    example_inputs: tuple[Tensor, ...],
    menus: Menus,
    generator: np.random.Generator,
    *,
    device: Device | None = None,
    graph: FloatGraph | None = None,
    held_out: int = 8,
    seconds: float = 60.0,
    widths: Sequence[SharedWidth] = (),
    groups: Sequence[ChannelGroup] = (),
    progress: Progress | None = None,
) -> Profile:
    """Measure single operations that are not in the cached table, run whole candidates, fit.

    On a device that is known from its data sheet the prices are the sums of the single operations,
    as they stand.

    Args:
        model: The dense model, in evaluation mode.
        layers: What the trace found.
        example_inputs: Inputs of the timed forward pass; their batch size is the one timed.
        menus: Layer name to its options; the identity is always added.  Layers without a menu stay
            dense and belong to the constant.
        generator: Draws the candidates.
        device: `onnxruntime-cpu` by default.
        graph: The exported model, where the caller has it already.
        held_out: Candidates kept from the fit, to judge it; fewer when there are few in all.
        seconds: CPU time that whole-model runs may take, about.
        widths: What layers have in common.
        groups: The channels behind the widths.
        progress: Called with what is being done and the share that is done.

    Returns:
        Prices for every option of the menus, and their error on candidates the fit did not see.

    Raises:
        DeviceError: If nothing can be treated.
    """
    device = device or get_device("onnxruntime-cpu")
    say = progress or (lambda stage, share: None)
    graph = graph or export_float(model, layers, example_inputs)
    treated = {layer.name: layer for layer in graph.layers if menus.get(layer.name)}
    stored = [layer.name for layer in graph.stored if menus.get(layer.name)]
    if not treated and not stored:
        raise DeviceError("no layer has options: there is no latency to predict")
    classes = {name: kernel_classes(menus[name]) for name in treated}

    start = time.process_time()
    table = measure_table(graph, classes, device, say)
    isolated = isolated_prices(graph, classes, table, device.precisions)
    wanted = operations_of(graph, classes, device.precisions)
    coverage = Coverage.of(table, wanted)
    if device.sheet is not None:
        rest = rest_work(graph, tensor_shapes(graph, example_inputs))
        prices = replace(isolated, constant_ms=roofline_ms(rest, device.sheet))
        return Profile(device.name, _for_menus(prices, menus, stored), None, coverage)
    table_seconds = time.process_time() - start

    start = time.process_time()
    values = feeds(graph, example_inputs)
    dense = candidate_program(model, graph, {}, device)
    runs = _run_count(dense, classes, values, held_out, seconds, device)
    together = [found.layers for found in isolated.sums]
    candidates = draw_candidates(classes, runs + held_out, generator, widths, together)
    makers = [
        partial(candidate_program, model, graph, candidate, device, groups)
        for candidate in candidates
    ]
    most = max(2, OPEN_BYTES // max(1, int(dense.proto.ByteSize())))
    timings = time_in_batches(makers, values, most, BLOCKS, BLOCK_MS, say, device.engine)
    fit_seconds = time.process_time() - start
    prices, points = _fit(isolated, graph.layers, candidates, timings, held_out, generator)
    fit = judge(points, timings, table_seconds, fit_seconds)
    return Profile(device.name, _for_menus(prices, menus, stored), fit, coverage)


def candidate_program(
    model: nn.Module,
    graph: FloatGraph,
    candidate: Candidate,
    device: Device,
    groups: Sequence[ChannelGroup] = (),
) -> Program:
    """A candidate with made-up weights, in the forms that runtimes take.

    Args:
        model: The dense model.
        graph: Exported from it.
        candidate: The choice.
        device: Where it runs.
        groups: The channels that the choice may make fewer.
    """
    treated = stand_ins(graph, candidate)
    proto = assemble(graph, treated, threads=device.threads)
    return Program(proto, lambda: narrowed(model, treated, counts_of(groups)))


def _fit(
    isolated: LatencyPrices,
    layers: Sequence[Layer],
    candidates: Sequence[Candidate],
    timings: Sequence[Timing],
    held_out: int,
    generator: np.random.Generator,
) -> tuple[LatencyPrices, list[Point]]:
    """Prices fitted on all candidates, and what a fit without the held-out ones said of each."""
    measured = np.array([timing.p20_ms for timing in timings])
    # All dense and all int8 come first: a fit without them would have to extrapolate.
    inner = 2 + generator.permutation(max(0, len(candidates) - 2))
    unseen = set(inner[: min(held_out, len(inner) // 2)])
    seen = [index for index in range(len(candidates)) if index not in unseen]
    judged = fit_prices(isolated, [candidates[index] for index in seen], measured[seen])
    points = [
        Point(
            name=" ".join(f"{layer}={option.id}" for layer, option in candidate.items()),
            predicted_ms=judged.predict(candidate),
            measured_ms=float(measured[index]),
            macs=candidate_macs(layers, candidate),
            held_out=index in unseen,
        )
        for index, candidate in enumerate(candidates)
    ]
    return fit_prices(isolated, candidates, measured), points


def kernel_classes(menu: Sequence[Option]) -> tuple[Option, ...]:
    """Kernel classes of a menu; the identity comes first."""
    return tuple(dict.fromkeys([Option(), *(kernel_class(option) for option in menu)]))


def _for_menus(prices: LatencyPrices, menus: Menus, stored: Sequence[str] = ()) -> LatencyPrices:
    """Prices by option instead of by kernel class; layers that are only stored have none of their
    own, for what they take is part of the constant."""
    units = {
        name: {
            option.id: prices.unit(name, option)
            for option in dict.fromkeys([Option(), *menus[name]])
        }
        for name in prices.unit_ms
    }
    for name in stored:
        units[name] = {option.id: 0.0 for option in dict.fromkeys([Option(), *menus[name]])}
    return replace(prices, unit_ms=units)


def _run_count(
    dense: Program,
    classes: Menus,
    values: Values,
    held_out: int,
    seconds: float,
    device: Device,
) -> int:
    """How many candidates to calibrate on: twenty, and more for the prices where time allows."""
    timed = time_models({"dense": dense}, values, blocks=3, runtime=device.engine)
    once = timed["dense"].p20_ms
    affordable = int(1000 * seconds / (BLOCKS * max(BLOCK_MS, once)))
    wanted = 10 + 3 * sum(map(len, classes.values())) // 2
    return max(FEWEST, min(wanted, MOST, affordable - held_out))
