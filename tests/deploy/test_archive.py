"""An archive gives back every bit and predicts its own size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from archive_parts import GRID, METADATA, Net, layers, net, rest_of, stored, write
from torch import Tensor, nn

from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Grid, Treated, build_module
from autocompress.deploy.archive import (
    archive_bytes,
    base_bytes,
    layer_bytes,
    read_archive,
    write_archive,
)
from autocompress.deploy.restore import load_archive
from autocompress.errors import ArchiveError
from autocompress.model.fold import fold_batch_norms


def same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and bytes_of(first) == bytes_of(second)
    )


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(first: Treated, second: Treated) -> None:
    assert len(first.weights) == len(second.weights)
    for one, other in zip(first.weights, second.weights, strict=True):
        assert one.bits == other.bits
        assert same(one.codes, other.codes)
        if one.scale is None or other.scale is None:
            assert one.scale is other.scale
            continue
        live = (one.codes != 0).any(1)  # a row of zeros may lose its scale
        assert same(one.scale[live], other.scale[live])
    assert same(first.bias, second.bias)
    assert first.grids == second.grids
    assert first.is_dynamic == second.is_dynamic


TREATED = {
    **{f"w{bits}": Treated((stored(bits, 12, 30),), None) for bits in (2, 3, 4, 6, 8, 16, 32)},
    "sparse": Treated((stored(4, 12, 30, 0.95),), torch.randn(12)),
    "sparse floats": Treated((stored(16, 12, 30, 0.95),), torch.randn(12).half()),
    "factored": Treated((stored(8, 2, 30), stored(4, 12, 2)), torch.randn(12)),
    "factored floats": Treated((stored(16, 2, 30), stored(32, 12, 2)), None),
    "int8": Treated((stored(8, 12, 30),), torch.randn(12), (GRID, Grid.covering(-1, 1))),
    "rounded at each call": Treated((stored(4, 12, 30),), torch.randn(12), is_dynamic=True),
    "factored, rounded at each call": Treated(
        (stored(8, 2, 30), stored(4, 12, 2)), None, is_dynamic=True
    ),
    "int8 to float": Treated((stored(8, 12, 30),), None, (GRID, None)),
    "core": Treated((stored(8, 4, 6), stored(4, 5, 36), stored(6, 12, 5)), torch.randn(12)),
    "core of floats": Treated((stored(16, 1, 6), stored(32, 1, 9), stored(16, 12, 1)), None),
    "int8 core": Treated(
        (stored(8, 4, 6), stored(7, 5, 4), stored(8, 12, 5)),
        torch.randn(12).half(),
        (GRID, Grid(2.0**-9, 255), GRID, None),
    ),
    "int8 factored": Treated(
        (stored(8, 2, 30), stored(8, 12, 2)), torch.randn(12), (None, GRID, Grid(2.0**-9, 255))
    ),
}


@pytest.mark.parametrize("kind", TREATED)
def test_every_kind_of_layer_comes_back(kind: str, tmp_path: Path) -> None:
    treated = TREATED[kind]
    size = write_archive(tmp_path / "m.acz", {"a.b": treated}, {"a.b": "w4"}, {}, METADATA)
    archive = read_archive(tmp_path / "m.acz")
    assert_same(archive.treated["a.b"], treated)
    assert archive.options == {"a.b": "w4"}
    assert archive.metadata == METADATA
    assert archive.rest == {}
    assert size == base_bytes({}, METADATA, ["a.b"]) + layer_bytes("a.b", "w4", treated)
    assert size == archive.base_bytes + archive.sizes["a.b"].total


def test_sizes_add_up_exactly(tmp_path: Path) -> None:
    treated, options = layers()
    rest = rest_of(net(), treated)
    size = write_archive(tmp_path / "m.acz", treated, options, rest, METADATA)
    assert size == (tmp_path / "m.acz").stat().st_size
    assert size == archive_bytes(treated, options, rest, METADATA)
    parts = [layer_bytes(name, options[name], treated[name]) for name in treated]
    assert size == base_bytes(rest, METADATA, treated) + sum(parts)
    archive = read_archive(tmp_path / "m.acz")
    assert [archive.sizes[name].total for name in treated] == parts
    assert archive.base_bytes == base_bytes(rest, METADATA, treated)
    for record in archive.sizes.values():
        assert record.head + sum(record.weights) + record.bias <= record.total


def test_overhead_is_tens_of_bytes() -> None:
    assert base_bytes({}, {}) <= 21
    treated = Treated((stored(2, 1, 1),), None)
    assert layer_bytes("conv1", "w4-s90", treated) <= 16


def test_a_name_costs_little_beside_its_like() -> None:
    names = [f"stage{i}.{j}.conv{k}" for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)]
    cost = base_bytes({}, METADATA, names) - base_bytes({}, METADATA)
    assert cost <= 80
    assert cost < sum(map(len, names)) / 3


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (4, 3, 2)])
def test_rest_comes_back(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = torch.randint(0, 2, shape).to(getattr(torch, dtype))
    rest = {"a": tensor, "b": torch.randn(5, 4).t(), "c": tensor + tensor}
    write_archive(tmp_path / "m.acz", {}, {}, rest, {})
    archive = read_archive(tmp_path / "m.acz")
    assert list(archive.rest) == ["a", "b", "c"]
    assert all(same(rest[key], archive.rest[key]) for key in rest)


def test_reloaded_model_is_bit_identical(tmp_path: Path) -> None:
    model, (treated, _) = net(), layers()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = net()
    for name, layer in treated.items():
        expected.set_submodule(name, build_module(expected.get_submodule(name), layer))
    torch.manual_seed(1)
    other = Net().eval()  # same architecture, other weights: all must come from the file
    loaded = load_archive(write(tmp_path / "m.acz", model), other)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(x), expected(x))
    for key, value in expected.state_dict().items():
        assert same(value, loaded.state_dict()[key])
    assert not torch.equal(other(x), loaded(x))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_model_that_is_one_layer(tmp_path: Path) -> None:
    treated = Treated((stored(8, 5, 20),), None)
    write_archive(tmp_path / "m.acz", {"": treated}, {"": "w8"}, {}, {})
    loaded = load_archive(tmp_path / "m.acz", nn.Linear(20, 5, bias=False))
    assert torch.equal(loaded.weight, treated.matrix())


class Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(21, 5, bias=False)


class Renamed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.top = self.head
        del self.head


class OtherKind(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LayerNorm(5)


class OtherNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body[1] = nn.BatchNorm2d(5)


class OtherType(Net):
    def __init__(self) -> None:
        super().__init__()
        self.order = torch.arange(7)


class Fewer(Net):
    def __init__(self) -> None:
        super().__init__()
        del self.order


class More(Net):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Wider, r"layer 'head' is \(5, 20\) in the archive, \(5, 21\) here"),
        (Renamed, "layer 'head' is not in the model"),
        (OtherKind, "layer 'head' is a LayerNorm"),
        (OtherNorm, r"'body.1.weight' is torch.float32 \(4,\) in the archive"),
        (OtherType, "'order' is torch.int16"),
        (Fewer, "'order' of the archive is not in the model"),
        (More, "'extra' of the model is not in the archive"),
    ],
)
def test_another_model_is_named(other: type[nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=message):
        load_archive(write(tmp_path / "m.acz"), other())


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    treated, options = layers()
    path = tmp_path / "m.acz"
    with pytest.raises(ValueError, match="options"):
        write_archive(path, treated, {}, {}, {})
    with pytest.raises(ValueError, match="head.weight"):
        write_archive(path, treated, options, {"head.weight": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="complex"):
        write_archive(path, {}, {}, {"a": torch.zeros(1, dtype=torch.complex64)}, {})
    with pytest.raises(ValueError, match="metadata"):
        write_archive(path, {}, {}, {}, {"seed": 1})  # type: ignore[dict-item]
    bad = Treated((stored(8, 2, 2),), None, (Grid(0.1, 0), None))
    with pytest.raises(ValueError, match="float32"):
        write_archive(path, {"a": bad}, {"a": "w8-a8"}, {}, {})
    with pytest.raises(ValueError, match="bias"):
        write_archive(path, {"a": Treated((stored(8, 2, 2),), torch.ones(3))}, {"a": "w8"}, {}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["as the user has it", "folded"])
def test_an_archive_of_a_folded_model_loads_onto_the_original(tmp_path: Path, given: str) -> None:
    original, x = net(), torch.randn(3, 1, 8, 8)
    folded = fold_batch_norms(original, (x,))
    assert isinstance(folded.body[1], nn.Identity)
    treated, options = layers()
    for chosen in (treated, options):
        del chosen["body.0"]  # stays dense: its new bias is in the rest
    write_archive(tmp_path / "a.acz", treated, options, rest_of(folded, treated), METADATA)
    onto = original if given == "as the user has it" else folded
    loaded = load_archive(tmp_path / "a.acz", onto)
    expected = stitched(folded, treated)
    with torch.no_grad():
        assert torch.equal(loaded(x), expected(x))
    assert isinstance(original.body[1], nn.BatchNorm2d)
