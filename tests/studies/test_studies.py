"""The studies that need a data set which is not among the packages: what each loads and says."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fashion_mnist
import mnist_archive
import numpy as np
import pytest
import torch
from augmentation import TrainingInputs, mirrored_and_moved, moved

from autocompress.errors import TaskError
from autocompress.model.task import load_task
from autocompress.study.config import load_study

STUDIES = Path(mnist_archive.__file__).parent
MNIST = ("lenet300_mnist", "lenet5_full_mnist")
PARAMETERS = {
    "lenet300_mnist": 266_610,
    "lenet5_full_mnist": 431_080,
    "vgg_small_fashion": 984_938,
}
# Percent of the 10 000 test images; Deep Compression starts from 98.36 and 99.20 (Han et al.
# 2016, table 1).
AT_LEAST = {"lenet300_mnist": 98.36, "lenet5_full_mnist": 99.20, "vgg_small_fashion": 93.3}


def need_data(study: str) -> None:
    """Skips where the data set of a study is not at hand; nothing is downloaded."""
    if study in MNIST:
        try:
            mnist_archive.archive_path()
        except RuntimeError as error:
            pytest.skip(str(error))
    elif not any(
        Path(folder).is_dir()
        for folder in (os.environ.get("FASHION_MNIST", ""), fashion_mnist.DEBIAN)
        if folder
    ):
        pytest.skip("Fashion-MNIST: install the Debian package dataset-fashion-mnist")


@pytest.fixture
def unread() -> Iterator[None]:
    """No archive has been read yet, and none stays that a test made."""
    caches = (mnist_archive.archive, mnist_archive.images)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("study", PARAMETERS)
def test_a_study_loads_without_its_data(study: str) -> None:
    loaded = load_study(STUDIES / study)
    assert {"size", "latency", "quality"} <= set(loaded.budget)
    net = loaded.task.model()
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[study]
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("study", PARAMETERS)
def test_the_original_is_as_accurate_as_said_and_splits_are_disjoint(study: str) -> None:
    need_data(study)
    task = load_task(STUDIES / study)
    (calibration,) = task.calibration()
    assert calibration.shape == (2000, 1, 28, 28)
    assert torch.equal(task.example_inputs()[0], calibration[:1])
    assert task.evaluate(task.model(), "test") >= AT_LEAST[study]
    data: Any = mnist_archive if study in MNIST else fashion_mnist
    (selection, labels), (test, _) = data.images("selection"), data.images("test")
    assert (len(selection), len(labels), len(test)) == (3000, 3000, 10_000)
    held_out, kept = set(data.held_out()), set(data.kept())
    assert (len(held_out), len(kept), held_out & kept) == (5000, 55_000, set())
    parts = {image.numpy().tobytes() for image in calibration}
    assert not parts & {image.numpy().tobytes() for image in selection}


@pytest.mark.parametrize("study", PARAMETERS)
def test_training_gives_batches_of_inputs_again_and_again(study: str) -> None:
    need_data(study)
    inputs = sys.modules[load_task(STUDIES / study).make_model.__module__].training()
    assert len(inputs) == 55_000 // 128
    first, again = next(iter(inputs)), next(iter(inputs))
    assert first.shape == again.shape == (128, 1, 28, 28)
    assert first.dtype == torch.float32
    assert not torch.equal(first, again)


def test_every_pass_holds_every_image_once_in_a_new_order() -> None:
    pixels = np.arange(10, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)

    def passes() -> list[list[float]]:
        inputs = TrainingInputs(pixels, mnist_archive.normalise, lambda x, _: x, size=5)
        assert len(inputs) == 2
        return [[float(x[0, 0, 0]) for batch in inputs for x in batch] for _ in range(3)]

    first, second, third = passes()
    assert first != second != third
    wanted = sorted(float(x[0, 0, 0]) for x in mnist_archive.normalise(pixels))
    assert sorted(first) == sorted(second) == sorted(third) == wanted
    assert passes() == [first, second, third]


def test_images_are_moved_whole_by_at_most_what_is_said() -> None:
    x = torch.full((64, 1, 28, 28), -0.4)
    x[:, 0, 10, 7] = 3.0
    y = moved(x, 2, torch.Generator().manual_seed(0))
    assert torch.equal((y == 3.0).sum((1, 2, 3)), torch.ones(64))
    assert set(y.unique().tolist()) == set(x.unique().tolist())
    where = (y == 3.0).nonzero()[:, 2:]
    assert (where[:, 0].min(), where[:, 0].max()) == (8, 12)
    assert (where[:, 1].min(), where[:, 1].max()) == (5, 9)


def test_half_of_the_images_are_mirrored() -> None:
    x = torch.zeros(400, 1, 28, 28)
    x[:, 0, 10, 4] = 1.0
    columns = mirrored_and_moved(x, torch.Generator().manual_seed(0)).nonzero()[:, 3]
    assert len(columns) == 400
    assert 150 < int((columns > 14).sum()) < 250


@pytest.mark.parametrize("study", MNIST)
def test_without_the_archive_a_study_says_where_to_get_it(
    study: str, unread: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MNIST_NPZ", str(tmp_path / "none.npz"))
    with pytest.raises(TaskError) as error:
        load_task(STUDIES / study).calibration()
    for part in ("none.npz", "MNIST_NPZ", "Keras", "x_train (60000, 28, 28)", "SHA-256"):
        assert part in str(error.value)


def zeros(**changes: Any) -> dict[str, np.ndarray]:
    """An archive as it should be but for its values, and for `changes`."""
    shapes = mnist_archive.SHAPES
    return {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()} | changes


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "is no NumPy archive"),
        ({"x_train": np.array([None], object)}, "is no NumPy archive"),
        ({"x_train": np.zeros((3, 28, 28), np.uint8)}, "x_train is uint8 \\(3, 28, 28\\)"),
        (zeros(y_test=np.zeros(10_000, np.int64)), "y_test is int64 \\(10000,\\)"),
        ({"x": np.zeros(1)}, "holds no array 'x_train'"),
        (zeros(), "are not MNIST's"),
    ],
    ids=["text", "objects", "shape", "type", "name", "values"],
)
def test_another_file_is_refused(
    arrays: dict[str, np.ndarray] | None,
    message: str,
    unread: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = tmp_path / "mnist.npz"
    if arrays is None:
        path.write_text("no archive")
    else:
        np.savez_compressed(path, **arrays)
    monkeypatch.setenv("MNIST_NPZ", str(path))
    with pytest.raises(RuntimeError, match=message) as error:
        mnist_archive.archive()
    assert str(error.value).startswith(str(path))


def test_fashion_mnist_that_is_nowhere_or_altered_is_said_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "t10k-labels-idx1-ubyte"
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(fashion_mnist, "MIRROR", f"file://{tmp_path}/none/")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    with pytest.raises(RuntimeError, match="install the Debian package dataset-fashion-mnist"):
        fashion_mnist.unpacked(name)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(RuntimeError, match=f"is not Fashion-MNIST's {name}"):
        fashion_mnist.unpacked(name)
