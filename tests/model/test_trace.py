from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import TaskError
from autocompress.model.layer import Layer, matrix_shape
from autocompress.model.trace import run, trace


def by_name(model: nn.Module, *inputs: Tensor) -> dict[str, Layer]:
    return {layer.name: layer for layer in trace(model.eval(), inputs)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, (3, 2), stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.tokens = nn.Linear(8, 6)
        self.unused = nn.Linear(3, 3)
        self.twice = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.norm(self.conv(x)).relu())
        x = self.tokens(x.flatten(2).transpose(1, 2)).relu()
        return self.head(self.twice(self.twice(x)).mean(1))


def test_shapes_calls_parameters_and_multiply_adds() -> None:
    layers = by_name(Net(), torch.randn(2, 3, 9, 9))
    # In running order, what did not run last.
    names = ["conv", "norm", "grouped", "tokens", "twice", "head", "unused"]
    assert list(layers) == names
    conv = layers["conv"]
    assert conv.kind == "Conv2d"
    assert conv.weight_shape == (8, 3, 3, 2)
    assert conv.input_shape == (2, 3, 9, 9)
    assert conv.output_shape == (2, 8, 5, 5)
    assert conv.parameters == 8 * 3 * 3 * 2 + 8
    assert conv.macs == 2 * 5 * 5 * 8 * (3 * 3 * 2)
    assert conv.calls == 1
    assert conv.full_rank == 8
    # Each output channel of the grouped convolution reads 2 inputs at 9 places.
    assert layers["grouped"].macs == 2 * 3 * 3 * 8 * (2 * 9)
    # A linear layer on 9 positions of 2 images.
    assert layers["tokens"].macs == 2 * 9 * 8 * 6
    assert layers["tokens"].output_shape == (2, 9, 6)
    assert (layers["twice"].calls, layers["twice"].macs) == (2, 2 * (2 * 9 * 6 * 6))
    assert layers["head"].macs == 2 * 6 * 4
    assert (layers["unused"].calls, layers["unused"].macs) == (0, 0)
    assert (layers["norm"].macs, layers["norm"].parameters) == (0, 16)


def test_what_is_not_treated_has_a_reason() -> None:
    layers = by_name(Net(), torch.randn(2, 3, 9, 9))
    reasons = {name: layer.reason for name, layer in layers.items() if not layer.is_treated}
    assert reasons == {
        "norm": "BatchNorm2d is not treated",
        "unused": "did not run on the example inputs",
    }


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 4)
        self.same = nn.Conv2d(1, 1, 3, padding="same")
        self.circular = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        self.up = nn.ConvTranspose2d(1, 2, 2, stride=2)
        self.double_ = nn.Linear(4, 4, dtype=torch.float64)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.norm = nn.LayerNorm((5, 4))
        self.recurrent = nn.LSTM(4, 4, batch_first=True)
        self.out = nn.Linear(4, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        x = self.norm(self.circular(self.same(x[:, None]))[:, 0])
        x = x + self.up(x[:, None]).mean((1, 2, 3))[:, None, None]
        x, _ = self.recurrent(self.normed(self.double_(x.double()).float()))
        return self.out(x)


def test_layers_of_other_kinds_are_listed_with_their_reasons() -> None:
    layers = by_name(Odd(), torch.zeros(3, 5, dtype=torch.int64))
    reason = {name: layer.reason for name, layer in layers.items()}
    assert reason["words"] == "shares its weight with out"
    assert reason["same"] == "padding given as 'same'"
    assert reason["circular"] == "padding mode 'circular'"
    assert not reason["up"]
    assert layers["up"].weight_shape == (2, 1, 2, 2)
    assert not layers["up"].is_operator
    assert reason["double_"] == "its weight is float64, not float32"
    assert reason["recurrent"] == "LSTM is not treated"
    assert reason["out"] == "shares its weight with words"
    assert all(layer.reason for name, layer in layers.items() if "normed" in name)
    macs = {name: layer.macs for name, layer in layers.items()}
    assert macs["words"] == macs["norm"] == 0
    # Each of 3 * 5 * 4 inputs meets 2 * 2 * 2 weights.
    assert macs["up"] == 60 * 8
    assert macs["out"] == 3 * 5 * 4 * 11
    assert layers["recurrent"].output_shape == (3, 5, 4)
    assert layers["recurrent"].weight_shape == ()


class Aliased(nn.Module):
    """One module under two names, of which the forward pass uses the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(x))


def test_a_module_under_two_names_is_one_layer() -> None:
    layers = by_name(Aliased(), torch.randn(1, 4))
    assert list(layers) == ["first", "head"]
    assert layers["first"].is_treated
    assert layers["head"].is_treated


def test_a_call_on_another_shape_counts_its_own_multiply_adds() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x)[:, :, ::2, ::2]).flatten(1)

    layer = by_name(Twice(), torch.randn(1, 1, 4, 4))["conv"]
    assert (layer.calls, layer.macs) == (2, 16 + 4)


def test_a_bare_layer_is_no_model_to_treat() -> None:
    (layer,) = trace(nn.Linear(3, 2), (torch.randn(1, 3),))
    assert layer.name == ""
    assert layer.reason == "the model is this layer itself"


class Returns(nn.Module):
    def __init__(self, wrap: type) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        y = self.layer(x)
        return {"logits": y} if self.wrap is dict else self.wrap([y])


@pytest.mark.parametrize("wrap", [tuple, list, dict])
def test_a_model_must_return_one_tensor(wrap: type) -> None:
    model = Returns(wrap)
    with pytest.raises(TaskError, match=f"returned {wrap.__name__}; wrap it"):
        trace(model, (torch.randn(1, 3),))
    assert not model.layer._forward_hooks


def test_a_model_that_does_not_run_is_named_and_left_without_hooks() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(TaskError, match=r"fails on inputs of shape \(1, 5\): RuntimeError: mat1"):
        trace(model, (torch.randn(1, 5),))
    assert not model[0]._forward_hooks
    with pytest.raises(TaskError, match="TypeError"):
        run(model, (torch.randn(1, 3), torch.randn(1, 3)))


def test_tracing_changes_nothing() -> None:
    model = Net().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 3, 9, 9)
    assert trace(model, (x,)) == trace(model, (x,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 4)
            self.b = nn.Linear(5, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + self.b(y)

    layers = by_name(Two(), torch.randn(2, 3), torch.randn(2, 5))
    assert layers["a"].input_shape == (2, 3)
    assert layers["b"].input_shape == (2, 5)


def test_ranks_are_whole_numbers_of_the_matrix() -> None:
    layer = Layer("c", "Conv2d", (20, 2, 3, 3), 380, 0, 1, (), ())
    assert matrix_shape((20, 2, 3, 3)) == (20, 18)
    assert layer.full_rank == 18
    assert [layer.rank(share) for share in (1.0, 0.5, 0.25, 0.01)] == [18, 9, 4, 1]
