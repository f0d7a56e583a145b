"""How one treated layer is written in ONNX: its nodes, its stored tensors, and the bytes of both.

Float layers stay `Conv` and `Gemm`.  Int8 layers are written as quantise-dequantise pairs around
the same nodes, which onnxruntime fuses into `QLinearConv` and `QGemm`: uint8 activations per
tensor, int8 weights per output channel, int32 bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from autocompress.compression.treated import Grid, StoredTensor, Treated, bias_codes
from autocompress.errors import DeviceError
from autocompress.model.layer import Layer
from autocompress.model.matrix import stored_layout, weight_of
from autocompress.search_space.factors import kernel_index

FORMATS = ("archive", "onnx")


@dataclass(frozen=True)
class LayerNodes:
    """What one layer adds to a graph.

    Args:
        nodes: Nodes in running order.
        initializers: Tensors that they read.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Bytes that the layer adds to the serialised graph."""
        return message_bytes(self.nodes) + message_bytes(self.initializers)


def message_bytes(messages: Iterable[onnx.NodeProto | onnx.TensorProto]) -> int:
    """Serialised bytes of repeated fields whose tag takes one byte, tags and lengths included."""
    total = 0
    for message in messages:
        size = message.ByteSize()
        total += 1 + max(1, -(-size.bit_length() // 7)) + size
    return total


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


def stored_nodes(
    layer: Layer,
    module: nn.Module,
    treated: Treated,
    format: str,
    part: str,
    target: str,
) -> LayerNodes:
    """Write a tensor of a layer that is only stored in fewer bytes.

    Args:
        layer: What the trace says of it.
        module: The dense module; gives the layout of the weight.
        treated: What is stored.
        format: As for `layer_nodes`; in `onnx` a graph of constants makes the tensor when the
            session loads.
        part: `weight` or `bias`.
        target: Name of the tensor.
    """
    writer = _Writer(layer, module, format, (), 0)
    if part == "bias":
        assert treated.bias is not None
        writer.constant(target, treated.bias.float())
    elif format == "archive" or (len(treated.weights) == 1 and treated.weights[0].bits == 32):
        if layer.is_operator and not treated.is_int8 and len(treated.weights) == 1:
            writer.node("Identity", [writer.shared("weight0")], target)  # what the layer reads
        else:
            writer.constant(target, weight_of(module, treated.matrix()))
    else:
        writer.unfolded(treated, target)
    return writer.result


class _Writer:
    """Collects the nodes of one call of a layer; every name begins with the layer's."""

    def __init__(
        self, layer: Layer, module: nn.Module, format: str, pads: Sequence[int], call: int
    ) -> None:
        self.layer = layer
        self.module = module
        self.format = format
        self.pads = pads
        self.call = call
        self.result = LayerNodes()

    def steps(
        self,
        treated: Treated,
        tensor_in: str,
        tensor_out: str,
        activation: str,
        on_grid: bool,
        dynamic: bool,
    ) -> None:
        flat = isinstance(self.module, nn.Linear) and len(self.layer.input_shape) != 2
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

    def constant(self, target: str, values: Tensor) -> None:
        """A tensor as it stands, under the name that the graph has for it."""
        array = np.asarray(values.detach().numpy(), order="C")
        self.result.initializers.append(numpy_helper.from_array(array, target))

    def unfolded(self, treated: Treated, target: str) -> None:
        """The weight from its stored tensors, in the layout that its operator reads."""
        value = ""
        is_tied = self.layer.is_operator  # its own nodes hold the codes already
        for index, stored in enumerate(treated.weights):
            rows, columns = stored.codes.shape
            factor = self.float_weight(index, stored, (rows, columns), "tied" * is_tied)
            inputs = [factor, value]
            value = (
                self.node("MatMul", inputs, self.shared(f"product{index}")) if value else factor
            )
        first, order, last = stored_layout(self.module)
        if order:
            shape = self.tensor("layout", np.asarray(first, np.int64))
            value = self.node("Reshape", [value, shape], self.shared("parts"))
            value = self.node("Transpose", [value], self.shared("order"), perm=order)
        shape = self.tensor("shape", np.asarray(last, np.int64))
        self.node("Reshape", [value, shape], target)

    def float_weight(
        self, index: int, stored: StoredTensor, shape: tuple[int, ...], again: str = ""
    ) -> str:
        """The weight in float; where the codes are in the graph already, what it is called
        beside them."""
        name = f"weight{index}"
        if self.format == "archive" or stored.bits == 32:
            return self.tensor(name, stored.dense().reshape(shape).numpy())
        if stored.bits == 16:
            half = self.tensor(name, stored.codes.half().reshape(shape).numpy(), bool(again))
            return self.node("Cast", [half], self.shared(f"{name}/float{again}"), once=True, to=1)
        if stored.group or stored.zero is not None or stored.scale is None:
            raise DeviceError(
                f"layer {self.layer.name!r}: an ONNX file holds integer weights with one step for"
                " each row or for all; codebooks, zero points and runs of columns it does not"
            )
        # A cast and a product are folded into a float weight when the session loads; a
        # DequantizeLinear node is not, it would run at every call.
        codes = stored.codes.reshape(shape)
        if stored.bits <= 4 and not again:
            packed = self.int4(name, codes)
        else:
            packed = self.tensor(name, codes.numpy(), bool(again))
        floats = self.node("Cast", [packed], self.shared(f"{name}/float{again}"), once=True, to=1)
        rows = stored.scale.float().reshape(-1, *[1] * (len(shape) - 1))
        scale = self.tensor(f"{name}/scale{again}", rows.numpy())
        return self.node("Mul", [floats, scale], self.shared(f"{name}/value{again}"), once=True)

    def int8_weight(self, index: int, stored: StoredTensor, shape: tuple[int, ...]) -> str:
        if not stored.is_uniform:
            raise DeviceError(
                f"layer {self.layer.name!r}: int8 activations need weights of at most 8 bits with"
                " one step for each row or for all"
            )
        name = f"weight{index}"
        codes = self.tensor(name, stored.codes.reshape(shape).numpy())
        scale = self.tensor(f"{name}/scale", stored.row_steps().numpy())
        # Without an explicit zero point onnxruntime does not fuse QGemm.
        zero = self.tensor(f"{name}/zero", np.zeros(len(stored.codes), np.int8))
        target = self.shared(f"{name}/value")
        return self.node("DequantizeLinear", [codes, scale, zero], target, once=True, axis=0)

    def int32_bias(self, bias: Tensor, stored: StoredTensor, grid: Grid) -> str:
        codes, scale = (part.numpy() for part in bias_codes(bias, stored, grid))
        names = [self.tensor("bias", codes), self.tensor("bias/scale", scale)]
        return self.node("DequantizeLinear", names, self.shared("bias/value"), once=True, axis=0)

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

    def name(self, part: str) -> str:
        """A name that belongs to this call alone."""
        return f"{self.layer.name}/{part}" + (f"/call{self.call}" if self.call else "")

    def shared(self, part: str) -> str:
        """A name that all calls share."""
        return f"{self.layer.name}/{part}"

    def tensor(self, part: str, values: NDArray[np.generic], known: bool = False) -> str:
        if not (self.call or known):
            array = np.asarray(values, order="C")
            self.result.initializers.append(numpy_helper.from_array(array, self.shared(part)))
        return self.shared(part)

    def int4(self, part: str, codes: Tensor) -> str:
        if not self.call:
            nibbles = codes.numpy().reshape(-1).astype(np.uint8) & 15
            nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
            packed = (nibbles[::2] | (nibbles[1::2] << 4)).tobytes()
            shape = list(codes.shape)
            name = self.shared(part)
            self.result.initializers.append(
                TensorProto(name=name, data_type=TensorProto.INT4, dims=shape, raw_data=packed)
            )
        return self.shared(part)

    def node(
        self,
        operator: str,
        inputs: list[str],
        target: str,
        *,
        once: bool = False,
        name: str = "",
        **attributes: Any,
    ) -> str:
        if not (once and self.call):
            # Only the node that does the arithmetic is named: names cost bytes.
            node = helper.make_node(operator, inputs, [target], name=name or None, **attributes)
            self.result.nodes.append(node)
        return target


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
