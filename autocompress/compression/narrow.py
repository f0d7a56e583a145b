"""One layer with fewer channels: its compensated weight, and what calibration says about it.

A narrow layer is a layer like any other: it can be pruned, factored and rounded further.  What is
stored for it can be put back into the full width, with zeros for what is gone.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autocompress.compression.moments import Statistics, damped
from autocompress.compression.treated import Narrow, Treated, stored_dense
from autocompress.model.channels import ChannelGroup
from autocompress.model.layer import Layer
from autocompress.model.shrink import Kept, kept_channels, slice_module


@dataclass(frozen=True)
class NarrowLayer:
    """What `compress_layer` takes.

    Args:
        layer: The record, with the shapes of the narrow layer.
        module: A new Linear or Conv2d.
        statistics: Of the narrow input.
        error: What the removal of the columns cost: `tr(D H D^T) / tr(W H W^T)` over all rows.
    """

    layer: Layer
    module: nn.Module
    statistics: Statistics
    error: float


def narrow_layer(
    layer: Layer, module: nn.Module, statistics: Statistics, kept: Kept
) -> NarrowLayer:
    """A layer without some of its channels; the columns that stay make up for those that go.

    Args:
        layer: The record of the layer.
        module: The dense Linear or Conv2d; not changed.
        statistics: Of the layer's input.
        kept: Channels that stay.
    """
    narrow = copy.deepcopy(module)
    columns = weight_columns(module, kept.columns)
    error = 0.0
    if kept.columns is not None:
        weight = module.weight.detach().flatten(1).double()  # type: ignore[operator]
        moment = removal_moment(module, statistics)
        fitted = compensate(weight, moment, columns)
        change = -weight
        change[:, columns] += fitted
        whole = float(((weight @ moment) * weight).sum().clamp_min(1e-30))
        error = float(((change @ moment) * change).sum()) / whole
        with torch.no_grad():
            flat = narrow.weight.flatten(1)  # type: ignore[operator]
            flat[:, columns] = fitted.float()
            narrow.weight.copy_(flat.reshape(narrow.weight.shape))  # type: ignore[operator, arg-type]
            if isinstance(narrow.bias, Tensor):
                narrow.bias -= (change @ statistics.mean).float()
    slice_module(narrow, kept)
    return NarrowLayer(
        layer.narrowed(
            None if kept.columns is None else len(kept.columns),
            None if kept.rows is None else len(kept.rows),
        ),
        narrow,
        _statistics(module, statistics, kept, columns),
        error,
    )


def removal_moment(module: nn.Module, statistics: Statistics) -> Tensor:
    """The moment under which columns are removed, `(d, d)` float64, damped.

    A bias makes up for the mean of what is gone, so that only the spread about it counts.

    Args:
        module: The dense Linear or Conv2d.
        statistics: Of its input.
    """
    moment = statistics.second_moment
    if isinstance(module.bias, Tensor):
        moment = moment - torch.outer(statistics.mean, statistics.mean)
    # As much as is added to the moment itself, whose diagonal is larger.
    scale = statistics.second_moment.diagonal().mean() / moment.diagonal().mean().clamp_min(1e-12)
    return damped(moment, statistics.damping * float(scale))


def compensate(weight: Tensor, moment: Tensor, columns: Tensor) -> Tensor:
    """Least-squares weights on some columns: `W H[:, K] H[K, K]^-1`.

    Args:
        weight: `(out, d)` float64 to stand in for.
        moment: `(d, d)` float64, damped.
        columns: `(k,)` that stay.

    Returns:
        `(out, k)` float64.
    """
    factor = torch.linalg.cholesky(moment[columns][:, columns])
    wanted = weight @ moment[:, columns]
    fitted: Tensor = torch.cholesky_solve(wanted.T, factor).T
    return fitted


def embed(treated: Treated, module: nn.Module, kept: Kept) -> Treated:
    """What is stored for a narrow layer, with the channels of the whole layer that these are.

    Args:
        treated: What is stored for the narrow layer.
        module: The dense layer of full width.
        kept: Channels that the narrow layer has.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    narrow = Narrow((weight.shape[0], weight.shape[1]), kept.rows, kept.columns)
    return replace(treated, narrow=narrow)


def narrow_dense(
    model: nn.Module, kept: Mapping[ChannelGroup, Collection[int]]
) -> dict[str, Treated]:
    """The dense layers of some groups without the pieces that go; nothing makes up for them.

    Args:
        model: The dense model, whose groups lie between layers only.
        kept: Group to the pieces that stay.
    """
    treated = {}
    for name, stays in kept_channels(model, kept).items():
        module = model.get_submodule(name)
        small = copy.deepcopy(module)
        slice_module(small, stays)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            stays = Kept(stays.columns)  # what filters each channel has a row for it
        treated[name] = embed(stored_dense(small), module, stays)
    return treated


def weight_columns(module: nn.Module, channels: Tensor | None) -> Tensor:
    """Columns of the weight matrix `(out, in * kh * kw)` that some input channels own.

    Args:
        module: A Linear or Conv2d.
        channels: `(n,)` or `(pieces, n)`; None for all.

    Returns:
        `(n * kh * kw,)` or `(pieces, n * kh * kw)`.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    taps = weight[0, 0].numel()
    if channels is None:
        channels = torch.arange(weight.shape[1])
    return (channels[..., None] * taps + torch.arange(taps)).flatten(-2)


def _statistics(
    module: nn.Module, statistics: Statistics, kept: Kept, columns: Tensor
) -> Statistics:
    if kept.columns is None:
        return statistics
    channel = -1 if isinstance(module, nn.Linear) else -3
    return replace(
        statistics,
        second_moment=statistics.second_moment[columns][:, columns],
        mean=statistics.mean[columns],
        sample=statistics.sample.index_select(channel, kept.columns),
    )
