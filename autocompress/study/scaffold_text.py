"""What `autocompress init` writes: the words of `study.toml` and of two kinds of `task.py`.

`@NAME@` in them is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping

STUDY = """\
# What is wanted of the study @NAME@.  Options of `autocompress run` go before these keys.
schema = 1
description = @DESCRIPTION@

# What may be chosen for each layer: "storage" is for small files, "int8_mixed" for speed,
# "structured" also removes channels; or a path ending in .toml.
space = "@SPACE@"

# What is made small when there is no goal: "balanced", "smallest", "fastest" or "pareto".
objective = "balanced"

# Where the model will run; `autocompress devices` lists what there is.
device = "onnxruntime-cpu"

# What evaluate() of task.py returns.
metric = "@METRIC@"
metric_direction = "maximize"
metric_unit = "%"

# Candidates that the search measures on the calibration inputs: more is better and slower.
evaluations = @EVALUATIONS@
seed = 0

# Limits, kept as measured.  Size and latency: a share of the original, "2 MB" or "3 ms".
# Quality: what may be lost, in points of the metric.
[budget]
size = "@SIZE@"
quality = "@QUALITY@"
"""

EXAMPLE = '''\
"""@NAME@: a small net that tells six noisy patterns apart.

An example that runs at once; put your own in its place.  A study needs the four functions at the
end.  The images are drawn, a seed for each part, so that no image is in two of them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights.safetensors")
CLASSES = 6
SEEDS = {"training": 0, "calibration": 1, "selection": 2, "test": 3}
COUNTS = {"training": 2000, "calibration": 512, "selection": 500, "test": 1000}


class Net(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc1 = nn.Linear(64, 64)
        self.fc2 = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, 1, 8, 8)` to logits `(n, CLASSES)`."""
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


def images(part: str) -> tuple[Tensor, Tensor]:
    """Images `(n, 1, 8, 8)` of one part and their classes `(n,)`."""
    patterns = 3 * torch.randn(CLASSES, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    patterns = patterns.repeat_interleave(2, 2).repeat_interleave(2, 3)
    generator = torch.Generator().manual_seed(SEEDS[part])
    labels = torch.randint(CLASSES, (COUNTS[part],), generator=generator)
    noise = torch.randn(COUNTS[part], 1, 8, 8, generator=generator)
    return patterns[labels] + 6 * noise, labels


def train() -> None:
    """Trains the net for a few seconds and keeps its weights."""
    torch.manual_seed(0)
    net, (x, y) = Net(), images("training")
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(10):
        for rows in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    save_file(net.state_dict(), WEIGHTS)


def model() -> nn.Module:
    """The trained model in evaluation mode; the first call trains it."""
    if not WEIGHTS.is_file():
        train()
    net = Net()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def calibration() -> Tensor:
    """Inputs as in use, without labels: options are fitted to them.  500 or more are better."""
    return images("calibration")[0]


def example_inputs() -> Tensor:
    """One input as the device will see it."""
    return images("calibration")[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent on `selection`, which chooses, or `test`, which the winner meets."""
    x, y = images(split)
    return 100 * (net(x).argmax(1) == y).double().mean().item()
'''

MODEL = '''\
"""@TITLE@

Inputs and labels are read from `data.npz` in this folder, which is yours to write:

    import numpy as np

    np.savez(
        "data.npz",
@ARRAYS@
    )

Calibration inputs are 500 or more as the model will meet them, prepared as for the model; options
are fitted to them.  Selection inputs choose among candidates, test inputs judge the winner once:
no input may be in two of the three.  Labels are class numbers, `(n,)`.  Without them the metric is
agreement with the original model's answers.
"""

from __future__ import annotations

@IMPORTS@

DATA = Path(__file__).with_name("data.npz")
INPUTS = @INPUTS@  # in the order of forward()
BATCH = 64  # inputs of one pass in evaluate()
@CONSTANTS@

@LOADER@


def array(name: str) -> Tensor | None:
    """An array of `data.npz`; None where there is none of that name."""
    if not DATA.is_file():
        raise FileNotFoundError(f"{DATA} is not there; the head of task.py says what it holds")
    with np.load(DATA, allow_pickle=False) as file:
        return torch.from_numpy(file[name]) if name in file else None


def inputs(part: str) -> tuple[Tensor, ...]:
    """All inputs of `calibration`, `selection` or `test`, one tensor `(n, ...)` each."""
    found = {f"{part}_{name}": array(f"{part}_{name}") for name in INPUTS}
    if missing := [name for name, value in found.items() if value is None]:
        raise ValueError(f"{DATA} holds no {', '.join(missing)}")
    return tuple(found.values())


def calibration() -> tuple[Tensor, ...]:
    """Inputs as in use, without labels."""
    return inputs("calibration")


def example_inputs() -> tuple[Tensor, ...]:
    """One input as the device will see it."""
    return tuple(tensor[:1] for tensor in inputs("calibration"))


@torch.no_grad()
def answers(net: nn.Module, split: str) -> Tensor:
    """The class with the largest output, which is the last dimension of what the model returns."""
    parts = zip(*(tensor.split(BATCH) for tensor in inputs(split)), strict=True)
    return torch.cat([net(*part).argmax(-1) for part in parts])


@cache
def right(split: str) -> Tensor:
    """The labels of a split, or else what the original model answers."""
    labels = array(f"{split}_labels")
    return answers(model(), split) if labels is None else labels


def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Right answers in percent on `selection` or `test`; any other number will do as well."""
    return 100 * (answers(net, split) == right(split)).double().mean().item()
'''

_FUNCTION = '''\
def model() -> nn.Module:
    """The trained model in evaluation mode, on the CPU."""
    sys.path.insert(0, str(Path(__file__).parent / @ROOT@))
    try:
        from @MODULE@ import @FUNCTION@
    finally:
        sys.path.pop(0)
    return @FUNCTION@().eval()'''

_EXPORTED = '''\
def model() -> nn.Module:
    """The exported program with layers that can be compressed, in evaluation mode."""
    return load_exported(MODEL)'''

_TRANSFORMERS = '''\
class Logits(nn.Module):
    """A model of transformers that takes its inputs in order and returns one tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs in the order of `INPUTS` to logits."""
        return self.net(**dict(zip(INPUTS, inputs, strict=True)), return_dict=True).logits


def model() -> nn.Module:
    """The model of the folder in evaluation mode; pickled weights are not loaded."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError("this study needs transformers: pip install transformers") from error
    transformers.utils.logging.disable_progress_bar()
    kind = transformers.@ARCHITECTURE@
    net = kind.from_pretrained(MODEL, local_files_only=True, use_safetensors=True)
    net.config.use_cache = False  # a cache would be a second output
    return Logits(net.float()).eval()'''

LOADERS = {"function": _FUNCTION, "exported": _EXPORTED, "transformers": _TRANSFORMERS}


def fill(text: str, values: Mapping[str, object]) -> str:
    """The text with each `@NAME@` replaced."""
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text
