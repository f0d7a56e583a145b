"""How one call of a treated layer is written in ONNX.

Float layers stay `Conv` and `Gemm`.  Int8 layers are written as quantise-dequantise pairs around
the same nodes, which onnxruntime fuses into `QLinearConv` and `QGemm`: uint8 activations per
tensor, int8 weights per output channel, int32 bias.  Where inputs are rounded at each call, a
matrix product is a `MatMulNBits` of onnxruntime, which reads packed weights and gives floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autocompress.compression.treated import Grid, Treated
from autocompress.errors import DeviceError
from autocompress.hardware.runtimes.onnx_nodes import PACKED, LayerNodes, NodeWriter
from autocompress.model.layer import Layer
from autocompress.search_space.factors import kernel_index

FORMATS = ("archive", "onnx")


def layer_nodes(
    layer: Layer,
    module: nn.Module,
    treated: Treated,
    format: str = "archive",
    *,
    tensor_in: str = "input",
    tensor_out: str = "output",
    activation: str = "",
    pads: Sequence[int] = (),
    call: int = 0,
    on_grid: bool = False,
    dynamic: bool = False,
) -> LayerNodes:
    """Write one call of a treated layer.

    Args:
        layer: What the trace says of it; gives shapes.
        module: The dense `nn.Linear` or `nn.Conv2d`; gives strides and padding.
        treated: What is stored.
        format: `archive` writes float weights in float32, the file being only a runtime model;
            `onnx` writes each weight in the narrowest type that ONNX holds (int4, int8, float16),
            to be unfolded when the session loads.
        tensor_in: Name of the tensor that the layer reads.
        tensor_out: Name of the tensor that it gives, rounded to its grid when int8.
        activation: `relu` or `relu6` where one belongs to the layer; it comes before the rounding,
            so that the kernel absorbs it.
        pads: Rows and columns of zeros that a convolution sets around its input beside its own
            padding: top, left, bottom, right.
        call: Number of this call; stored tensors belong to call 0 and are shared.
        on_grid: Whether `tensor_in` has been rounded to the layer's own input grid already.
        dynamic: Whether the shape of the output is that of the input at each call, instead of that
            of the example.

    Raises:
        DeviceError: If `format` is unknown or the layer has no int8 kernel as it is.
    """
    if format not in FORMATS:
        raise DeviceError(f"format {format!r}: allowed are {', '.join(FORMATS)}")
    writer = _Writer(layer, module, format, pads, call)
    if treated.is_int8 and treated.grids[-1] is None and (activation or layer.kind == "Conv2d"):
        raise DeviceError(
            f"layer {layer.name!r}: an int8 convolution, and an int8 layer with an activation, "
            "need a grid for their output; onnxruntime has no such kernel with float output"
        )
    writer.steps(treated, tensor_in, tensor_out, activation, on_grid, dynamic)
    return writer.result


class _Writer(NodeWriter):
    """Writes the steps of a layer one after the other."""

    def __init__(
        self, layer: Layer, module: nn.Module, format: str, pads: Sequence[int], call: int
    ) -> None:
        super().__init__(layer, format, call)
        self.module = module
        self.pads = pads

    def steps(
        self,
        treated: Treated,
        tensor_in: str,
        tensor_out: str,
        activation: str,
        on_grid: bool,
        dynamic: bool,
    ) -> None:
        # `Gemm` takes matrices alone.
        flat = (
            isinstance(self.module, nn.Linear)
            and len(self.layer.input_shape) != 2
            and not treated.is_dynamic
        )
        value = tensor_in
        if flat:
            columns = treated.weights[0].codes.shape[1]
            value = self.reshape(value, "shape_in", (-1, columns), self.name("rows"))
        if treated.is_int8 and not on_grid:
            value = self.round_trip(value, treated.grids[0], "in", self.name("in"))
        for index in range(len(treated.weights)):
            last = index == len(treated.weights) - 1
            grid = treated.grids[index + 1] if treated.is_int8 else None
            end = tensor_out if last and not flat else self.name(f"out{index}")
            rectifier = activation if last else ""
            middle = self.name(f"sum{index}") if rectifier or grid else end
            value = self.product(index, treated, value, middle)
            if rectifier:
                value = self.rectify(value, rectifier, grid, self.name("relu") if grid else end)
            if grid is not None:
                value = self.round_trip(value, grid, f"out{index}", end)
        if flat:
            rows = treated.weights[-1].codes.shape[0]
            if dynamic:
                self.reshape_like(value, tensor_in, rows, tensor_out)
            else:
                shape = (-1, *self.layer.output_shape[1:-1], rows)
                self.reshape(value, "shape_out", shape, tensor_out)

    def product(self, index: int, treated: Treated, value: str, target: str) -> str:
        """The convolution or matrix product with the stored tensor of number `index`."""
        stored, is_last = treated.weights[index], index == len(treated.weights) - 1
        bias = treated.bias if is_last else None
        if treated.is_dynamic:
            inputs, attributes = self.packed_weight(index, stored)
            if bias is not None:
                inputs += [""] * (4 - len(inputs)) + [self.tensor("bias", bias.float().numpy())]
            return self.node(
                PACKED, [value, *inputs], target, name=self.step_name(index), **attributes
            )
        grid = treated.grids[index] if treated.is_int8 else None
        shape = self.shape(index, treated)
        weight = (
            self.int8_weight(index, stored, shape)
            if grid
            else self.float_weight(index, stored, shape)
        )
        inputs = [value, weight]
        if bias is not None and grid is not None:
            inputs.append(self.int32_bias(bias, stored, grid))
        elif bias is not None:
            inputs.append(self.tensor("bias", bias.float().numpy()))
        if isinstance(self.module, nn.Conv2d):
            has_taps = index == kernel_index(len(treated.weights))
            attributes = convolution_attributes(self.module, self.pads) if has_taps else {}
            if "group" in attributes and is_last and len(stored.codes) < self.module.out_channels:
                attributes["group"] = len(stored.codes)  # only depthwise ones are made narrower
            self.node("Conv", inputs, target, name=self.step_name(index), **attributes)
        else:
            self.node("Gemm", inputs, target, name=self.step_name(index), transB=1)
        return target

    def rectify(self, value: str, activation: str, grid: Grid | None, target: str) -> str:
        """A ReLU or ReLU6.  A grid that ends at 6 or below clips by itself."""
        if activation == "relu6" and not (grid and grid.high <= 6.0001):
            bounds = [
                self.tensor(f"relu6/{name}", np.asarray(bound, np.float32))
                for name, bound in (("low", 0), ("high", 6))
            ]
            return self.node("Clip", [value, *bounds], target)
        return self.node("Relu", [value], target)

    def round_trip(self, value: str, grid: Grid | None, name: str, target: str) -> str:
        """A quantise-dequantise pair on uint8."""
        assert grid is not None
        scale, zero = (self.tensor(f"{name}/{part}", value) for part, value in grid_arrays(grid))
        codes = self.node("QuantizeLinear", [value, scale, zero], self.name(f"{name}/codes"))
        return self.node("DequantizeLinear", [codes, scale, zero], target)

    def reshape(self, value: str, part: str, shape: tuple[int, ...], target: str) -> str:
        sizes = self.tensor(part, np.asarray(shape, np.int64))
        return self.node("Reshape", [value, sizes], target)

    def reshape_like(self, value: str, like: str, rows: int, target: str) -> str:
        """To the shape of another tensor with another last dimension."""
        sizes = self.node("Shape", [like], self.name("sizes"), end=-1)
        last = self.tensor("rows_out", np.asarray([rows], np.int64))
        shape = self.node("Concat", [sizes, last], self.name("shape_out"), axis=0)
        return self.node("Reshape", [value, shape], target)

    def shape(self, index: int, treated: Treated) -> tuple[int, ...]:
        rows, columns = treated.weights[index].codes.shape
        if isinstance(self.module, nn.Linear):
            return rows, columns
        if index != kernel_index(len(treated.weights)):
            return rows, columns, 1, 1
        taps = self.layer.weight_shape[2:]
        return rows, columns // prod(taps), *taps

    def step_name(self, index: int) -> str:
        """Name of the node that does the arithmetic, by which the fused operator is found."""
        return self.name(f"step{index}")


def grid_arrays(grid: Grid) -> tuple[tuple[str, NDArray[np.generic]], ...]:
    """What ONNX stores of a grid: scalars, or onnxruntime fuses no `QLinearAdd`."""
    return (
        ("scale", np.asarray(grid.scale, np.float32)),
        ("zero", np.asarray(grid.zero_point, np.uint8)),
    )


def convolution_attributes(module: nn.Conv2d, more_pads: Sequence[int] = ()) -> dict[str, Any]:
    """Attributes of the ONNX `Conv` node of a convolution whose padding, if any, is of zeros."""
    if module.padding_mode != "zeros":
        pads = [0, 0, 0, 0]  # the exporter writes a Pad node in front of the layer
    elif isinstance(module.padding, str):
        left, right, top, bottom = module._reversed_padding_repeated_twice
        pads = [top, left, bottom, right]
    else:
        pads = [*module.padding, *module.padding]
    pads = [pad + more for pad, more in zip_longest(pads, more_pads, fillvalue=0)]
    return {
        "dilations": list(module.dilation),
        **({"group": module.groups} if module.groups > 1 else {}),
        "kernel_shape": list(module.kernel_size),
        "pads": pads,
        "strides": list(module.stride),
    }
