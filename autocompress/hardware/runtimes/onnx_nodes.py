"""What nodes and stored tensors of one layer in ONNX are made of, and the bytes of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from autocompress.compression.treated import Grid, StoredTensor, bias_codes, dynamic_run
from autocompress.errors import DeviceError
from autocompress.model.layer import Layer

MICROSOFT = "com.microsoft"  # operators that onnxruntime has beside those of ONNX
PACKED = "MatMulNBits"  # reads packed weights
ACCURACY_LEVEL = 4  # of it: int8 inputs; lower ones compute in float, and slower


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


def _packed(unsigned: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Codes of 4 bits two to a byte, the first one in the low bits; of 8 as they are."""
    if width == 8:
        return unsigned
    return np.asarray(unsigned[..., ::2] | (unsigned[..., 1::2] << 4), np.uint8)


def message_bytes(messages: Iterable[onnx.NodeProto | onnx.TensorProto]) -> int:
    """Serialised bytes of repeated fields whose tag takes one byte, tags and lengths included."""
    total = 0
    for message in messages:
        size = message.ByteSize()
        total += 1 + max(1, -(-size.bit_length() // 7)) + size
    return total


class NodeWriter:
    """Collects nodes and tensors of one call of a layer; every name begins with the layer's.

    Args:
        layer: What the trace says of it.
        format: As for `layer_nodes`.
        call: Number of the call; stored tensors belong to call 0 and are shared.
    """

    def __init__(self, layer: Layer, format: str, call: int = 0) -> None:
        self.layer = layer
        self.format = format
        self.call = call
        self.result = LayerNodes()

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

    def packed_weight(self, index: int, stored: StoredTensor) -> tuple[list[str], dict[str, Any]]:
        """Inputs and attributes with which `MatMulNBits` reads a weight: unsigned codes of 4 or 8
        bits in runs of columns, each run with its step; the last run is filled up.

        Raises:
            DeviceError: If the codes are none that the kernel reads.
        """
        if stored.scale is None or not 2 <= stored.bits <= 8:
            raise DeviceError(
                f"layer {self.layer.name!r}: packed weights are integers of 2 to 8 bits"
            )
        rows, columns = stored.codes.shape
        width, run = (4 if stored.bits <= 4 else 8), dynamic_run(stored)
        runs = -(-columns // run)
        zeros = stored.zeros() if stored.zero is not None else 2 ** (width - 1)
        unsigned = np.zeros((rows, runs * run), np.uint8)
        unsigned[:, :columns] = (stored.codes.short() + zeros).numpy()
        name = f"weight{index}"
        codes = self.tensor(name, _packed(unsigned, width).reshape(rows, runs, run * width // 8))
        scale = stored.scale.float().numpy()
        if scale.ndim == 2:
            steps = self.tensor(f"{name}/scale", scale)
        else:
            # Repeated when the session loads: in the file a row has one.
            one = self.tensor(f"{name}/scale", scale[:, None])
            shape = self.tensor(f"{name}/runs", np.asarray([rows, runs], np.int64))
            steps = self.node("Expand", [one, shape], self.shared(f"{name}/steps"), once=True)
        inputs = [codes, steps]
        if stored.zero is not None:
            points = stored.zero.numpy() if stored.group else stored.zero.numpy()[:, None]
            odd = runs % 2 if width == 4 else 0  # bytes are filled
            points = np.pad(np.broadcast_to(points, (rows, runs)), ((0, 0), (0, odd)))
            inputs.append(self.tensor(f"{name}/zero", _packed(points, width)))
        attributes = {"K": columns, "N": rows, "bits": width, "block_size": run}
        return inputs, {**attributes, "accuracy_level": ACCURACY_LEVEL, "domain": MICROSOFT}

    def int32_bias(self, bias: Tensor, stored: StoredTensor, grid: Grid) -> str:
        codes, scale = (part.numpy() for part in bias_codes(bias, stored, grid))
        names = [self.tensor("bias", codes), self.tensor("bias/scale", scale)]
        return self.node("DequantizeLinear", names, self.shared("bias/value"), once=True, axis=0)

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
