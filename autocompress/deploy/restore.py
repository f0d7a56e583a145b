"""Puts an archive's weights into a copy of the model that was compressed.

The copy is first brought into the form that the archive's model had: modules brought down to plain
layers, batch norms folded, additions made modules.
"""

from __future__ import annotations

import copy
from math import prod
from pathlib import Path

import torch
from torch import nn

from autocompress.compression.narrowed import Count, own_width, recount, recounted
from autocompress.compression.rounded import swap_sums
from autocompress.compression.treated import Treated, build_module
from autocompress.deploy.archive import COUNTS, FORMS, SUMS, Archive, read_archive
from autocompress.errors import ArchiveError
from autocompress.model.fold import BATCH_NORMS
from autocompress.model.layer import matrix_shape
from autocompress.model.lower import lower
from autocompress.model.matrix import OPERATORS, STORED, groups_of, weight_shape
from autocompress.model.memory import shared_copy
from autocompress.model.sums import expose_sums, sums_of
from autocompress.model.swap import swap


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
