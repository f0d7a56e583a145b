"""Kinds of modules brought down to those that are treated: `Linear`, `Conv2d` and `GateLinear`.

What is done depends on the modules alone, so that who reads an archive does the same to the user's
model: a weight that is computed is made plain; attention, recurrent layers and one-dimensional
convolutions get layers of their own for their weights; an embedding that shares the weight of a
head reads it there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.model.attention import Attention
from autocompress.model.gates import Recurrent
from autocompress.model.linear import linear_over, shared_parameter
from autocompress.model.swap import swap
from autocompress.model.tied import tie

# Modules whose weight may be made plain.
_PLAIN = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
)
_NORM_HOOKS = ("WeightNorm", "SpectralNorm")  # of torch.nn.utils, before parametrizations


class PlaneConv1d(nn.Module):
    """A one-dimensional convolution as one of planes of one row, for which there are kernels.

    Args:
        dense: The original; its tensors are shared.
    """

    def __init__(self, dense: nn.Conv1d) -> None:
        super().__init__()
        (kernel,), (stride,), (dilation,) = dense.kernel_size, dense.stride, dense.dilation
        pads = _pads(dense)
        assert pads is not None
        self.conv = nn.Conv2d(
            dense.in_channels,
            dense.out_channels,
            (1, kernel),
            stride=(1, stride),
            padding=(0, pads[0]),
            dilation=(1, dilation),
            groups=dense.groups,
            bias=False,
            device="meta",
        )
        self.conv.weight = shared_parameter(dense.weight, dense.weight.unsqueeze(2))
        if dense.bias is not None:
            self.conv.bias = shared_parameter(dense.bias, dense.bias)
        self.train(dense.training)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, channels, steps)` to `(n, channels, steps)`."""
        output: Tensor = self.conv(x.unsqueeze(-2)).squeeze(-2)
        return output


def lower(model: nn.Module) -> int:
    """Replaces, in place, every module that has a form with treatable layers.

    Args:
        model: In evaluation mode; a copy, whose tensors may be shared.

    Returns:
        How many modules were replaced.
    """
    count = tie(model)
    done: set[int] = set()
    for name, module in list(model.named_modules()):
        if id(module) in done or not name:
            continue
        lowered = _plain(module) or _form(module)
        if lowered is None:
            continue
        again = _form(lowered)  # such as a normalised one-dimensional convolution
        swap(model, name, again or lowered)
        done |= {id(part) for part in module.modules()}
        count += 1
    return count


def _form(module: nn.Module) -> nn.Module | None:
    """A module of treatable layers that computes the same; None where there is no such form."""
    make = _FORMS.get(type(module))
    if make is not None:
        return make(module)
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
        return _transposed(module)
    return None


def _attention(module: nn.Module) -> nn.Module | None:
    assert isinstance(module, nn.MultiheadAttention)
    if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
        return None
    return Attention(module)


def _recurrent(module: nn.Module) -> nn.Module | None:
    assert isinstance(module, nn.RNNBase)
    known = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
    return None if module.proj_size or module.mode not in known else Recurrent(module)


def _plane(module: nn.Module) -> nn.Module | None:
    assert isinstance(module, nn.Conv1d)
    is_even = module.padding_mode == "zeros" and _pads(module) is not None
    return PlaneConv1d(module) if is_even else None


def _padded(module: nn.Module) -> nn.Module | None:
    """A convolution whose padding is given in words, with the numbers that they mean."""
    assert isinstance(module, nn.Conv2d | nn.Conv3d)
    pads = _pads(module)
    if not isinstance(module.padding, str) or module.padding_mode != "zeros" or pads is None:
        return None
    numbered = copy.copy(module)
    numbered.padding = pads
    return numbered


def _pads(module: nn.modules.conv._ConvNd) -> tuple[int, ...] | None:
    """Zeros on either side of each dimension; None where the two sides differ."""
    if not isinstance(module.padding, str):
        return tuple(module.padding)
    around = module._reversed_padding_repeated_twice[::-1]
    pads = tuple(around[::2])
    return pads if pads == tuple(around[1::2]) else None


def _transposed(module: nn.Module) -> nn.Module:
    """Hugging Face's `Conv1D`, a `Linear` whose weight lies on its side."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    linear = linear_over(weight.T.contiguous(), bias, nn.Linear)
    return linear.train(module.training)


_FORMS: dict[type[nn.Module], Callable[[nn.Module], nn.Module | None]] = {
    nn.MultiheadAttention: _attention,
    nn.LSTM: _recurrent,
    nn.GRU: _recurrent,
    nn.RNN: _recurrent,
    nn.Conv1d: _plane,
    nn.Conv2d: _padded,
    nn.Conv3d: _padded,
}


def _plain(module: nn.Module) -> nn.Module | None:
    """The module with a weight of its own in the place of one that is computed."""
    norms: list[Any] = [
        hook
        for hook in module._forward_pre_hooks.values()
        if type(hook).__name__ in _NORM_HOOKS
        and type(hook).__module__.startswith("torch.nn.utils.")
    ]
    kind = parametrize.type_before_parametrizations(module)
    if kind not in _PLAIN or not (norms or parametrize.is_parametrized(module, "weight")):
        return None
    with torch.no_grad():
        if not norms:
            weight = module.weight
        elif type(norms[0]).__name__ == "WeightNorm":
            weight = norms[0].compute_weight(module)
        else:
            weight = norms[0].compute_weight(module, do_power_iteration=False)
    assert isinstance(weight, Tensor)
    plain = kind.__new__(kind)
    nn.Module.__init__(plain)
    settings = {key: value for key, value in vars(module).items() if key not in vars(plain)}
    vars(plain).update({key: value for key, value in settings.items() if key != "weight"})
    plain.register_parameter("weight", nn.Parameter(weight.detach().clone(), requires_grad=False))
    if hasattr(module, "bias"):
        bias = module._parameters.get("bias")
        plain.register_parameter("bias", None if bias is None else shared_parameter(bias, bias))
    return plain.train(module.training)
