"""The table of channel groups says what may shrink, and why the rest may not."""

from __future__ import annotations

from rich.console import Console

from autocompress.model.channels import ChannelGroup, Member, group_rows
from autocompress.report.group_table import groups_table


def member(name: str, pieces: int, width: int = 1) -> Member:
    return Member(name, tuple(tuple(range(p * width, (p + 1) * width)) for p in range(pieces)))


def test_a_row_for_every_group() -> None:
    groups = [
        ChannelGroup("conv", tuple(member(f"conv{i}", 64) for i in range(5)), (member("fc", 64),)),
        ChannelGroup("qkv", (member("qkv", 3, 24),), (member("out", 3, 8),)),
        ChannelGroup("small", (member("small", 8),), (member("next", 8),)),
        ChannelGroup("[red]", (member("[red]", 10),), (), frozen="reaches the model's output"),
    ]
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(groups_table(group_rows(groups, 8)))
    text = captured.get()
    assert "8 16 24 32 … 56" in text
    assert "and 2 more" in text
    assert "3 × 24" in text
    assert "24 48" in text
    assert "none: fewer than two steps of 8" in text
    assert "[red]" in text
    assert "reaches the model's output" in text
    assert "3 of 4 channel groups may become narrower" in text
