"""Channel groups: what is tied, what is frozen, and that narrower models compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import ConfigError
from autocompress.model.channels import ChannelGroup, group_rows
from autocompress.model.grouping import find_groups
from autocompress.model.shrink import masked, shrink
from autocompress.model.trace import trace

Net = Callable[[str], tuple[nn.Module, tuple[Tensor, ...]]]


def found(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, ChannelGroup]:
    groups = find_groups(model, trace(model, inputs), inputs, 4)
    assert len({group.name for group in groups}) == len(groups)
    return {group.name: group for group in groups}


def members(group: ChannelGroup) -> tuple[dict[str, int], dict[str, int], set[str]]:
    return (
        {member.name: member.width for member in group.producers},
        {member.name: member.width for member in group.consumers},
        {member.name for member in group.passing},
    )


# Name of the group: pieces, producers, consumers, passing, words of the reason.
def encoder(mixed: str, qkv: str = "") -> dict[str, Any]:
    """Groups of an encoder block: why its stream stays whole, and why its heads, if they do."""
    stream = {"embed": 24, "out": 24, "fc2": 24}, {"qkv": 24, "fc1": 24, "head": 24}
    return {
        "embed": (1, *stream, set(), mixed),
        "qkv": (3, {"qkv": 24}, {"out": 8}, set(), qkv),
        "fc1": (48, {"fc1": 1}, {"fc2": 1}, set(), ""),
        "head": (5, {"head": 1}, {}, set(), "reaches the model's output"),
    }


EXPECTED: dict[str, dict[str, tuple[int, dict[str, int], dict[str, int], set[str], str]]] = {
    "residual": {
        "stem.0": (
            8,
            {"stem.0": 1, "b.0": 1},
            {"a.0": 1, "c.0": 1, "shortcut.0": 1},
            {"stem.1", "b.1"},
            "",
        ),
        "a.0": (12, {"a.0": 1}, {"b.0": 1}, {"a.1"}, ""),
        "c.0": (16, {"c.0": 1}, {"d.0": 1}, {"c.1"}, ""),
        "d.0": (16, {"d.0": 1, "shortcut.0": 1}, {"fc": 1}, {"d.1", "shortcut.1"}, ""),
        "fc": (5, {"fc": 1}, {}, set(), "reaches the model's output"),
    },
    "lenet": {
        "conv1": (8, {"conv1": 1}, {"conv2": 1}, set(), ""),
        "conv2": (12, {"conv2": 1}, {"fc1": 16}, set(), ""),
        "fc1": (24, {"fc1": 1}, {"fc2": 1}, set(), ""),
        "fc2": (5, {"fc2": 1}, {}, set(), "reaches the model's output"),
    },
    "hard lenet": {
        "conv1": (8, {"conv1": 1}, {"conv2": 1}, set(), ""),
        "conv2": (12, {"conv2": 1}, {"fc1": 16}, set(), "a narrower model fails: mat1"),
        "fc1": (24, {"fc1": 1}, {"fc2": 1}, set(), ""),
        "fc2": (5, {"fc2": 1}, {}, set(), "reaches the model's output"),
    },
    "mobile": {
        "stem.0": (
            8,
            {"stem.0": 1, "down.0": 1},
            {"up.0": 1, "fc": 1},
            {"stem.1", "down.1"},
            "",
        ),
        "up.0": (
            24,
            {"up.0": 1},
            {"down.0": 1},
            {"up.1", "depthwise.0", "depthwise.1"},
            "",
        ),
        "fc": (5, {"fc": 1}, {}, set(), "reaches the model's output"),
    },
    "gated mobile": {
        "stem.0": (
            8,
            {"stem.0": 1, "down.0": 1},
            {"up.0": 1, "fc": 1},
            {"stem.1", "down.1"},
            "",
        ),
        "up.0": (
            24,
            {"up.0": 1, "excite": 1},
            {"squeeze": 1, "down.0": 1},
            {"up.1", "depthwise.0", "depthwise.1"},
            "",
        ),
        "squeeze": (6, {"squeeze": 1}, {"excite": 1}, set(), ""),
        "fc": (5, {"fc": 1}, {}, set(), "reaches the model's output"),
    },
    "dense": {
        "stem.0": (
            8,
            {"stem.0": 1},
            {"conv1": 1, "conv2": 1, "fc": 1},
            {"stem.1", "norm1", "norm2", "norm3"},
            "",
        ),
        "conv1": (4, {"conv1": 1}, {"conv2": 1, "fc": 1}, {"norm2", "norm3"}, ""),
        "conv2": (4, {"conv2": 1}, {"fc": 1}, {"norm3"}, ""),
        "fc": (5, {"fc": 1}, {}, set(), "reaches the model's output"),
    },
    "encoder": encoder("its 24 channels are mixed"),
    "hard encoder": encoder(
        "also read parameters of the model itself, parameters of LayerNorm 'norm1'",
        "a narrower model fails: shape",
    ),
    "counted encoder": encoder("LayerNorm 'norm2' and 1 more"),
    "grouped": {
        "a.0": (6, {"a.0": 4}, {"b.0": 4}, {"a.1", "grouped.0", "grouped.1"}, ""),
        "b.0": (4, {"b.0": 2}, {"c": 2}, {"b.1", "norm"}, ""),
        "c": (1, {"c": 6}, {"d": 4}, set(), "ConvTranspose2d 'transposed'"),
        "d": (8, {"d": 1}, {"fc": 1}, {"act"}, ""),
        "fc": (5, {"fc": 1}, {}, set(), "reaches the model's output"),
    },
    "open": {
        "a": (8, {"a": 1}, {"b": 1}, set(), "reaches the model's output"),
        "a#2": (8, {"a": 1}, {"b": 1}, set(), ""),
        "b": (3, {"b": 1}, {"c": 1}, set(), "its columns also read the model's input"),
        "c": (4, {"c": 1}, {}, set(), "reaches the model's output"),
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_are_what_the_model_ties(net: Net, name: str) -> None:
    model, inputs = net(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    groups = found(model, inputs)
    assert list(groups) == list(EXPECTED[name])
    for key, (size, producers, consumers, passing, reason) in EXPECTED[name].items():
        group = groups[key]
        assert group.size == size
        assert members(group) == (producers, consumers, passing)
        assert bool(group.frozen) == bool(reason)
        assert reason in group.frozen
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", EXPECTED)
def test_narrower_models_compute_what_masked_ones_do(net: Net, name: str) -> None:
    model, inputs = net(name)
    rng = np.random.default_rng(1)
    free = [group for group in found(model, inputs).values() if not group.frozen]
    kept = {g: rng.permutation(g.size)[: int(rng.integers(1, g.size))].tolist() for g in free}
    small, whole = shrink(model, kept), masked(model, kept)
    with torch.no_grad():
        wanted = whole(*inputs)
        assert torch.allclose(small(*inputs), wanted, atol=1e-5 * float(wanted.abs().max()))
        assert not torch.allclose(wanted, model(*inputs), atol=1e-3)
    removed: dict[str, int] = {}
    for group, pieces in kept.items():
        for member in group.producers:
            gone = (group.size - len(pieces)) * member.width
            removed[member.name] = removed.get(member.name, 0) + gone
    for layer, gone in removed.items():
        assert small.get_parameter(f"{layer}.weight").shape[0] + gone == len(
            model.get_parameter(f"{layer}.weight")
        )


class Bound(nn.Module):
    """Takes one example at a time only; the second net mixes the examples of a batch."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes = mixes
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        y = y - y.mean(0) if self.mixes else y.reshape(1, -1)
        return self.b(y + 1)


@pytest.mark.parametrize("mixes", [False, True])
def test_models_that_take_one_example_are_marked_one_by_one(mixes: bool) -> None:
    torch.manual_seed(0)
    groups = found(Bound(mixes).eval(), (torch.randn(1, 4),))
    assert members(groups["a"]) == ({"a": 1}, {"b": 1}, set())
    assert not groups["a"].frozen


def test_attributes_that_count_heads_are_changed_with_them(net: Net) -> None:
    model, inputs = net("counted encoder")
    group = found(model, inputs)["qkv"]
    assert {(c.module, c.attribute, c.each) for c in group.counters} == {
        ("", "num_heads", 1),
        ("", "inner", 8),
    }
    small = shrink(model, {group: [0, 2]})
    assert (small.num_heads, small.inner) == (2, 16)
    assert (model.num_heads, model.inner) == (3, 24)
    assert shrink(model, {group: [0, 1, 2]}).num_heads == 3


class Library(nn.Module):
    """Torch's own encoder layer, which calls a fused kernel where it may; two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(3, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.c = nn.Linear(16, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c(self.layer(self.a(input=x) + self.b(y)[:, None]).mean(1))


def test_layers_inside_a_fused_encoder_are_seen() -> None:
    torch.manual_seed(0)
    groups = found(Library().eval(), (torch.randn(2, 5, 6), torch.randn(2, 3)))
    hidden = groups["layer.linear1"]
    assert members(hidden) == ({"layer.linear1": 1}, {"layer.linear2": 1}, set())
    assert not hidden.frozen
    assert "are mixed with each other" in groups["a"].frozen


class Few(nn.Module):
    """Attention over three tokens, where fused kernels lose marks."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 48), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, -1, 4)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


def test_heads_are_found_with_few_tokens() -> None:
    torch.manual_seed(0)
    groups = found(Few().eval(), (torch.randn(1, 3, 6),))
    assert (groups["qkv"].size, groups["qkv"].width, groups["qkv"].frozen) == (4, 12, "")


class Lossy(nn.Module):
    """Marks do not pass through a comparison: only verification sees this tie."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) * (self.b(x) > 0))


def test_a_tie_that_marks_cannot_see_is_caught_by_verification() -> None:
    torch.manual_seed(0)
    groups = found(Lossy().eval(), (torch.randn(2, 4),))
    assert "a narrower model fails" in groups["a"].frozen
    assert "no layer reads it" in groups["b"].frozen


class Halves(nn.Module):
    """Each half of one layer's channels goes to another reader, cut at a fixed index."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).split(4, dim=1)
        return self.b(first) + self.c(second)


def test_channels_behind_a_fixed_index_are_frozen() -> None:
    torch.manual_seed(0)
    groups = found(Halves().eval(), (torch.randn(2, 4),))
    assert [group.size for group in groups.values()][:2] == [4, 4]
    assert groups["a"].frozen
    assert not groups["a#2"].frozen or "narrower" in groups["a#2"].frozen


def test_kept_pieces_are_checked(net: Net) -> None:
    model, inputs = net("lenet")
    groups = found(model, inputs)
    assert groups["conv1"].counts(4) == (4,)
    assert groups["conv1"].counts(3) == (3, 6)
    with pytest.raises(ConfigError, match="at least 1"):
        groups["conv1"].counts(0)
    with pytest.raises(ConfigError, match="no piece 8"):
        shrink(model, {groups["conv1"]: [0, 8]})
    with pytest.raises(ConfigError, match="at least one"):
        shrink(model, {groups["conv1"]: []})
    with pytest.raises(ConfigError, match="cannot shrink: reaches"):
        masked(model, {groups["fc2"]: [0]})
    whole = shrink(model, {group: range(group.size) for group in groups.values()})
    assert torch.equal(whole(*inputs), model(*inputs))
    assert whole is not model


def test_rows_say_what_there_is(net: Net) -> None:
    model, inputs = net("lenet")
    rows = group_rows(list(found(model, inputs).values()), 8)
    assert [row["widths"] for row in rows] == [[], [8], [8, 16], []]
    assert rows[1] == {
        "name": "conv2",
        "producers": ["conv2"],
        "consumers": ["fc1"],
        "passing": [],
        "pieces": 12,
        "channels": 12,
        "widths": [8],
        "step": 8,
        "frozen": "",
    }
