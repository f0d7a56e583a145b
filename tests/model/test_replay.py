"""Replay: a candidate's outputs are the same bit for bit wherever the run starts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.model.replay import Replay, Run


class Residual(nn.Module):
    """Three layers and a shortcut; with `spoil` a kept value is changed in place."""

    def __init__(self, spoil: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 3)
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        y = self.second(torch.relu(h))
        if self.spoil:
            h.add_(y)
            return self.third(h)
        return self.third(torch.relu(y + h))


class Branching(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.first(x)) if x.sum() > 0 else self.third(self.second(x))


UNITS = ("first", "second", "third")


def make(model: nn.Module, memory: int = 2**20) -> tuple[Replay, list[list[nn.Module]]]:
    torch.manual_seed(0)
    parts = [(torch.randn(5, 6),), (torch.randn(4, 6),)]
    menus = [
        [model.get_submodule(name), *(nn.Linear(6, 3 if name == "third" else 6) for _ in range(3))]
        for name in UNITS
    ]
    return Replay(model.eval(), UNITS, [36, 36, 18], parts, memory), menus


def whole(
    model: nn.Module, menus: list[list[nn.Module]], choices: tuple[int, ...], x: Tensor
) -> Tensor:
    for name, menu, choice in zip(UNITS, menus, choices, strict=True):
        setattr(model, name, menu[choice])
    with torch.no_grad():
        result: Tensor = model(x)
    for name, menu in zip(UNITS, menus, strict=True):
        setattr(model, name, menu[0])
    return result


@pytest.mark.parametrize("memory", [2**20, 300, 0])
def test_outputs_do_not_depend_on_what_is_kept(memory: int) -> None:
    model = Residual()
    replay, menus = make(model, memory)
    assert replay.reuses == (memory > 0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        choices = tuple(torch.randint(4, (3,), generator=generator).tolist())
        part = int(torch.randint(2, (1,), generator=generator))
        modules = [menu[choice] for menu, choice in zip(menus, choices, strict=True)]
        output, share = replay(Run(modules.__getitem__, choices), part)
        expected = whole(model, menus, choices, replay._parts[part][0])
        assert torch.equal(output, expected)
        assert 0 < share <= 1


def test_a_late_change_costs_a_part_of_the_work() -> None:
    replay, menus = make(Residual())
    modules = [menu[0] for menu in menus]
    assert replay(Run(modules.__getitem__, (0, 0, 0)), 0)[1] == 1
    late = [modules[0], modules[1], menus[2][1]]
    assert replay(Run(late.__getitem__, (0, 0, 1)), 0)[1] == pytest.approx(18 / 90)
    assert replay(Run(late.__getitem__, (0, 0, 1)), 1)[1] == 1  # the other part was never run
    replay.forget()
    assert replay(Run(late.__getitem__, (0, 0, 1)), 0)[1] == 1


def test_values_changed_in_place_are_noticed() -> None:
    replay, menus = make(Residual(spoil=True))
    assert "starts in the middle" in replay.reason
    output, share = replay(Run([menu[0] for menu in menus].__getitem__, (0, 0, 0)), 0)
    assert share == 1
    assert torch.equal(output, whole(replay._model, menus, (0, 0, 0), replay._parts[0][0]))


def test_a_model_with_branches_is_run_whole() -> None:
    replay, menus = make(Branching())
    assert "cannot be traced" in replay.reason
    modules = [menus[0][1], menus[1][2], menus[2][3]]
    output, _ = replay(Run(modules.__getitem__, (1, 2, 3)), 1)
    assert torch.equal(output, whole(replay._model, menus, (1, 2, 3), replay._parts[1][0]))


def test_what_no_other_run_shares_is_not_kept() -> None:
    replay, menus = make(Residual())
    dense = [menu[0] for menu in menus]
    first = replay(Run(dense.__getitem__, (0, 0, 0)), 0)[0]
    held = set(replay._kept)
    for choice in (1, 2, 3):
        modules = [dense[0], menus[1][choice], dense[2]]
        choices = (0, choice, 0)
        output, share = replay(Run(modules.__getitem__, choices, shared=1), 0)
        assert torch.equal(output, whole(Residual(), menus, choices, replay._parts[0][0]))
        assert share < 1, "it starts from the original's values"
    assert set(replay._kept) == held
    replay(Run(modules.__getitem__, choices), 0)
    assert set(replay._kept) > held
    assert torch.equal(replay(Run(dense.__getitem__, (0, 0, 0)), 0)[0], first)


class Hop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y: Tensor = x + scale * self.down(self.up(x).relu())
        return y


class Untraceable(nn.Module):
    """A chain of blocks behind control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Hop() for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.ones(1) if x.sum() > 1e9 else torch.full((1,), 0.5)
        for block in self.blocks:
            x = block(x, scale)
        y: Tensor = self.head(x)
        return y


HOPS = tuple(f"blocks.{index}.{name}" for index in range(4) for name in ("up", "down"))


@pytest.mark.parametrize("memory", [2**20, 300])
def test_a_chain_of_blocks_that_cannot_be_traced_starts_between_blocks(memory: int) -> None:
    torch.manual_seed(0)
    model = Untraceable().eval()
    units = (*HOPS, "head")
    menus = [
        [dense, *(nn.Linear(dense.in_features, dense.out_features) for _ in range(2))]
        for dense in map(model.get_submodule, units)
    ]
    parts = [(torch.randn(5, 6),), (torch.randn(4, 6),)]
    replay = Replay(model, units, [72] * 8 + [18], parts, memory)
    assert replay.reuses
    assert replay.left(8) < 0.3
    plain = Replay(model, units, [72] * 8 + [18], parts, 0)
    generator, spent = torch.Generator().manual_seed(1), 0.0
    for turn in range(40):
        # Later layers change more often, as they do when options are swapped.
        choices = torch.randint(3, (9,), generator=generator)
        choices[: turn % 9] = 0
        picks = tuple(choices.tolist())
        candidate = Run(lambda unit, picks=picks: menus[unit][picks[unit]], picks)
        output, share = replay(candidate, turn % 2)
        expected, whole_share = plain(candidate, turn % 2)
        assert torch.equal(output, expected)
        assert whole_share == 1
        spent += share
    if memory > 300:
        assert spent < 30
    assert all("forward" not in vars(module) for module in model.modules())
