"""Known answers of the roofline, of energy and of peak memory, all by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autocompress.hardware.energy import HOROWITZ
from autocompress.hardware.memory import peak_bytes
from autocompress.hardware.operations import operations_of
from autocompress.hardware.rest import rest_work, tensor_shapes
from autocompress.hardware.roofline import estimates, roofline_ms
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.sheet import DataSheet
from autocompress.hardware.work import Work, boundary_work, layer_work
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.search_space.option import Option

# 2 and 8 multiply-adds a nanosecond, 1 byte a nanosecond, 1 microsecond an operator.
SHEET = DataSheet(
    runtime="paper", float32_gmacs=2.0, int8_gmacs=8.0, bandwidth_gb_s=1.0, overhead_us=1.0
)
INT8 = Option(bits=8, activations="int8")
# 64 outputs of 32 inputs with a bias; 2 048 multiply-adds.
LINEAR = Layer("fc", "Linear", (64, 32), 2112, 2048, 1, (1, 32), (1, 64))
# 8 channels of 4, kernels of 3 x 3, 10 x 10 places; 28 800 multiply-adds.
CONV = Layer("conv", "Conv2d", (8, 4, 3, 3), 288, 28_800, 1, (1, 4, 10, 10), (1, 8, 10, 10))


def test_a_layer_bound_by_memory() -> None:
    (work,) = layer_work(LINEAR, Option())
    assert (work.macs, work.read_bytes, work.written_bytes) == (2048, 4 * 32, 4 * 64)
    assert work.weight_bytes == 4 * 2048 + 4 * 64
    # 8 832 bytes take 8.832 us, the products 1.024 us.
    assert roofline_ms([work], SHEET) == pytest.approx(0.008832 + 0.001)


def test_a_layer_bound_by_arithmetic_and_the_same_on_integers() -> None:
    (dense,) = layer_work(CONV, Option())
    assert roofline_ms([dense], SHEET) == pytest.approx(28_800 / 2e6 + 0.001)
    (small,) = layer_work(CONV, INT8)
    assert small.moved_bytes == 400 + 800 + 288
    assert roofline_ms([small], SHEET) == pytest.approx(28_800 / 8e6 + 0.001)


def test_a_factored_layer_is_two_operators() -> None:
    first, second = layer_work(CONV, Option(rank=0.5))  # 4 ranks of 8
    assert (first.macs, second.macs) == (100 * 4 * 36, 100 * 8 * 4)
    assert first.written_bytes == second.read_bytes == 4 * 100 * 4
    alone = roofline_ms([first], SHEET) + roofline_ms([second], SHEET)
    assert roofline_ms([first, second], SHEET) == pytest.approx(alone)
    narrow, _ = layer_work(CONV, Option(bits=8, rank=0.5, activations="int8"))
    assert narrow.written_bytes == 100 * 4
    assert narrow.weight_bytes == 4 * 36


def test_a_layer_around_a_core_is_three_operators() -> None:
    strided = replace(CONV, macs=7_200, output_shape=(1, 8, 5, 5))
    first, core, last = layer_work(strided, Option(tucker=0.5))  # 2 of 4 channels, 4 of 8
    # What comes before the taps runs at every place of the input.
    assert [part.macs for part in (first, core, last)] == [100 * 8, 25 * 72, 25 * 32]
    assert first.read_bytes == 4 * 400
    assert first.written_bytes == core.read_bytes == 4 * 200
    assert core.written_bytes == last.read_bytes == 4 * 100
    assert last.written_bytes == 4 * 200
    assert [part.weight_bytes for part in (first, core, last)] == [4 * 8, 4 * 72, 4 * 32]
    ends = layer_work(replace(strided, parameters=296), Option(8, tucker=0.5, activations="int8"))
    assert [part.weight_bytes for part in ends] == [8, 72, 32 + 4 * 8]
    half = Option(tucker=0.5, inputs=0.5, outputs=0.5)
    assert [part.macs for part in layer_work(strided, half)] == [100 * 2, 25 * 36, 25 * 16]


def test_a_change_of_precision_moves_bytes_alone() -> None:
    up, down = (boundary_work(f"{name}Linear", (2, 50)) for name in ("Quantize", "Dequantize"))
    assert (up.macs, up.read_bytes, up.written_bytes) == (0, 400, 100)
    assert (down.read_bytes, down.written_bytes) == (100, 400)
    assert roofline_ms([up], SHEET) == pytest.approx(500 / 1e6 + 0.001)


def test_estimates_have_no_blocks(mixed) -> None:
    graph = export_float(mixed.model, mixed.layers, mixed.example)
    operations = operations_of(graph, {"head": (Option(), INT8)})
    found = estimates(operations, SHEET)
    assert found.keys() == operations.keys()
    assert all(entry.p20_ms > 0 and not entry.is_measured for entry in found.values())


def test_energy_of_horowitz() -> None:
    work = [Work("float32", 1000, 100, 50, 10), Work("int8", 2000, 0, 40)]
    picojoules = 1000 * 4.6 + 2000 * 0.3 + 200 * 162.5
    assert HOROWITZ.millijoules(work) == pytest.approx(picojoules / 1e9)


class Residual(nn.Module):
    """4 x 8 x 8 values; the first tensor lives until the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 16, 3, padding=1)
        self.narrow = nn.Conv2d(16, 4, 1)
        self.head = nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.narrow(self.wide(x).relu())
        return self.head(x.flatten(1))


def test_peak_memory_counts_what_a_residual_keeps_alive() -> None:
    torch.manual_seed(0)
    model, inputs = Residual().eval(), (torch.randn(1, 1, 8, 8),)
    graph = export_float(model, trace(model, inputs), inputs)
    shapes = tensor_shapes(graph, inputs)
    x, wide = 4 * 64, 16 * 64
    # While `narrow` runs: the stem's output, the wide tensor and its own output.
    assert peak_bytes(graph, shapes, {}) == 4 * (x + wide + x)
    # The wide tensor and the narrow output as bytes; the stem's output is read by the sum as well.
    assert peak_bytes(graph, shapes, {"wide": INT8, "narrow": INT8}) == 4 * x + wide + x
    # All int8: the stem writes bytes.
    every = dict.fromkeys(("stem", "wide", "narrow", "head"), INT8)
    assert peak_bytes(graph, shapes, every) == x + wide + x
    # A factored `narrow` of 4 ranks holds 4 * 64 values between its factors.
    factored = peak_bytes(graph, shapes, {"narrow": Option(rank=1 / 2)})
    assert factored == 4 * (x + wide + 2 * 64)
    # Around a core of 2 and 8 channels, `wide` writes its output beside what the core made.
    around = peak_bytes(graph, shapes, {"wide": Option(tucker=1 / 2)})
    assert around == 4 * (x + 8 * 64 + wide)


def test_work_outside_the_layers() -> None:
    torch.manual_seed(0)
    model, inputs = Residual().eval(), (torch.randn(1, 1, 8, 8),)
    graph = export_float(model, trace(model, inputs), inputs)
    (addition,) = rest_work(graph, tensor_shapes(graph, inputs))  # ReLUs belong to layers
    assert (addition.macs, addition.read_bytes, addition.written_bytes) == (0, 2048, 1024)


def test_a_convolution_that_is_left_alone_counts_its_products(mixed) -> None:
    layers = [replace(x, reason="left") if x.name == "grouped" else x for x in mixed.layers]
    graph = export_float(mixed.model, layers, mixed.example)
    work = rest_work(graph, tensor_shapes(graph, mixed.example))
    # `grouped`: 16 outputs of 8 inputs at 8 x 8 places.
    assert max(item.macs for item in work) == 16 * 8 * 64
