"""A compressed model as one packed file (`model.acz`): weights coded bit for bit, no pickle.

    "ACZ", version, coder | base: metadata, untreated tensors, names | a record a layer | CRC-32

Numbers in front of variable parts are LEB128, all values little-endian.  A layer's record depends
on that layer alone, so that the file's size is `base_bytes` plus a sum of `layer_bytes`.
docs/archive.md gives every byte.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from autocompress.compression.bits import Reader
from autocompress.compression.entropy import CODERS
from autocompress.compression.narrowed import Count, own_width, recount, recounted
from autocompress.compression.rounded import swap_sums
from autocompress.compression.treated import Treated, build_module
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
from autocompress.model.fold import BATCH_NORMS
from autocompress.model.layer import matrix_shape
from autocompress.model.lower import lower
from autocompress.model.matrix import OPERATORS, STORED, groups_of, weight_shape
from autocompress.model.memory import shared_copy
from autocompress.model.sums import expose_sums, sums_of
from autocompress.model.swap import swap

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


def load_archive(path: Path | str, model: nn.Module, narrow: bool = False) -> nn.Module:
    """A copy of the model with the archive's weights.

    Args:
        path: An archive of this model.
        model: The dense model that was compressed, with any weights; it is not changed.
        narrow: Whether layers are only as wide as what is stored for them, which is faster; by
            default they have their old shapes, with zeros for channels that are gone.

    Raises:
        StorageError: If the file cannot be read.
        ArchiveError: If it is no sound archive, or belongs to another model: the message names
            the first layer or tensor that does not fit.
    """
    archive = read_archive(path)
    try:
        return _restore(archive, copy.deepcopy(shared_copy(model)), narrow)
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}") from error


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


def _restore(archive: Archive, model: nn.Module, narrow: bool) -> nn.Module:
    _lower_as(archive, model)
    _fold_as(archive, model)
    model = _expose_as(archive, model)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, treated in archive.treated.items():
        if name not in modules:
            raise ArchiveError(f"layer {name!r} is not in the model")
        _check_layer(name, modules[name], treated)
    _check_rest(archive, model)
    model.load_state_dict(dict(archive.rest), strict=False)
    values = _recounted(archive, model) if narrow else {}
    for name, treated in archive.treated.items():
        stored = own_width(treated) if narrow else treated
        if not name:
            return build_module(model, stored)
        swap(model, name, build_module(modules[name], stored))
    if SUMS in archive.metadata:
        swap_sums(model, archive.treated.get)
    recount(model, values)
    return model


def _recounted(archive: Archive, model: nn.Module) -> dict[str, int]:
    """What attributes that count channels are in the narrower model."""
    try:
        counts = [Count.parse(text) for text in archive.metadata.get(COUNTS, "").split()]
        return recounted(model, counts, archive.treated)
    except ValueError as error:
        raise ArchiveError(f"what counts channels does not fit the model: {error}") from error


def _lower_as(archive: Archive, model: nn.Module) -> None:
    """Brings modules down to treatable layers where the archive's were."""
    if FORMS not in archive.metadata:
        return
    here, there = lower(model), archive.metadata[FORMS]
    if here and str(here) != there:  # none is left in a model in canonical form
        raise ArchiveError(
            f"{there!r} modules were brought down to layers in the archive, {here} in this model"
        )


def _fold_as(archive: Archive, model: nn.Module) -> None:
    """Prepares a model for an archive of one whose batch norms were folded into convolutions.

    A batch norm of which nothing is stored has been folded; the convolution before it may have got
    a bias.
    """
    stored = {key.rpartition(".")[0] for key in archive.rest}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, BATCH_NORMS) and name and name not in stored:
            swap(model, name, nn.Identity())
        if isinstance(module, nn.modules.conv._ConvNd) and module.bias is None:
            bias = archive.rest.get(f"{name}.bias")
            if bias is not None and bias.shape == (module.out_channels,):
                module.bias = nn.Parameter(torch.zeros_like(bias), requires_grad=False)


def _expose_as(archive: Archive, model: nn.Module) -> nn.Module:
    """Makes additions modules where the archive's were."""
    if SUMS not in archive.metadata:
        return model
    model = model if sums_of(model) else expose_sums(model)
    here, there = len(sums_of(model)), archive.metadata[SUMS]
    if str(here) != there:
        raise ArchiveError(
            f"{there!r} additions between layers in the archive, {here} in this model"
        )
    return model


def _check_layer(name: str, module: nn.Module, treated: Treated) -> None:
    if not isinstance(module, (*OPERATORS, *STORED)):
        raise ArchiveError(f"layer {name!r} is a {type(module).__name__}, which is not treated")
    rows, columns = matrix_shape(weight_shape(module))
    stored = treated.shape
    if stored != (rows, columns):
        raise ArchiveError(f"layer {name!r} is {stored} in the archive, {(rows, columns)} here")
    groups = groups_of(module)
    if groups > 1 and len(treated.weights) > 1:
        raise ArchiveError(f"layer {name!r} has {groups} groups here; factors were stored")
    if len(treated.weights) == 3:
        if not isinstance(module, nn.Conv2d):
            raise ArchiveError(f"layer {name!r} is no convolution; a core was stored")
        first, core, _ = (weight.codes.shape for weight in treated.weights)
        stored_taps, taps = core[1] // first[0], prod(module.kernel_size)
        if stored_taps != taps:
            raise ArchiveError(
                f"layer {name!r} has {taps} taps here; a core of {stored_taps} was stored"
            )


def _check_rest(archive: Archive, model: nn.Module) -> None:
    """Untreated tensors are the same in the archive and in the model."""
    state = model.state_dict(keep_vars=True)
    seen: set[int] = set()
    for key, here in state.items():
        # What a model has under several names is stored under the first.
        again = id(here) in seen
        seen.add(id(here))
        if again or key.rpartition(".")[0] in archive.treated:
            continue
        if key not in archive.rest:
            raise ArchiveError(f"{key!r} of the model is not in the archive")
        there = archive.rest[key]
        if here.shape != there.shape or here.dtype != there.dtype:
            raise ArchiveError(
                f"{key!r} is {there.dtype} {tuple(there.shape)} in the archive, "
                f"{here.dtype} {tuple(here.shape)} in the model"
            )
    for key in archive.rest:
        if key not in state or key.rpartition(".")[0] in archive.treated:
            raise ArchiveError(f"{key!r} of the archive is not in the model")
