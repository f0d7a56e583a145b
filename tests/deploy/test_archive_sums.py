"""An archive with rounded additions gives the same outputs, on the original and on its copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.quantize import round_to_nearest
from autocompress.compression.rounded import RoundedSum
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Grid, Treated
from autocompress.deploy.archive import SUMS, write_archive
from autocompress.deploy.restore import load_archive
from autocompress.errors import ArchiveError
from autocompress.model.sums import expose_sums, sums_of

GRID = Grid.covering(-1.0, 2.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.body(x.relu()) + x)


class WithoutSums(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x).relu()))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def write(path: Path, exposed: nn.Module, floats: tuple[str, ...] = ()) -> dict[str, Treated]:
    treated = {}
    for name in ("stem", "body", "head"):
        layer = exposed.get_submodule(name)
        weight = layer.weight.detach()
        stored = (round_to_nearest(weight, 4, torch.ones(weight.shape[1])),)
        grids = () if name in floats else (GRID, None)
        treated[name] = Treated(stored, layer.bias.detach(), grids)
    metadata = {"study": "s", SUMS: str(len(sums_of(exposed)))}
    write_archive(path, treated, dict.fromkeys(treated, "w4-a8"), {}, metadata)
    return treated


@pytest.mark.parametrize("floats", [(), ("head",)])
@pytest.mark.parametrize("given", ["as the user has it", "exposed"])
def test_sums_are_rounded_as_they_were(model, tmp_path: Path, given: str, floats) -> None:
    exposed = expose_sums(model)
    treated = write(tmp_path / "a.acz", exposed, floats)
    loaded = load_archive(tmp_path / "a.acz", model if given == "as the user has it" else exposed)
    x = torch.randn(9, 6)
    with torch.no_grad():
        assert torch.equal(loaded(x), stitched(exposed, treated)(x))
    rounded = [isinstance(found, RoundedSum) for found in sums_of(loaded).values()]
    assert rounded == [not floats]
    assert not sums_of(model)


def test_a_model_with_other_additions_is_refused(model, tmp_path: Path) -> None:
    write(tmp_path / "a.acz", expose_sums(model))
    with pytest.raises(ArchiveError, match="'1' additions between layers in the archive, 0 in"):
        load_archive(tmp_path / "a.acz", WithoutSums().eval())


def test_an_archive_that_says_nothing_of_sums_rounds_none(model, tmp_path: Path) -> None:
    exposed = expose_sums(model)
    treated = write(tmp_path / "a.acz", exposed)
    write_archive(tmp_path / "b.acz", treated, dict.fromkeys(treated, "w4-a8"), {}, {})
    loaded = load_archive(tmp_path / "b.acz", exposed)
    assert not any(isinstance(found, RoundedSum) for found in sums_of(loaded).values())
