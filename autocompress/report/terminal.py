"""Printing to the terminal."""

from __future__ import annotations


def say(text: str, style: str = "") -> None:
    """Prints a line as it is, however long, without colouring numbers and paths."""
    from rich.console import Console

    console = Console(markup=False, emoji=False)
    console.print(text, style=style, highlight=False, soft_wrap=True)
