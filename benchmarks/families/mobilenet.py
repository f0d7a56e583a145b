"""MobileNetV2 (Sandler et al. 2018, 1801.04381, table 2) for 224x224 images."""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, output channels, blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def step(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without an activation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = step(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = step(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`(n, inputs, h, w)` to `(n, outputs, h / stride, w / stride)`."""
        y: Tensor = self.norm(self.project(self.depthwise(self.expand(x))))
        return x + y if self.is_residual else y


class MobileNetV2(nn.Module):
    """Stem, seventeen blocks, head: 3 504 872 parameters, 0.30 G multiply-adds."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = step(3, 32, 3, 2)
        blocks, inputs = [], 32
        for expansion, outputs, count, stride in STAGES:
            for index in range(count):
                first = stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, expansion, first))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = step(inputs, 1280, 1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 3, 224, 224)` images to `(n, classes)` logits."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
