"""Statistics in groups of layers are those of one pass, bit for bit, and take the memory of one
group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.calibration import Calibration, statistics_bytes
from autocompress.compression.moments import Statistics, collect
from autocompress.model.layer import Layer
from autocompress.model.trace import trace


def make() -> tuple[nn.Module, list[Layer], tuple[Tensor, ...]]:
    """Convolutions, one of them in groups, and linear layers; most pass their grid on."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(64, 12),
        nn.GELU(),
        nn.Linear(12, 3),
    ).eval()
    x = torch.randn(300, 2, 8, 8)
    return model, list(trace(model, (x[:1],))), (x,)


def same(one: Statistics, other: Statistics) -> bool:
    assert one.input_grid == other.input_grid
    assert one.output_grid == other.output_grid
    assert one.damping == other.damping
    for name in ("second_moment", "mean", "sample", "row_weights"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    return True


@pytest.mark.parametrize("room", [0, 150_000, 10**9])
def test_groups_give_what_one_pass_gives(room: int) -> None:
    model, layers, inputs = make()
    assert [layer.source for layer in layers[:3]] == ["", "0", "2"], "grids are passed on"
    treated = [layer for layer in layers if layer.is_treated]
    wanted = collect(model, treated, inputs, damping=0.02)
    found = Calibration(model, treated, inputs, 0.02, room)
    assert list(found) == list(wanted)
    assert [name for group in found.groups for name in group] == list(wanted)
    assert all(same(found[name], wanted[name]) for name in wanted)
    assert found.passes == 1 or len(found.groups) < 5, "each layer is a block of its own"
    assert (room < 10**9) == (len(found.groups) == len(treated) == 5)
    assert (room == 10**9) == (len(found.groups) == 1)
    for group in found.groups:
        size = sum(statistics_bytes(layer, 300) for layer in treated if layer.name in group)
        assert size <= room or len(group) == 1
    # In any order, and again.
    assert all(same(found[name], wanted[name]) for name in reversed(wanted))
    found.release()
    assert same(found["6"], wanted["6"])
    assert all(not module._forward_hooks for module in model.modules())
    with pytest.raises(KeyError):
        found["1"]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(5)
        )
        self.head = nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_the_blocks_of_a_chain_run_once() -> None:
    model, x = Tokens().eval(), torch.randint(20, (300, 7))
    layers = [layer for layer in trace(model, (x[:1],)) if layer.is_treated]
    wanted = collect(model, layers, (x,))
    found = Calibration(model, layers, (x,), room=3000)
    assert len(found.groups) > 7, "no group spans two blocks"
    calls = []
    model.blocks[3][0].register_forward_hook(lambda *_: calls.append(1))
    # Once for the embedding, once for the blocks, once for the head.
    assert all(same(found[name], wanted[name]) for name in wanted)
    assert found.passes == 3
    assert len(calls) == 3 * 3 + 3 * (sum(n.startswith("blocks.3") for n in wanted) - 1)


def test_small_models_take_one_pass() -> None:
    model, layers, inputs = make()
    assert len(Calibration(model, layers, inputs).groups) == 1


PEAK = """
import sys
from pathlib import Path
import torch
from torch import nn
from autocompress.compression.calibration import Calibration
from autocompress.model.layer import Layer
torch.set_num_threads(1)

def peak():  # in KiB; `ru_maxrss` would be that of the process which started this one
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)

# The layers share one memory for their weights: it is the statistics that are weighed.
weight = torch.randn(512, 512) / 512**0.5
def layer():
    made = nn.Linear(512, 512, bias=False, device="meta")
    made.weight = nn.Parameter(weight)
    return made
model = nn.Sequential(*(layer() for _ in range(int(sys.argv[1])))).eval()
x = torch.randn(64, 512)
layers = [
    Layer(name, "Linear", (512, 512), 512**2, 512**2, 1, (1, 512), (1, 512))
    for name, _ in model.named_children()
]
found = Calibration(model, layers, (x,), room=int(sys.argv[2]))
before = peak()
for name in found:
    assert found[name].second_moment.shape == (512, 512)
print(peak() - before, found.passes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_peak_memory_does_not_grow_with_the_number_of_layers() -> None:
    moment = 8 * 512**2  # 2 MiB

    def peak(layers: int, room: int) -> float:
        """In MiB."""
        command = [sys.executable, "-c", PEAK, str(layers), str(room)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        kib, passes = map(int, done.stdout.split())
        assert passes <= 2
        return kib / 1024

    few, many, at_once = peak(8, 5 * moment), peak(32, 5 * moment), peak(32, 100 * moment)
    # The moments of 32 layers are 64 MiB, those of the other 24 are 48.
    assert many < few + 16
    assert at_once > many + 24
