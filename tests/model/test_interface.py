"""Models that take and give other things than tensors in a row."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import DataError, TaskError
from autocompress.model.task import Task


class Pair(NamedTuple):
    hidden: Tensor
    logits: Tensor


@dataclass
class Result:
    hidden: Tensor
    logits: Tensor
    count: int = 0


class Net(nn.Module):
    """Takes a keyword, a mask that may be left out, a nested pair; gives what it is told to."""

    def __init__(self, kind: Any = Result) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.kind = kind
        self.name = "mine"

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, more: Any = None
    ) -> Any:
        hidden = self.body(x if mask is None else x * mask)
        if more is not None:
            hidden = hidden + more["a"][0]
        logits = scale * self.head(hidden.relu())
        if self.kind is dict:
            return {"hidden": hidden, "logits": logits}
        return logits if self.kind is Tensor else self.kind(hidden, logits)


def batch(count: int) -> dict[str, Any]:
    return {
        "x": torch.randn(count, 4),
        "mask": torch.ones(count, 4),
        "scale": 2.0,
        "more": {"a": [torch.randn(count, 6)]},
    }


def task_of(model: nn.Module, example: Any, calibration: Any = None, **settings: Any) -> Task:
    given = example if calibration is None else calibration
    return Task(lambda: model, lambda: given, lambda: example, lambda net: 0.0, "here", **settings)


@pytest.mark.parametrize("kind", [Result, Pair, dict])
def test_tensors_in_a_row_and_back(kind: Any) -> None:
    model, example = Net(kind).eval(), batch(2)
    task = task_of(model, example)
    adapted = task.model()
    inputs = task.example_inputs()
    assert task.interface.names == ("x", "mask", "more_a_0")
    assert [tuple(tensor.shape) for tensor in inputs] == [(2, 4), (2, 4), (2, 6)]
    wanted = model(**example)
    logits = wanted["logits"] if kind is dict else wanted.logits
    assert torch.equal(adapted(*inputs), logits)
    # The user's own code calls it as before, and finds its class and attributes.
    presented = task.interface.presented(adapted)
    assert type(presented) is Net
    assert presented.name == "mine"
    assert type(presented(**example)) is kind
    assert type(adapted) is not Net  # the copy that is worked on stays as it is


def test_a_runtime_in_the_models_place_gives_the_models_type() -> None:
    class Runtime(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return tensors[0][:, :3]

    task = task_of(Net(OrderedDictLike).eval(), batch(2))
    presented = task.interface.presented(Runtime())
    other = batch(5)
    found = presented(other["x"], other["mask"], scale=2.0, more=other["more"])
    assert isinstance(found, OrderedDictLike)
    assert torch.equal(found["logits"], other["x"][:, :3])
    assert found["hidden"] is None


class OrderedDictLike(OrderedDict):  # type: ignore[type-arg]
    """As the outputs of `transformers`: a mapping that is made from keywords."""

    def __init__(self, hidden: Any = None, logits: Any = None) -> None:
        super().__init__(hidden=hidden, logits=logits)


def test_positional_and_keyword_arguments_together() -> None:
    example = (torch.randn(1, 4), {"scale": 3.0, "mask": torch.ones(1, 4)})
    task = task_of(Net().eval(), example)
    assert task.interface.names == ("x", "mask")
    by_name = {"mask": torch.ones(2, 4), "x": torch.randn(2, 4)}
    assert task.interface.tensors(by_name, "there")[0] is by_name["x"]


def test_a_plain_model_is_handed_on_as_it_is() -> None:
    model = Net(Tensor).eval()
    task = task_of(model, torch.randn(1, 4))
    assert task.model() is model
    assert task.interface.presented(model) is model


def test_batches_are_joined_by_name() -> None:
    parts = [batch(3), dict(reversed(batch(2).items()))]
    task = task_of(Net().eval(), batch(1), parts)
    x, mask, more = task.calibration()
    assert len(x) == len(mask) == len(more) == 5
    assert torch.equal(x[3:], parts[1]["x"])


def test_which_output_counts() -> None:
    example = batch(1)
    chosen = task_of(Net().eval(), example, choose_output=lambda result: result.hidden)
    assert chosen.interface.output == ("hidden",)
    bad = task_of(Net().eval(), example, choose_output=lambda result: result.hidden + 1)
    with pytest.raises(TaskError, match=r"output\(\) must return one of the tensors"):
        bad.model()


@pytest.mark.parametrize(
    ("calibration", "error", "words"),
    [
        ({"x": torch.randn(3, 4)}, TaskError, r"inputs x; example_inputs\(\) gives x, mask"),
        ([], DataError, "returned no batches"),
        (batch(2) | {"mask": torch.ones(3, 4)}, DataError, "of one length, got 2, 3, 2"),
        ([batch(2), batch(2) | {"x": torch.randn(2, 5)}], DataError, "cannot be joined"),
    ],
)
def test_inputs_of_another_structure(calibration: Any, error: Any, words: str) -> None:
    task = task_of(Net().eval(), batch(1), calibration)
    with pytest.raises(error, match=words):
        task.calibration()


def test_a_model_that_gives_nothing_to_compare() -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"count": len(x), "numbers": x.long()}

    with pytest.raises(TaskError, match="holds no tensor of floating numbers"):
        task_of(Counts(), torch.randn(1, 4)).model()
