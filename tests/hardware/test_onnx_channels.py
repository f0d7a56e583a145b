"""Narrow, factored and mixed int8 and float layers in one ONNX file, and alone for the clock."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.bank import Bank
from autocompress.compression.channels import Channels, order_pieces, usable
from autocompress.compression.moments import collect
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Treated
from autocompress.deploy.onnx_file import OnnxModule, load_onnx, write_onnx
from autocompress.hardware.candidates import candidate_macs, draw_candidates, stand_ins
from autocompress.hardware.device import get_device, kernel_class, reject
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_fused import check_fused, optimized_graph
from autocompress.hardware.runtimes.onnx_graph import assemble, base_bytes, layer_bytes, same_work
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.hardware.runtimes.single_op import layer_model, layer_signature
from autocompress.hardware.runtimes.stand_in import stand_in
from autocompress.model.grouping import find_groups
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.search_space.option import Option
from autocompress.search_space.preset import SpacePreset
from autocompress.search_space.space import Space, build_space
from autocompress.search_space.widths import SharedWidth, share_widths

EXAMPLES = 2500
CLASSES = 6


class LeNet(nn.Module):
    """Convolutions, pooling, a flatten, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 5, padding=2), nn.Conv2d(16, 24, 3)
        self.fc1, self.fc2 = nn.Linear(96, 48), nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


class Residual(nn.Module):
    """A block that keeps its width, and one that changes it by a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.b = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1)
        self.shortcut, self.head = nn.Conv2d(16, 32, 1, 2), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        x = (self.shortcut(x) + self.d(self.c(x).relu())).relu()
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """Two inverted residuals with ReLU6, one of them with a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.up1, self.down1 = nn.Conv2d(16, 48, 1), nn.Conv2d(48, 16, 1)
        self.mid1 = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.up2, self.down2 = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 24, 1)
        self.mid2 = nn.Conv2d(32, 32, 3, 2, 1, groups=32)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        relu6 = nn.functional.relu6
        x = relu6(self.stem(x))
        x = x + self.down1(relu6(self.mid1(relu6(self.up1(x)))))
        x = self.down2(relu6(self.mid2(relu6(self.up2(x)))))
        return self.head(x.mean((2, 3)))


def images(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """One smooth pattern a class, and noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(CLASSES, 3, 12, 12, generator=generator)
    patterns = nn.functional.avg_pool2d(patterns, 3, 1, 1) * 3
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return patterns[labels] + torch.randn(count, 3, 12, 12, generator=generator), labels


def trained(build: type[nn.Module]) -> nn.Module:
    """A net that decides: one that guesses is torn by the last bit."""
    x, labels = images(1, 200)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = build()
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


class Made:
    """A net with everything that a run knows of it."""

    def __init__(self, build: type[nn.Module]) -> None:
        self.model = trained(build)
        self.inputs = images(2, 256)[0]
        self.example = (self.inputs[:1],)
        self.layers: tuple[Layer, ...] = trace(self.model, self.example)
        self.named = {layer.name: layer for layer in self.layers}
        self.statistics = collect(self.model, self.layers, (self.inputs,))
        self.groups = tuple(usable(find_groups(self.model, self.layers, self.example), self.named))
        order = order_pieces(self.model, self.groups, self.statistics.__getitem__)
        self.channels = Channels(self.groups, order)
        self.graph: FloatGraph = export_float(self.model, self.layers, self.example)

    def widths(self, *shares: float) -> tuple[SharedWidth, ...]:
        return share_widths(self.groups, self.named, shares, 8)

    def choices(self, level: int, base: dict[str, Option]) -> dict[str, Option]:
        """Every shared width at a level, each layer compressed further as `base` says."""
        widths, chosen = self.widths(0.75, 0.5), {}
        for name, layer in self.named.items():
            inputs = outputs = 1.0
            for width in widths:
                here = min(level, width.levels - 1)
                inputs = width.inputs[name][here] if name in width.inputs else inputs
                outputs = width.outputs[name][here] if name in width.outputs else outputs
            own = base[name] if layer.groups == 1 else replace(base[name], rank=1.0)
            chosen[name] = replace(own, inputs=inputs, outputs=outputs)
        return chosen

    def stored(self, folder: Path, choices: dict[str, Option]) -> dict[str, Treated]:
        bank, found = Bank(folder, "content", self.channels), {}
        for name, option in choices.items():
            module = self.model.get_submodule(name)
            bank.fill(self.named[name], module, lambda n=name: self.statistics[n], [option])  # type: ignore[misc]
            if not option.is_identity:
                found[name] = bank.stored(self.named[name], module, option)
        return found


BUILDS = {"lenet": LeNet, "residual": Residual, "mobile": Mobile}


@pytest.fixture(scope="module", params=BUILDS)
def made(request: pytest.FixtureRequest) -> Made:
    return Made(BUILDS[request.param])


MIXTURES = {
    "dense": [Option()],
    "floats": [Option(4), Option(8, 0.5), Option(16), Option()],
    "ranks": [Option(32, rank=0.5), Option(8, rank=0.5)],
    "int8": [Option(7, activations="int8")],
    "mixed": [
        Option(7, activations="int8"),
        Option(4),
        Option(8, 0.3, 0.5, "int8"),
        Option(),
        Option(16, rank=0.5),
    ],
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_one_file_with_everything_equals_its_torch_twin(
    made: Made, mixture: str, tmp_path: Path
) -> None:
    menu = itertools.cycle(MIXTURES[mixture])
    base = {name: next(menu) for name in made.named}
    choices = made.choices(2, base)
    assert sum(option.is_narrow for option in choices.values()) >= len(choices) - 1
    treated = made.stored(tmp_path / "bank", choices)
    proto = assemble(made.graph, treated)
    operators = check_fused(proto, treated)
    for name, layer in treated.items():
        for step in range(len(layer.weights)):
            is_integer = operators[f"{name}/step{step}"].startswith("Q")
            assert is_integer == layer.is_int8
    path = tmp_path / "model.onnx"
    size = write_onnx(path, proto)
    assert size == path.stat().st_size
    twin = stitched(made.model, treated)
    x, _ = images(3, EXAMPLES)
    wanted = twin(x)
    found = OnnxModule(load_onnx(path))(x)
    assert found.shape == wanted.shape
    assert (found.argmax(1) == wanted.argmax(1)).double().mean() >= 0.999
    # It is not by chance that they agree.
    assert len(wanted.argmax(1).unique()) >= CLASSES - 1
    if not any(layer.is_int8 for layer in treated.values()):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_narrow_files_are_smaller_and_do_other_work(made: Made, tmp_path: Path) -> None:
    for format in ("archive", "onnx"):
        sizes = []
        for level in range(3):
            base = dict.fromkeys(made.named, Option(8, activations="int8"))
            treated = made.stored(tmp_path / "bank", made.choices(level, base))
            proto = assemble(made.graph, treated, format)
            sizes.append(proto.ByteSize())
            counted = base_bytes(made.graph) + sum(
                layer_bytes(made.graph, name, layer, format) for name, layer in treated.items()
            )
            assert abs(counted - sizes[-1]) <= 8
        assert sizes[0] > sizes[1] > sizes[2]
    dense = dict.fromkeys(made.named, Option())
    narrow = made.stored(tmp_path / "bank", made.choices(1, dense))
    assert not same_work(assemble(made.graph, narrow), assemble(made.graph, {}))


def space_of(made: Made) -> Space:
    preset = SpacePreset(
        bits=[32, 7], rank=[1.0, 0.5], activations=["float32", "int8"], channels=[1.0, 0.5]
    )
    device = get_device("onnxruntime-cpu")
    return build_space(
        made.layers,
        preset,
        lambda option, layer: reject(option, layer, device),
        suited=device.suited,
        widths=made.widths(0.5),
    )


def test_every_narrow_operation_runs_alone(made: Made) -> None:
    signatures: dict[str, set[str]] = {}
    for name, menu in space_of(made).units.items():
        layer, module = made.named[name], made.graph.modules[name]
        for option in {kernel_class(option) for option in menu}:
            proto = layer_model(layer, module, option)
            session = open_session(proto)
            (value,) = session.get_inputs()
            narrow = layer.narrowed(*layer.widths(option.inputs, option.outputs))
            assert tuple(value.shape) == narrow.input_shape
            kind = np.uint8 if option.activations == "int8" else np.float32
            (output,) = session.run(None, {value.name: np.ones(value.shape, kind)})
            assert output.shape == narrow.output_shape
            operators = [node.op_type for node in optimized_graph(proto).graph.node]
            integer = [op for op in operators if op in ("QLinearConv", "QGemm")]
            steps = 2 if option.is_factored else 1
            assert len(integer) == (steps if option.activations == "int8" else 0)
            made_up = stand_in(layer, module, option)
            shape = narrow.weight_shape
            assert made_up.weights[-1].codes.shape[0] == shape[0]
            assert made_up.weights[0].codes.shape[1] == int(np.prod(shape[1:]))
            signatures.setdefault(layer_signature(layer, module, option), set()).add(
                f"{name} {option.id}"
            )
    # What the clock is asked for says all that matters: widths have names of their own.
    for asked in signatures.values():
        assert len({text.split()[0] for text in asked}) == len(asked)


def test_candidates_for_the_clock_keep_shared_widths_and_run(made: Made) -> None:
    space = space_of(made)
    classes = {
        name: tuple(dict.fromkeys([Option(), *map(kernel_class, menu)]))
        for name, menu in space.units.items()
    }
    drawn = draw_candidates(classes, 14, np.random.default_rng(0), space.widths)
    assert len(drawn) == 14
    assert len({tuple(candidate.items()) for candidate in drawn}) == 14
    assert drawn[0] == dict.fromkeys(classes, Option())
    assert all(option.activations == "int8" for option in drawn[1].values())
    again = draw_candidates(classes, 14, np.random.default_rng(0), space.widths)
    assert again == drawn
    levels = set()
    dense = candidate_macs(made.layers, {})
    for candidate in drawn:
        for width in space.widths:
            found = {width.level(unit, candidate[unit]) for unit in width.units}
            assert len(found) == 1
            levels |= {(width.name, *found)}
        treated = stand_ins(made.graph, candidate)
        proto = assemble(made.graph, treated)
        check_fused(proto, treated)
        output = OnnxModule(proto)(made.inputs[:3])
        assert output.shape == (3, CLASSES)
        assert candidate_macs(made.layers, candidate) <= dense
    wanted = {(width.name, level) for width in space.widths for level in (0, 1)}
    assert levels == wanted


def test_narrow_candidates_of_a_small_space_are_all_drawn() -> None:
    width = SharedWidth("w", {"b": (1.0, 0.5)}, {"a": (1.0, 0.5)})
    classes = {
        "a": (Option(), Option(outputs=0.5)),
        "b": (Option(), Option(inputs=0.5)),
    }
    drawn = draw_candidates(classes, 10, np.random.default_rng(0), [width])
    narrow = {"a": Option(outputs=0.5), "b": Option(inputs=0.5)}
    assert drawn == [dict.fromkeys("ab", Option()), narrow]


def test_multiply_adds_of_narrow_layers(made: Made) -> None:
    for name, menu in space_of(made).units.items():
        layer = made.named[name]
        for option in menu:
            share = option.outputs * (option.inputs if layer.groups == 1 else 1.0)
            found = candidate_macs([layer], {name: option})
            if not option.is_factored:
                assert found == pytest.approx(share * layer.macs)
            else:
                reads, makes = layer.widths(option.inputs, option.outputs)
                rank = layer.narrowed(reads).rank(option.rank)
                columns = reads * int(np.prod(layer.weight_shape[2:]))
                positions = layer.macs / int(np.prod(layer.weight_shape))
                assert found == pytest.approx(positions * rank * (columns + makes))
