from __future__ import annotations

import copy
import hashlib
from collections import Counter

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from autocompress.compression import stitch
from autocompress.compression.quantize import round_to_nearest
from autocompress.compression.stitch import Stitcher, stitched
from autocompress.compression.treated import Treated
from autocompress.model.memory import model_bytes
from autocompress.model.swap import swap
from autocompress.search_space.option import Option

FOUR, TWO = Option(4), Option(2)
LAYERS = ("body.0", "body.2", "head")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net().eval()


class Lookup:
    """Rounds a layer of the model and counts how often it was asked."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.asked: Counter[tuple[str, Option]] = Counter()

    def __call__(self, name: str, option: Option) -> Treated:
        self.asked[name, option] += 1
        module = self.model.get_submodule(name)
        assert isinstance(module, nn.Linear)
        weight = module.weight.detach()
        stored = round_to_nearest(weight, option.bits, torch.ones(weight.shape[1]))
        return Treated((stored,), module.bias.detach().half())


def choose(*options: Option) -> dict[str, Option]:
    return dict(zip(LAYERS, options, strict=True))


def test_only_the_layers_that_differ_are_swapped(model: Net) -> None:
    stitcher = Stitcher(model, Lookup(model))
    working = stitcher.stitch(choose(FOUR, TWO, Option()))
    before = {name: working.get_submodule(name) for name in LAYERS}
    again = stitcher.stitch(choose(FOUR, FOUR, Option()))
    assert again is working
    after = {name: working.get_submodule(name) for name in LAYERS}
    assert after["body.0"] is before["body.0"]
    assert after["head"] is before["head"]
    assert after["body.2"] is not before["body.2"]


def test_each_module_is_built_once(model: Net) -> None:
    lookup = Lookup(model)
    stitcher = Stitcher(model, lookup)
    for _ in range(3):
        for options in ((FOUR, TWO, FOUR), (TWO, TWO, Option()), (Option(),) * 3):
            stitcher.stitch(choose(*options))
    assert set(lookup.asked.values()) == {1}


def test_a_stitched_candidate_does_not_depend_on_those_before(model: Net) -> None:
    x = torch.randn(5, 6)
    stitcher = Stitcher(model, Lookup(model))
    generator = torch.Generator().manual_seed(0)
    menu = (Option(), FOUR, TWO)
    for _ in range(20):
        numbers = torch.randint(3, (3,), generator=generator).tolist()
        choices = choose(*(menu[number] for number in numbers))
        fresh = Stitcher(model, Lookup(model)).stitch(choices)
        assert torch.equal(stitcher.stitch(choices)(x), fresh(x))


def test_going_back_to_dense_restores_the_outputs_bit_for_bit(model: Net) -> None:
    x = torch.randn(5, 6)
    wanted = model(x)
    stitcher = Stitcher(model, Lookup(model))
    assert not torch.equal(stitcher.stitch(choose(TWO, TWO, TWO))(x), wanted)
    assert torch.equal(stitcher.stitch(choose(Option(), Option(), Option()))(x), wanted)


def test_units_that_are_not_named_stay_as_they_were(model: Net) -> None:
    x = torch.randn(5, 6)
    stitcher = Stitcher(model, Lookup(model))
    wanted = stitcher.stitch(choose(FOUR, TWO, Option()))(x)
    stitcher.stitch({"head": TWO})
    assert torch.equal(stitcher.stitch({"head": Option()})(x), wanted)


def test_the_users_model_is_untouched(model: Net) -> None:
    before = copy.deepcopy(model.state_dict())
    modules = dict(model.named_modules())
    Stitcher(model, Lookup(model)).stitch(choose(FOUR, TWO, FOUR))
    stitched(model, {name: Lookup(model)(name, TWO) for name in LAYERS})
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_full_cache_drops_the_oldest_modules(
    model: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights and biases: 56 in body.0, 72 in body.2, 27 in the head.
    for name in ("LEAST_CACHED", "MOST_CACHED"):
        monkeypatch.setattr(stitch, name, 4 * 130)
    lookup = Lookup(model)
    stitcher = Stitcher(model, lookup)
    x = torch.randn(5, 6)
    stitcher.stitch(choose(TWO, TWO, Option()))  # 128 of 130
    stitcher.stitch(choose(TWO, TWO, TWO))  # 155: body.0 goes, 99 stay
    stitcher.module("head", TWO)
    stitcher.module("body.2", TWO)
    assert set(lookup.asked.values()) == {1}
    stitcher.module("body.0", TWO)  # 155 again: of the others head was used first
    stitcher.module("body.2", TWO)
    stitcher.module("head", TWO)
    assert lookup.asked == {("body.0", TWO): 2, ("body.2", TWO): 1, ("head", TWO): 2}
    kept = sum(map(model_bytes, stitcher._built.values()))
    assert kept == stitcher._cached <= 4 * 130
    # What was dropped while in use, and built again, is the same.
    stitcher.stitch(choose(Option(), Option(), Option()))
    fresh = Stitcher(model, Lookup(model)).stitch(choose(TWO, TWO, TWO))
    assert torch.equal(stitcher.stitch(choose(TWO, TWO, TWO))(x), fresh(x))


def test_stitched_is_a_new_model_of_the_same_outputs(model: Net) -> None:
    lookup = Lookup(model)
    x = torch.randn(5, 6)
    made = stitched(model, {"body.0": lookup("body.0", FOUR), "head": lookup("head", TWO)})
    wanted = Stitcher(model, lookup).stitch(choose(FOUR, Option(), TWO))(x)
    assert torch.equal(made(x), wanted)
    # It shares nothing that the model could change under it.
    with torch.no_grad():
        model.body[2].weight.zero_()  # type: ignore[operator, union-attr]
    assert torch.equal(made(x), wanted)


def test_swap_refuses_a_name_that_is_not_there(model: Net) -> None:
    new = nn.Identity()
    swap(model, "body.1", new)
    assert model.body[1] is new
    for name in ("body.9", "nothing", "body.0.weight", ""):
        with pytest.raises(AttributeError):
            swap(model, name, nn.Identity())


def test_a_stitched_model_shares_what_is_dense_and_never_changes_it(model: Net) -> None:
    def digest() -> str:
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return hashlib.sha256(save(state)).hexdigest()

    before = digest()
    stitcher = Stitcher(model, Lookup(model))
    x = torch.randn(5, 6)
    for choices in (choose(FOUR, Option(), TWO), choose(Option(), TWO, Option())):
        stitcher.stitch(choices)(x)
    made = stitcher.stitch(choose(FOUR, Option(), TWO))
    shared = made.get_submodule("body.2").weight
    assert isinstance(shared, Tensor)
    assert shared.data_ptr() == model.get_submodule("body.2").weight.data_ptr()  # type: ignore[operator, union-attr]
    made.half()  # as an evaluation of the user's may do
    assert digest() == before


def test_a_sparing_stitcher_builds_the_same(model: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup, x = Lookup(model), torch.randn(5, 6)
    stitcher = Stitcher(model, lookup)
    monkeypatch.setattr(stitch, "LEAST_CACHED", 100)
    sparing, choices = stitcher.sparing(), choose(FOUR, TWO, TWO)
    assert torch.equal(sparing.stitch(choices)(x), stitcher.stitch(choices)(x))
    sparing.module("body.0", FOUR)
    assert lookup.asked["body.0", FOUR] == 3, "it is not kept while others are built"
