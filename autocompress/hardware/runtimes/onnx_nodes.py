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

from autocompress.compression.treated import Grid, StoredTensor, bias_codes
from autocompress.errors import DeviceError
from autocompress.model.layer import Layer


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
