"""Chains of blocks: what is one, what is none, and that walking along it is running the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autocompress.model.blocks import find_chain
from autocompress.model.chain import Stopped, Walk
from autocompress.model.shelf import Shelf


class Block(nn.Module):
    def __init__(self, form: str = "tensor") -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.form = form

    def forward(self, x: Tensor, mask: Tensor, scale: float = 1.0):
        y = x + scale * self.down(self.up(x).relu()) * mask
        return {"tensor": y, "tuple": (y, None), "list": [y]}[self.form]


class Blocks(nn.Module):
    """An embedding, blocks, a norm and a head, as language models are."""

    def __init__(self, form: str = "tensor", named: bool = False, count: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(20, 8)
        self.norm = nn.LayerNorm(8)  # runs last, is defined before
        self.blocks = nn.ModuleList(Block(form) for _ in range(count))
        self.head = nn.Linear(8, 20)
        self.named = named

    def forward(self, ids: Tensor) -> Tensor:
        x, mask = self.words(ids), (ids > 0).float().unsqueeze(-1)
        for block in self.blocks:
            given = block(mask=mask, x=x) if self.named else block(x, mask, scale=0.5)
            x = given if isinstance(given, Tensor) else given[0]
        return self.head(self.norm(x))


def ids(count: int = 10) -> Tensor:
    return torch.randint(20, (count, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", ["tensor", "tuple", "list"])
@pytest.mark.parametrize("named", [False, True])
def test_a_walk_along_the_chain_gives_what_the_model_gives(form: str, named: bool) -> None:
    model, inputs = Blocks(form, named).eval(), (ids(),)
    chain = find_chain(model, (ids(1),))
    assert chain is not None
    assert chain.names == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
    assert [
        chain.stage(name) for name in ("words", "blocks.0.up", "blocks.3", "norm", "head")
    ] == [
        0,
        1,
        4,
        5,
        5,
    ]
    for memory in (0, 500, 10**9):  # on disk, in part, in memory
        walk = Walk(model, chain, inputs, 4, memory)
        for stage in (0, 1, 1, 3, 3, 4):
            assert walk.run(stage) == []
        outputs = walk.run(chain.last)
        assert [len(output) for output in outputs] == [4, 4, 2]
        torch.testing.assert_close(torch.cat(outputs), model(ids()))
        walk.run(2)  # begins anew
        torch.testing.assert_close(torch.cat(walk.run(chain.last)), model(ids()))
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_stage_runs_its_block_alone() -> None:
    model = Blocks().eval()
    chain = find_chain(model, (ids(1),))
    assert chain is not None
    calls: Counter[str] = Counter()

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(count(name))
    walk = Walk(model, chain, (ids(),), 5)
    walk.run(3)
    assert calls == {name: 2 for name in calls}
    assert {"words", "blocks.2.up"} <= set(calls)
    assert not {"head", "norm", "blocks.3"} & set(calls)
    walk.run(3)
    assert (calls["blocks.2"], calls["blocks.1"], calls["words"]) == (4, 2, 2)
    walk.run(chain.last)
    assert (calls["blocks.3.up"], calls["blocks.2.up"]) == (2, 4)


class Branching(Blocks):
    """Something is done between the blocks."""

    def forward(self, ids: Tensor) -> Tensor:
        x, mask = self.words(ids), torch.ones(1)
        for block in self.blocks:
            x = 0.5 * block(x, mask)
        return self.head(x)


class Skipping(Blocks):
    """What comes behind looks at what two blocks gave."""

    def forward(self, ids: Tensor) -> Tensor:
        x, mask, seen = self.words(ids), torch.ones(1), []
        for block in self.blocks:
            x = block(x, mask)
            seen.append(x)
        return self.head(seen[0] + x)


class Caching(Blocks):
    """Blocks write into something that they have in common."""

    def forward(self, ids: Tensor) -> Tensor:
        x, cache = self.words(ids), Cache()
        for block in self.blocks:
            x = block(x, cache)
        return self.head(x)


class Cache:
    def __rmul__(self, other: Tensor) -> Tensor:
        return other


class Twice(Blocks):
    """One block runs two times."""

    def forward(self, ids: Tensor) -> Tensor:
        x, mask = self.words(ids), torch.ones(1)
        for block in (*self.blocks, self.blocks[0]):
            x = block(x, mask)
        return self.head(x)


@pytest.mark.parametrize("kind", [Branching, Skipping, Caching, Twice])
def test_what_is_no_chain_is_none(kind: type[Blocks]) -> None:
    assert find_chain(kind().eval(), (ids(2),)) is None


def test_the_list_with_the_most_parameters_is_taken() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), nn.Linear(8, 2)).eval()
    chain = find_chain(model, (torch.randn(2, 8),))
    assert chain is not None
    assert chain.names == ("0", "1")
    assert chain.stage("0.1") == 1


def test_an_end_of_the_pass_is_no_error_that_a_model_catches() -> None:
    assert not issubclass(Stopped, Exception)


def test_a_shelf_gives_back_what_was_put_there_before_it_changed() -> None:
    shelf = Shelf(100)
    tensors = [
        torch.randn(4, 4),
        torch.arange(6).reshape(2, 3),
        torch.randn(50),
        torch.zeros(0, 3),
    ]
    expected = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        shelf.append(tensor)
        tensor.zero_()
    for _ in range(2):
        found = list(shelf)
        assert len(found) == len(shelf) == 4
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
            one.zero_()
