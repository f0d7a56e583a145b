"""The form in which every model is compressed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from autocompress.errors import TaskError
from autocompress.model.fold import TOLERANCE, fold_batch_norms
from autocompress.model.lower import lower
from autocompress.model.memory import shared_copy
from autocompress.model.sums import expose_sums
from autocompress.model.task import Inputs
from autocompress.model.trace import run


class Canonical(NamedTuple):
    """A model in that form.

    Args:
        model: A copy, which shares all tensors that are not computed anew; the model itself if
            nothing was to do.
        forms: How many modules were brought down to treatable layers.
    """

    model: nn.Module
    forms: int


def canonical(model: nn.Module, example_inputs: Inputs) -> Canonical:
    """Batch norms folded into convolutions, modules brought down to layers that are treated, and
    the additions that integers could do as modules; each only where that keeps what is computed.

    Args:
        model: In evaluation mode; it is not changed.
        example_inputs: On these the two are compared.
    """
    folded = fold_batch_norms(model, example_inputs)
    lowered, forms = _lowered(folded, example_inputs)
    return Canonical(expose_sums(lowered, example_inputs), forms)


def _lowered(model: nn.Module, inputs: Inputs) -> Canonical:
    copied = shared_copy(model)
    forms = lower(copied)
    if not forms:
        return Canonical(model, 0)
    try:
        before, after = run(model, inputs), run(copied, inputs)
    except TaskError:  # such as a model that packs its sequences
        return Canonical(model, 0)
    bound = TOLERANCE * float(before.abs().max())
    same = bool(torch.isfinite(after).all()) and float((after - before).abs().max()) <= bound
    return Canonical(copied, forms) if same else Canonical(model, 0)
