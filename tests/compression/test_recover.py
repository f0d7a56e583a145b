"""Training makes a candidate better or leaves it alone, keeps its limits, and survives a kill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.coding import coded_bytes
from autocompress.compression.distil import Block, Lesson, blocks, reach
from autocompress.compression.quantize import round_to_nearest
from autocompress.compression.recover import Recipe, Recovered, recover
from autocompress.compression.squeeze import Squeeze
from autocompress.compression.stitch import stitched
from autocompress.compression.training_batches import Batches, Shuffled
from autocompress.compression.treated import Treated
from autocompress.errors import TaskError
from autocompress.model.trace import trace
from autocompress.objective.quality import Proxy


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.fc1 = nn.Linear(96, 24)
        self.fc2 = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


def images(seed: int, count: int = 256) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = Small()
    x = images(1, 512)
    labels = (x.mean((1, 2, 3)) * 20).clamp(-2, 2).round().long() + 2
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(30):
        for part in torch.randperm(512).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[part]), labels[part]).backward()
            optimiser.step()
    return net.eval()


def rounded(model: nn.Module, bits: int = 2) -> dict[str, Treated]:
    found = {}
    for name in ("conv", "fc1", "fc2"):
        module = model.get_submodule(name)
        weight = module.weight.detach().flatten(1).double()  # type: ignore[operator]
        part = round_to_nearest(weight, bits, torch.ones(weight.shape[1]))
        found[name] = Treated((part,), module.bias.detach().half())  # type: ignore[operator]
    return found


def size(treated: Mapping[str, Treated]) -> int:
    return sum(coded_bytes(weight) for layer in treated.values() for weight in layer.weights)


def train(
    model: nn.Module, treated: Mapping[str, Treated], recipe: Recipe, **more: object
) -> Recovered:
    proxy = Proxy(model, (images(3),))
    batches = Batches(Shuffled((images(2, 512),)), "test")
    return recover(
        model,
        treated,
        batches,
        recipe,
        lambda layers: proxy(stitched(model, layers)).value,
        **more,  # type: ignore[arg-type]
    )


def test_distillation_keeps_zeros_and_bits_and_lowers_the_loss(model: nn.Module) -> None:
    treated = rounded(model)
    found = train(model, treated, Recipe(epochs=20, learning_rate=5e-3))
    assert found.improved
    assert found.after < 0.7 * found.before
    for name, layer in treated.items():
        (before,), (after,) = layer.weights, found.treated[name].weights
        assert after.bits == before.bits
        assert bool((after.codes[before.codes == 0] == 0).all())
        assert torch.equal(after.scale == 0, before.scale == 0)  # type: ignore[arg-type]


def test_feature_maps_and_attention_can_be_taught(model: nn.Module) -> None:
    lesson = Lesson(features=0.5, attention=0.5)
    found = train(
        model,
        rounded(model),
        Recipe(lesson, epochs=20, learning_rate=5e-3),
        watched=("conv", "fc1"),
    )
    assert found.after < 0.8 * found.before


def test_blocks_are_reconstructed_one_after_another(model: nn.Module) -> None:
    layers = trace(model, (images(1)[:1],))
    parts = blocks(layers, ["conv", "fc1", "fc2"])
    assert parts == (Block("conv", ("conv",)), Block("", ("fc1", "fc2")))
    assert blocks(layers, ["fc2"]) == (Block("", ("fc2",)),)
    found = train(model, rounded(model), Recipe(epochs=20, learning_rate=5e-3), blocks=parts)
    assert found.after < 0.7 * found.before


def test_a_pass_ends_where_it_is_asked_to(model: nn.Module) -> None:
    x = images(5)[:4]
    assert torch.equal(reach(model, "conv", (x,)), model.conv(x))
    assert torch.equal(reach(model, "", (x,)), model(x))
    assert not model.conv._forward_hooks


def test_the_file_is_squeezed_to_its_limit(model: nn.Module) -> None:
    treated = rounded(model, 4)
    limit = size(treated) // 3
    found = train(
        model,
        treated,
        Recipe(epochs=40, learning_rate=3e-3, free=True),
        squeeze=Squeeze(limit, size),
    )
    assert found.improved
    assert size(found.treated) <= limit
    # Rounding to fewer bits, which takes more bytes than that, is worse.
    proxy = Proxy(model, (images(3),))
    assert size(rounded(model)) > limit
    assert found.after < proxy(stitched(model, rounded(model))).value


def test_equal_size_is_kept(model: nn.Module) -> None:
    treated = rounded(model)
    found = train(model, treated, Recipe(epochs=10), squeeze=Squeeze(size(treated), size))
    assert size(found.treated) <= size(treated)
    assert found.after <= found.before


def test_what_comes_back_is_never_worse(model: nn.Module) -> None:
    treated = rounded(model, 8)
    found = train(model, treated, Recipe(epochs=1, learning_rate=10.0))
    assert not found.improved
    assert found.treated == treated
    assert found.after == found.before


def test_the_same_training_gives_the_same_layers(model: nn.Module) -> None:
    first, second = (train(model, rounded(model), Recipe(epochs=2)) for _ in range(2))
    assert first.after == second.after
    assert torch.equal(
        first.treated["fc1"].weights[0].codes, second.treated["fc1"].weights[0].codes
    )


def test_a_time_limit_cuts_the_schedule(model: nn.Module) -> None:
    found = train(model, rounded(model), Recipe(epochs=100_000, max_seconds=1.0))
    assert 10 <= found.steps < 800_000
    assert found.seconds < 20  # a limit of one second, on however slow a machine
    assert found.after < found.before


class Interrupted(Exception):
    pass


class Killed:
    """Training batches that end in the middle."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._whole = Shuffled((images(2, 512),))

    def __len__(self) -> int:
        return len(self._whole)

    def __iter__(self) -> Iterator[object]:
        for batch in self._whole:
            self._after -= 1
            if self._after < 0:
                raise Interrupted
            yield batch


def test_a_killed_training_goes_on_where_it_was(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.compression.recover.SAVED", 0.0)
    path, treated = tmp_path / "state.safetensors", rounded(model)
    recipe = Recipe(epochs=10, learning_rate=5e-3)
    proxy = Proxy(model, (images(3),))

    def score(layers: Mapping[str, Treated]) -> float:
        return proxy(stitched(model, layers)).value

    with pytest.raises(Interrupted):
        recover(
            model, treated, Batches(Killed(50), "t"), recipe, score, checkpoint=path, key="one"
        )
    assert path.is_file()
    seen: list[int] = []
    found = recover(
        model,
        treated,
        Batches(Killed(10_000), "t"),
        recipe,
        score,
        checkpoint=path,
        key="one",
        progress=lambda done, total, detail: seen.append(done),
    )
    assert seen[0] > 49
    assert found.steps == 80
    assert found.after < 0.8 * found.before
    assert not path.exists()


@pytest.mark.parametrize("damage", ["another", "torn", "text"])
def test_a_checkpoint_that_does_not_fit_is_not_used(
    model: nn.Module, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.compression.recover.SAVED", 0.0)
    path = tmp_path / "state.safetensors"
    batches = Batches(Killed(20), "t")
    with pytest.raises(Interrupted):
        recover(
            model,
            rounded(model),
            batches,
            Recipe(epochs=9),
            lambda x: 1.0,
            checkpoint=path,
            key="a",
        )
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    if damage == "text":
        path.write_text("no tensors")
    key = "b" if damage == "another" else "a"
    found = train(model, rounded(model), Recipe(epochs=1), checkpoint=path, key=key)
    assert found.steps == 8


def test_batches_must_be_there_again_and_again(model: nn.Module) -> None:
    with pytest.raises(TaskError, match="have a length"):
        Batches((x for x in [images(1)]), "task.py")
    with pytest.raises(TaskError, match="have a length"):
        Batches([], "task.py")

    class Wrong(Shuffled):
        def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
            yield (torch.randn(3, 2, 8, 8),)

    wrong = Batches(Wrong((images(1),)), "task.py")
    with pytest.raises(TaskError, match=r"does not take a batch of shape \(3, 2, 8, 8\)"):
        recover(model, rounded(model), wrong, Recipe(epochs=1), lambda layers: 1.0)

    class Numbers(Shuffled):
        def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
            yield 3  # type: ignore[misc]

    numbers = Batches(Numbers((images(1),)), "task.py")
    with pytest.raises(Exception, match="tensor or a tuple of tensors"):
        recover(model, rounded(model), numbers, Recipe(epochs=1), lambda layers: 1.0)
