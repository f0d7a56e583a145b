"""A packed archive in the terminal: where it comes from, its layers, its bytes by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from autocompress.report.plain_table import plain_table
from autocompress.report.units import (
    NOTHING,
    count_text,
    printable,
    shape_text,
    share_text,
    shortened,
    size_text,
)

if TYPE_CHECKING:
    from autocompress.deploy.inspect import Content, LayerContent

_NAME_WIDTH, _SHORT_NAME = 24, 14
WIDE = 120  # columns that the bytes of every part need
_PARTS = {
    "codes": "codes and their frequency tables",
    "scales": "scales, zero points, codebooks",
    "bias": "biases",
    "grids": "grids, channels, lengths",
    "names": "option ids, flags, shapes",
    "index": "header, metadata, names, checksum",
    "tensors": "untreated tensors",
}


def archive_lines(path: object, content: Content) -> list[str]:
    """Header and metadata in sentences."""
    lines = [
        f"{path}: packed archive, version {content.version}, coder {content.coder},"
        f" checksum {content.checksum} (sound)"
    ]
    lines += [f"  {name}: {value}" for name, value in content.metadata.items()]
    return [printable(line) for line in lines]


def archive_layers_table(content: Content, width: int = 160) -> Table:
    """A row a layer; a narrow terminal gets the columns that say most.

    Args:
        content: The archive.
        width: Columns of the terminal.
    """
    parts = ("codes", "scales", "bias", "grids", "names") if width >= WIDE else ()
    table = plain_table()
    table.add_column("layer", no_wrap=True)
    table.add_column("option", overflow="fold")
    for name in ("shape", "zeros", "bits/w", "bytes", *parts, "entropy", "ratio", "of f32"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in content.layers:
        table.add_row(
            Text(shortened(layer.name, _NAME_WIDTH if parts else _SHORT_NAME)),
            Text(printable(layer.option)),
            shape_text(layer.shape),
            share_text(layer.zeros),
            f"{layer.bits_per_weight:.2f}",
            count_text(layer.total_bytes),
            *(count_text(layer.bytes[part]) for part in parts),
            count_text(layer.entropy_bytes),
            _ratio(layer),
            share_text(layer.total_bytes / max(1, layer.float32_bytes), 2),
        )
    table.caption = "ratio: coded bytes over the codes' order-0 entropy; bits/w: of all weights"
    table.caption_justify = "left"
    return table


def archive_parts_table(content: Content) -> Table:
    """The file's bytes by part."""
    table = plain_table()
    table.add_column("part", no_wrap=True)
    for name in ("bytes", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for part, label in _PARTS.items():
        count = content.bytes[part]
        table.add_row(label, count_text(count), share_text(count / content.size_bytes))
    table.add_row("file", count_text(content.size_bytes), "", style="bold")
    return table


def archive_totals(content: Content) -> list[str]:
    """What the whole comes to."""
    ratio = content.float32_bytes / content.size_bytes
    lines = [
        f"{size_text(content.size_bytes)}; {size_text(content.float32_bytes)} in float32:"
        f" {ratio:.1f} times smaller"
    ]
    if content.entropy_bytes:
        lines.append(
            f"coded / order-0 entropy: {content.coded_bytes / content.entropy_bytes:.3f}"
            f" ({count_text(content.coded_bytes)} of {count_text(content.entropy_bytes)} bytes)"
        )
    return lines


def _ratio(layer: LayerContent) -> str:
    if not layer.entropy_bytes or layer.coded_bytes is None:
        return NOTHING
    return f"{layer.coded_bytes / layer.entropy_bytes:.3f}"
