"""A net whose channels can go, with its groups, its bank and what is stored of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from autocompress.compression.bank import Bank
from autocompress.compression.channels import Channels, order_pieces, usable
from autocompress.compression.moments import Statistics, collect
from autocompress.model.channels import ChannelGroup
from autocompress.model.grouping import find_groups
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.search_space.option import Option
from autocompress.search_space.widths import SharedWidth, share_widths


class Net(nn.Module):
    """An inverted residual, a residual, and a convolution that is flattened into a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.up, self.down = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1, bias=False)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.last = nn.Conv2d(8, 12, 3, padding=1)
        self.fc, self.head = nn.Linear(192, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.up(x))))
        x = nn.functional.max_pool2d(self.last(x + self.down(y)).relu(), 2)
        return self.head(self.fc(x.flatten(1)).relu())


@dataclass(frozen=True)
class Parts:
    model: Net
    layers: dict[str, Layer]
    statistics: dict[str, Statistics]
    groups: tuple[ChannelGroup, ...]
    widths: tuple[SharedWidth, ...]
    channels: Channels
    inputs: Tensor
    fresh: Tensor


@cache
def parts(seed: int = 0) -> Parts:
    """The net, taught a little, with groups in steps of four channels."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(5, 3, 16, 16, generator=generator)
    patterns = nn.functional.avg_pool2d(patterns, 3, 1, 1) * 3
    labels = torch.randint(5, (500,), generator=generator)
    x = patterns[labels] + torch.randn(500, 3, 16, 16, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(25):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[:200]), labels[:200]).backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    records = trace(model, (x[:1],))
    layers = {layer.name: layer for layer in records}
    inputs, fresh = x[200:350], x[350:]
    statistics = collect(model, records, (inputs,))
    groups = tuple(usable(find_groups(model, records, (x[:1],), 4), layers))
    widths = share_widths(groups, layers, [0.75, 0.5, 0.25], 4)
    channels = Channels(groups, order_pieces(model, groups, statistics.__getitem__))
    return Parts(model, layers, statistics, groups, widths, channels, inputs, fresh)


DENSE = Option()


def options_at(made: Parts, levels: dict[str, int], base: Option = DENSE) -> dict[str, Option]:
    """Every layer with the widths of some levels, compressed further like `base`."""
    choices = {}
    for name in made.layers:
        inputs = outputs = 1.0
        for width in made.widths:
            inputs = width.inputs.get(name, (inputs,) * 9)[levels[width.name]]
            outputs = width.outputs.get(name, (outputs,) * 9)[levels[width.name]]
        own = replace(base, rank=1.0) if made.layers[name].groups > 1 else base
        choices[name] = replace(own, inputs=inputs, outputs=outputs)
    return choices


def banked(made: Parts, folder: Path, choices: dict[str, Option]) -> Bank:
    bank = Bank(folder, "content", made.channels)
    for name, option in choices.items():
        module = made.model.get_submodule(name)
        bank.fill(
            made.layers[name],
            module,
            lambda n=name: made.statistics[n],
            [option],  # type: ignore[misc]
        )
    return bank


def kept_pieces(made: Parts, levels: dict[str, int]) -> dict[ChannelGroup, list[int]]:
    kept = {}
    for group, order, width in zip(made.groups, made.channels.orders, made.widths, strict=True):
        producer = group.producers[0]
        share = width.outputs[producer.name][levels[width.name]]
        count = round(share * made.layers[producer.name].weight_shape[0]) // producer.width
        kept[group] = sorted(set(range(group.size)) - set(order[: group.size - count]))
    return kept
