"""A compressed model as one packed file (`model.acz`): weights coded bit for bit, no pickle.

    "ACZ", version, coder | base: metadata, untreated tensors, names | a record a layer | CRC-32

Numbers in front of variable parts are LEB128, all values little-endian.  A layer's record depends
on that layer alone, so that the file's size is `base_bytes` plus a sum of `layer_bytes`.
docs/archive.md gives every byte.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from autocompress.compression.bits import Reader
from autocompress.compression.entropy import CODERS
from autocompress.compression.treated import Treated
from autocompress.deploy.records import (
    Record,
    Sizes,
    pack_base,
    pack_layer,
    read_base,
    read_layer,
)
from autocompress.errors import ArchiveError, StorageError
from autocompress.files import write_bytes

# Keys of the metadata: how many additions are rounded where layers are int8, and how many modules
# of the model were brought down to treatable layers.
SUMS, FORMS = "sums", "forms"
COUNTS = "counts"  # key of the attributes that count channels, such as numbers of heads
_MAGIC, _VERSION = b"ACZ", 2
_HEADER = len(_MAGIC) + 2
_CHECK = 4  # bytes of the checksum


@dataclass(frozen=True)
class Archive:
    """What an archive holds.

    Args:
        treated: Stored layers by name.
        options: Option id of each of them.
        rest: Every other tensor of the model's state.
        metadata: Where it comes from.
        coder: What its codes were coded by, one of `entropy.CODERS`.
        version: Of the layout.
        checksum: CRC-32 of all before it.
        sizes: Bytes of each layer's record by name.
        base_bytes: Bytes of all else: header, base and checksum.
        index_bytes: The part of it that is metadata, names and shapes.
        header_bytes: The part of it that is the same in all archives, the checksum included.
    """

    treated: Mapping[str, Treated]
    options: Mapping[str, str]
    rest: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    coder: str
    version: int
    checksum: int
    sizes: Mapping[str, Sizes]
    base_bytes: int
    index_bytes: int
    header_bytes: int = _HEADER + _CHECK


def write_archive(
    path: Path | str,
    treated: Mapping[str, Treated],
    options: Mapping[str, str],
    rest: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    coder: str = "entropy",
) -> int:
    """Writes the whole file or nothing.

    Args:
        path: File to write; an existing one is replaced.
        treated: Stored layers by name.
        options: Option id of each of them.
        rest: Every other tensor of the model's state, by its key.
        metadata: A few short strings.
        coder: `entropy`, or `zstd` for the plain alternative, which a reader without an entropy
            coder can undo: hardly larger where layers are dense, more where they are pruned
            (docs/archive.md has figures).

    Returns:
        Size of the file in bytes.

    Raises:
        StorageError: If the file cannot be written, such as on a full disk.
        ValueError: If the parts do not belong together or hold what an archive cannot store.
    """
    data = _archive(treated, options, rest, metadata, coder)
    write_bytes(Path(path), data)
    return len(data)


def archive_bytes(
    treated: Mapping[str, Treated],
    options: Mapping[str, str],
    rest: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    coder: str = "entropy",
) -> int:
    """Size of the file that `write_archive` would write."""
    return len(_archive(treated, options, rest, metadata, coder))


def base_bytes(
    rest: Mapping[str, Tensor], metadata: Mapping[str, str], layers: Iterable[str] = ()
) -> int:
    """Size of an archive but for the records of its layers.

    Args:
        rest: Untreated tensors by key.
        metadata: A few short strings.
        layers: Names of the treated layers, in their order.
    """
    return _HEADER + sum(map(len, pack_base(rest, metadata, layers))) + _CHECK


def layer_bytes(name: str, option_id: str, treated: Treated, coder: str = "entropy") -> int:
    """What one layer adds to the size of an archive that knows its name, exactly."""
    return len(pack_layer(name, option_id, treated, coder))


def read_archive(path: Path | str) -> Archive:
    """Reads and checks a whole archive.

    Raises:
        StorageError: If the file cannot be read.
        ArchiveError: If it is no archive, of another version, truncated or damaged.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return parse_archive(data)
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}") from error


def parse_archive(data: bytes) -> Archive:
    """An archive from the bytes of its file.

    Raises:
        ArchiveError: If they are no archive, of another version, truncated or damaged.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise ArchiveError("not an archive: it does not begin with 'ACZ'")
    if len(data) < _HEADER + _CHECK:
        raise ArchiveError("truncated: shorter than any archive")
    if data[len(_MAGIC)] != _VERSION:
        raise ArchiveError(
            f"version {data[len(_MAGIC)]}: this program reads version {_VERSION}; write the file"
            " again from its run with `autocompress export`"
        )
    body, check = data[:-_CHECK], int.from_bytes(data[-_CHECK:], "little")
    if zlib.crc32(body) != check:
        raise ArchiveError("damaged or truncated: the checksum does not match")
    coder = data[len(_MAGIC) + 1]
    if coder >= len(CODERS):
        raise ArchiveError(f"damaged: coder {coder}, allowed are 0 to {len(CODERS) - 1}")
    reader = Reader(body)
    reader.take(_HEADER)
    base = read_base(reader)
    size = len(data) - reader.left
    found: dict[str, Record] = {}
    for name in base.layers:
        try:
            found[name] = read_layer(reader)
        except ArchiveError as error:
            raise ArchiveError(f"layer {name!r}: {error}") from error
    reader.finish()
    return Archive(
        treated={name: record.treated for name, record in found.items()},
        options={name: record.option for name, record in found.items()},
        rest=base.rest,
        metadata=base.metadata,
        coder=CODERS[coder],
        version=_VERSION,
        checksum=check,
        sizes={name: record.sizes for name, record in found.items()},
        base_bytes=size,
        index_bytes=base.index_bytes,
    )


def _archive(
    treated: Mapping[str, Treated],
    options: Mapping[str, str],
    rest: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    coder: str,
) -> bytes:
    if coder not in CODERS:
        raise ValueError(f"archive: coder {coder!r}; allowed are {', '.join(CODERS)}")
    if treated.keys() != options.keys():
        raise ValueError(f"archive: layers {sorted(treated)} but options for {sorted(options)}")
    for key in rest:
        if key.rpartition(".")[0] in treated:
            raise ValueError(f"archive: {key} belongs to a treated layer and is also in rest")
    layers = (pack_layer(name, options[name], layer, coder) for name, layer in treated.items())
    header = _MAGIC + bytes([_VERSION, CODERS.index(coder)])
    body = b"".join([header, *pack_base(rest, metadata, treated), *layers])
    return body + zlib.crc32(body).to_bytes(_CHECK, "little")
