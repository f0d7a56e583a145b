"""Additions become modules where integers could add, and a model stays what it was everywhere."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.model.sums import Around, Sum, expose_sums, sums_of


class Net(nn.Module):
    """Two blocks: a shortcut that is the block's input, and one with a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.c, self.d, self.shortcut, self.last = (nn.Conv2d(4, 4, 1) for _ in range(4))
        self.drop, self.rectify = nn.Dropout(0.5), nn.ReLU()
        self.classes = ["cat", "dog"]

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.rectify(self.b(functional.relu(self.a(x))) + x)
        y = self.drop(self.d(self.c(x).relu()))
        y += self.shortcut(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x)).mean((2, 3))

    def describe(self) -> str:
        return f"{len(self.classes)} classes"


@pytest.fixture
def example() -> tuple[Tensor]:
    torch.manual_seed(0)
    return (torch.randn(2, 4, 5, 5),)


def test_what_gives_and_reads_each_sum_is_known(example: tuple[Tensor]) -> None:
    exposed = expose_sums(Net().eval(), example)
    around = {name: found.around for name, found in sums_of(exposed).items()}
    first = Around(("b", "stem"), ("c", "shortcut"), ("b", "stem", "c", "shortcut"), True)
    second = Around(("d", "shortcut"), ("last",), ("d", "shortcut", "last"), False)
    assert around == {"sums.0": first, "sums.1": second}


def test_the_copy_is_the_same_model_for_its_user(example: tuple[Tensor]) -> None:
    model = Net().eval()
    before = copy.deepcopy(model)
    exposed = expose_sums(model, example)
    assert type(model) is Net
    assert not sums_of(model)
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values()))
    assert isinstance(exposed, Net)
    assert type(exposed).__name__ == "Net"
    assert exposed.describe() == "2 classes"
    assert exposed.state_dict().keys() == model.state_dict().keys()
    for rows in (1, 7):
        x = torch.randn(rows, 4, 5, 5)
        assert torch.equal(exposed(x), model(x))
    again = expose_sums(exposed, example)
    assert sums_of(again).keys() == sums_of(exposed).keys()
    assert sums_of(copy.deepcopy(exposed)).keys() == sums_of(exposed).keys()


def test_a_chain_of_sums_asks_for_the_layers_of_all(example: tuple[Tensor]) -> None:
    class Chain(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.b(self.a(x).relu())
            x = x + self.d(self.c(x).relu())
            return self.last(x)

    around = [found.around for found in sums_of(expose_sums(Chain().eval(), example)).values()]
    assert [found.operands for found in around] == [("stem", "b"), ("sums.0", "d")]
    assert around[0].readers == ("c",)
    assert set(around[1].layers) == {"stem", "b", "c", "d", "last"}


def _twice(net: Net, x: Tensor) -> Tensor:
    return net.last(net.a(net.a(x)) + net.b(x))


def _with_the_input(net: Net, x: Tensor) -> Tensor:
    return net.last(net.a(x) + x)


def _with_a_number(net: Net, x: Tensor) -> Tensor:
    return net.last(net.a(x) + 1)


def _scaled(net: Net, x: Tensor) -> Tensor:
    return net.last(torch.add(net.a(x), net.b(x), alpha=2))


def _read_by_no_layer(net: Net, x: Tensor) -> Tensor:
    return (net.a(x) + net.b(x)).sigmoid()


def _of_something_else(net: Net, x: Tensor) -> Tensor:
    return net.last(net.a(x).tanh() + net.b(x))


def _with_branches(net: Net, x: Tensor) -> Tensor:
    return _with_the_input(net, x) if x.sum() > 0 else net.last(net.a(x) + net.b(x))


@pytest.mark.parametrize(
    "forward",
    [
        _twice,
        _with_the_input,
        _with_a_number,
        _scaled,
        _read_by_no_layer,
        _of_something_else,
        _with_branches,
    ],
)
def test_a_model_without_such_sums_is_returned_as_it_is(
    forward: Callable[[Net, Tensor], Tensor], example: tuple[Tensor]
) -> None:
    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    model = Other().eval()
    assert expose_sums(model, example) is model


def test_what_tracing_would_change_is_left_alone(example: tuple[Tensor]) -> None:
    class Counting(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1  # a number to the tracer
            return self.last((self.a(x) + self.b(x)) * self.calls)

    model = Counting().eval()
    assert expose_sums(model, example) is model


def test_a_name_that_the_model_uses_is_not_taken(example: tuple[Tensor]) -> None:
    model = Net().eval()
    model.sums = nn.Linear(2, 2)
    exposed = expose_sums(model, example)
    assert sums_of(exposed).keys() == {"sums_.0", "sums_.1"}
    assert isinstance(exposed.sums, nn.Linear)
    assert isinstance(exposed.get_submodule("sums_.0"), Sum)
