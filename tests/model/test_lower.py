"""Modules brought down to layers that are treated compute what they did."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autocompress.model.attention import Attention
from autocompress.model.canonical import canonical
from autocompress.model.gates import GateLinear, Recurrent
from autocompress.model.lower import PlaneConv1d, lower
from autocompress.model.memory import shared_copy
from autocompress.model.tied import TiedEmbedding, ties_of
from autocompress.model.trace import trace


def lowered(model: nn.Module) -> tuple[nn.Module, int]:
    copied = shared_copy(model.eval())
    return copied, lower(copied)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_layers_fused_and_step_by_step(
    kind: type[nn.RNNBase], batch_first: bool, bidirectional: bool, bias: bool
) -> None:
    settings = {"num_layers": 2, "batch_first": batch_first, "bidirectional": bidirectional}
    dense = kind(5, 7, bias=bias, **settings).eval()
    form = Recurrent(dense)
    x = torch.randn(3, 4, 5)
    wanted = _flat(dense(x))
    assert all(torch.equal(a, b) for a, b in zip(wanted, _flat(form(x)), strict=True))
    again = _flat(form(x, dense(x)[1]))
    assert all(torch.equal(a, b) for a, b in zip(_flat(dense(x, dense(x)[1])), again, strict=True))
    calls: list[int] = []
    for gate in form.modules():
        if isinstance(gate, GateLinear):
            gate.register_forward_hook(lambda *_: calls.append(1))
    for a, b in zip(wanted, _flat(form(x)), strict=True):
        torch.testing.assert_close(a, b)
    # Every matrix that is read once, and every remembered one at each step.
    steps = x.shape[1 if batch_first else 0]
    assert len(calls) == 2 * (2 if bidirectional else 1) * (1 + steps)


def test_a_sequence_without_a_batch() -> None:
    dense = nn.LSTM(5, 7).eval()
    x = torch.randn(4, 5)
    assert all(
        torch.equal(a, b) for a, b in zip(_flat(dense(x)), _flat(Recurrent(dense)(x)), strict=True)
    )


def test_packed_sequences_keep_their_layer_dense() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            lengths = torch.full((len(x),), x.shape[1])
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            return self.head(self.rnn(packed)[1][0])

    model, x = Packed().eval(), torch.randn(2, 5, 3)
    found = canonical(model, (x,))
    assert found.model is model
    reasons = {layer.name: layer.reason for layer in trace(found.model, (x,))}
    assert reasons == {"rnn": "GRU is not treated", "head": ""}


def _flat(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    assert isinstance(result, tuple)
    return [tensor for part in result for tensor in _flat(part)]


MASKS: list[Callable[[], dict[str, Tensor | bool]]] = [
    dict,
    lambda: {"need_weights": False},
    lambda: {"average_attn_weights": False},
    lambda: {"attn_mask": torch.randn(6, 9)},
    lambda: {"attn_mask": torch.randn(6, 6, 9)},
    lambda: {"key_padding_mask": torch.arange(9)[None] > torch.tensor([[8], [4]])},
    lambda: {
        "attn_mask": torch.randn(6, 9) > 1,
        "key_padding_mask": torch.arange(9)[None] > torch.tensor([[8], [4]]),
    },
]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention(mask: Callable[[], dict[str, Tensor | bool]], batch_first: bool) -> None:
    dense = nn.MultiheadAttention(12, 3, kdim=5, vdim=7, batch_first=batch_first).eval()
    form = Attention(dense)
    inputs = [torch.randn(2, 6, 12), torch.randn(2, 9, 5), torch.randn(2, 9, 7)]
    if not batch_first:
        inputs = [tensor.transpose(0, 1) for tensor in inputs]
    settings = mask()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that masks of two types are mixed
        wanted, found = dense(*inputs, **settings), form(*inputs, **settings)
    torch.testing.assert_close(found[0], wanted[0])
    assert (found[1] is None) == (wanted[1] is None)
    if wanted[1] is not None:
        torch.testing.assert_close(found[1], wanted[1])


def test_a_transformer_encoder_of_torch_is_treated_throughout() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()
    x = torch.randn(2, 5, 16)
    found = canonical(model, (x,))
    assert found.forms == 2
    torch.testing.assert_close(found.model(x), model(x))
    treated = [layer for layer in trace(found.model, (x,)) if layer.is_treated]
    assert len(treated) == 2 * 6


def _normed() -> nn.Module:
    new = nn.utils.parametrizations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the older ones are to go
        return nn.Sequential(
            new.weight_norm(nn.Conv1d(3, 4, 3, padding=1)),
            nn.utils.weight_norm(nn.Conv1d(4, 4, 3, groups=2, padding="same")),
            nn.Flatten(),
            new.spectral_norm(nn.Linear(40, 6)),
            nn.utils.spectral_norm(nn.Linear(6, 6)),
        )


def test_weights_that_are_computed_become_plain() -> None:
    model = _normed().eval()
    x = torch.randn(2, 3, 10)
    found, forms = lowered(model)
    assert forms == 4
    torch.testing.assert_close(found(x), model(x), rtol=0, atol=1e-6)
    assert isinstance(found[0], PlaneConv1d)
    assert type(found[3]) is nn.Linear
    assert all(layer.is_treated for layer in trace(found, (x,)))


@pytest.mark.parametrize("padding", [0, 2, "same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_dimensional_convolutions(padding: int | str, stride: int) -> None:
    if padding == "same" and stride > 1:
        pytest.skip("torch has no such convolution")
    settings = {"stride": stride, "padding": padding, "dilation": 2, "groups": 2}
    model = nn.Sequential(nn.Conv1d(4, 6, 3, **settings)).eval()  # type: ignore[arg-type]
    x = torch.randn(2, 4, 11)
    found, _ = lowered(model)
    torch.testing.assert_close(found(x), model(x))


def test_padding_in_words_is_given_in_numbers() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, (3, 5), padding="same"), nn.Conv2d(3, 3, 4, padding="same")
    )
    found, forms = lowered(model)
    assert forms == 1
    assert found[0].padding == (1, 2)
    assert found[1].padding == "same"  # its two sides differ
    x = torch.randn(1, 2, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this takes a copy
        torch.testing.assert_close(found(x), model(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 30, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.words(tokens)).relu())


def test_a_tied_embedding_follows_whatever_stands_in_the_head() -> None:
    model = Tied().eval()
    tokens = torch.randint(30, (2, 5))
    found = canonical(model, (tokens,)).model
    assert isinstance(found.words, TiedEmbedding)
    assert ties_of(found) == {"words": "head"}
    assert torch.equal(found(tokens), model(tokens))
    layers = {layer.name: layer for layer in trace(found, (tokens,))}
    assert list(layers) == ["head", "body"]  # the head's weight is read first
    assert layers["head"].tied == ("words",)
    other = copy.deepcopy(found)
    other.head = nn.Linear(8, 30, bias=False)
    assert torch.equal(other.words(tokens), other.head.weight[tokens])
    assert torch.equal(found(tokens), model(tokens))  # the copy is tied to its own head
