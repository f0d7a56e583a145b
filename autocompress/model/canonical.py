"""The form in which every model is compressed."""

from __future__ import annotations

from torch import nn

from autocompress.model.fold import fold_batch_norms
from autocompress.model.sums import expose_sums
from autocompress.model.task import Inputs


def canonical(model: nn.Module, example_inputs: Inputs) -> nn.Module:
    """A copy of a model with its batch norms folded into convolutions, and with the additions that
    integers could do as modules; each only where that keeps what the model computes.

    Args:
        model: In evaluation mode; it is not changed, and comes back itself if nothing is to do.
        example_inputs: On these the two are compared.
    """
    return expose_sums(fold_batch_norms(model, example_inputs), example_inputs)
