"""What a packed archive holds and what each part of it costs; no model is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from autocompress.compression.coding import entropy_bytes
from autocompress.compression.treated import StoredTensor, Treated
from autocompress.deploy.archive import Archive, read_archive
from autocompress.deploy.records import Sizes
from autocompress.errors import ArchiveError

PARTS = ("codes", "scales", "bias", "grids", "names")


@dataclass(frozen=True)
class LayerContent:
    """A layer of an archive.

    Args:
        name: Its path in the model.
        option: Its option id.
        shape: Of the whole layer's matrix, `(out, in * kh * kw)`.
        stored: Shape of each stored tensor: fewer channels, or two factors.
        bits: Of each stored tensor.
        zeros: Share of zeros among the stored weights.
        bytes: By part: `codes` (with settings and frequency tables), `scales` (also zero points
            and codebooks), `bias`, `grids` (also which channels stay), `names` (option id, flags
            and shape).
        total_bytes: Sum of these.
        float32_bytes: Of the whole layer's weights and bias in float32.
        bits_per_weight: Of all bytes, over the whole layer's weights.
        entropy_bytes: Order-0 entropy of the integer codes; None where there are only floats.
        coded_bytes: What is stored of these codes, tables included; None likewise.
    """

    name: str
    option: str
    shape: tuple[int, int]
    stored: tuple[tuple[int, int], ...]
    bits: tuple[int, ...]
    zeros: float
    bytes: dict[str, int]
    total_bytes: int
    float32_bytes: int
    bits_per_weight: float
    entropy_bytes: float | None
    coded_bytes: int | None


@dataclass(frozen=True)
class Content:
    """An archive, taken apart.

    Args:
        size_bytes: Of the file.
        version: Of the layout.
        coder: Of the codes.
        checksum: CRC-32, as hexadecimal digits.
        metadata: Where it comes from.
        layers: In their order.
        bytes: By part over all layers, and `index` (header, checksum, metadata, names and shapes)
            and `tensors` (what is not treated).
        tensors: Number of untreated tensors.
        float32_bytes: Of all parameters in float32, other types as they are.
        entropy_bytes: Order-0 entropy of all integer codes, each stored tensor for itself.
        coded_bytes: What is stored of them.
    """

    size_bytes: int
    version: int
    coder: str
    checksum: str
    metadata: dict[str, str]
    layers: tuple[LayerContent, ...]
    bytes: dict[str, int]
    tensors: int
    float32_bytes: int
    entropy_bytes: float
    coded_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"schema": 1, **asdict(self)}


def inspect_archive(path: Path | str) -> Content:
    """Reads a whole archive and says what is in it.

    Raises:
        StorageError: If the file cannot be read.
        ArchiveError: If it is no sound archive.
    """
    if Path(path).suffix == ".onnx":
        raise ArchiveError(f"{path}: an ONNX file; inspect takes a packed archive (.acz)")
    return _content(read_archive(path))


def _content(archive: Archive) -> Content:
    layers = tuple(
        _layer(name, archive.options[name], treated, archive.sizes[name])
        for name, treated in archive.treated.items()
    )
    parts = {part: sum(layer.bytes[part] for layer in layers) for part in PARTS}
    parts["index"] = archive.header_bytes + archive.index_bytes
    parts["tensors"] = archive.base_bytes - parts["index"]
    return Content(
        size_bytes=sum(parts.values()),
        version=archive.version,
        coder=archive.coder,
        checksum=f"{archive.checksum:08x}",
        metadata=dict(archive.metadata),
        layers=layers,
        bytes=parts,
        tensors=len(archive.rest),
        float32_bytes=sum(layer.float32_bytes for layer in layers)
        + sum(map(_as_float32, archive.rest.values())),
        entropy_bytes=math.fsum(layer.entropy_bytes or 0.0 for layer in layers),
        coded_bytes=sum(layer.coded_bytes or 0 for layer in layers),
    )


def _layer(name: str, option: str, treated: Treated, sizes: Sizes) -> LayerContent:
    codes = [whole - scales for whole, scales in zip(sizes.weights, sizes.scales, strict=True)]
    parts = {
        "codes": sum(codes),
        "scales": sum(sizes.scales),
        "bias": sizes.bias,
        "names": sizes.head,
    }
    # What is left are lengths in front of tensors, grids and channels.
    parts["grids"] = sizes.total - sum(parts.values())
    whole, weights = math.prod(treated.shape), treated.weights
    integer = [index for index, weight in enumerate(weights) if weight.bits <= 8]
    bias = 0 if treated.bias is None else treated.shape[0]
    stored = sum(weight.codes.numel() for weight in weights)
    return LayerContent(
        name=name,
        option=option,
        shape=treated.shape,
        stored=tuple(_shape(weight) for weight in weights),
        bits=tuple(weight.bits for weight in weights),
        zeros=sum(int((weight.codes == 0).sum()) for weight in weights) / max(1, stored),
        bytes={part: parts[part] for part in PARTS},
        total_bytes=sizes.total,
        float32_bytes=4 * (whole + bias),
        bits_per_weight=8 * sizes.total / max(1, whole),
        entropy_bytes=_entropy([weights[index] for index in integer]) if integer else None,
        coded_bytes=sum(codes[index] for index in integer) if integer else None,
    )


def _entropy(weights: Sequence[StoredTensor]) -> float:
    return math.fsum(entropy_bytes(weight.codes.numpy()) for weight in weights)


def _shape(weight: StoredTensor) -> tuple[int, int]:
    rows, columns = weight.codes.shape
    return rows, columns


def _as_float32(tensor: Tensor) -> int:
    return tensor.numel() * (4 if tensor.is_floating_point() else tensor.element_size())
