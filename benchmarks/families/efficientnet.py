"""EfficientNet-Lite0 for 224x224 images: EfficientNet-B0 (Tan and Le 2019, 1905.11946, table 1)
without squeeze-and-excitation and with ReLU6, as Google published it for phones in 2020.

Padding is TensorFlow's `SAME`: a convolution of stride 2 pads one more below and to the right.
"""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, kernel, output channels, blocks, stride of the first block.
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
EPSILON = 1e-3  # of the batch norms


def same(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Module:
    """A convolution with `SAME` padding, for even heights and widths."""
    reach = kernel // 2
    if stride == 1:
        return nn.Conv2d(inputs, outputs, kernel, padding=reach, groups=groups, bias=False)
    return nn.Sequential(
        nn.ZeroPad2d((reach - 1, reach, reach - 1, reach)),
        nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False),
    )


class Block(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1 without an activation."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = nn.Sequential(
                nn.Conv2d(inputs, hidden, 1, bias=False),
                nn.BatchNorm2d(hidden, EPSILON),
                nn.ReLU6(),
            )
        self.depthwise = same(hidden, hidden, kernel, stride, groups=hidden)
        self.norm1 = nn.BatchNorm2d(hidden, EPSILON)
        self.activation = nn.ReLU6()
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs, EPSILON)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`(n, inputs, h, w)` to `(n, outputs, h / stride, w / stride)`."""
        y = self.activation(self.norm1(self.depthwise(self.expand(x))))
        y = self.norm2(self.project(y))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """Stem, sixteen blocks, head: 4 652 008 parameters, 0.39 G multiply-adds."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = same(3, 32, 3, 2)
        self.norm1 = nn.BatchNorm2d(32, EPSILON)
        blocks, inputs = [], 32
        for expansion, kernel, outputs, count, stride in STAGES:
            for index in range(count):
                first = stride if index == 0 else 1
                blocks.append(Block(inputs, outputs, expansion, kernel, first))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(1280, EPSILON)
        self.activation = nn.ReLU6()
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 3, 224, 224)` images to `(n, classes)` logits."""
        x = self.blocks(self.activation(self.norm1(self.stem(x))))
        x = self.activation(self.norm2(self.head(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
