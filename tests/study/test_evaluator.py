"""The evaluator gives the proxy's numbers, whatever is reused, on any number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autocompress.study.config import load_study
from autocompress.study.evaluator import Evaluator, assembly_of
from autocompress.study.events import Silent
from autocompress.study.executors.local import LocalExecutor
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.subject import look


@pytest.fixture(scope="module")
def prepared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    study = load_study(trained)
    model, space = look(study, Silent())
    return prepare(study, model, space, tmp_path_factory.mktemp("prepared"), Silent())


def candidates(prepared: Prepared, count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    sizes = [len(menu) for menu in prepared.space.units.values()]
    return [tuple(int(rng.integers(size)) for size in sizes) for _ in range(count)]


def evaluator_of(prepared: Prepared, workers: int) -> Evaluator:
    parts = (prepared.model, prepared.space, prepared.bank, prepared.stitcher, prepared.proxy)
    return Evaluator(assembly_of(*parts), LocalExecutor(workers))


def test_activations_are_reused(prepared: Prepared) -> None:
    assert prepared.evaluator.reason == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_the_numbers_are_those_of_the_stitched_model(prepared: Prepared, workers: int) -> None:
    evaluator = evaluator_of(prepared, workers)
    asked = candidates(prepared, 12)
    order = range(len(prepared.proxy.parts))
    for candidate, found in zip(
        asked, evaluator.race(asked, [None] * len(asked), order), strict=True
    ):
        expected = prepared.evaluate(prepared.space.candidate(candidate))
        assert found.value == pytest.approx(expected.value, rel=1e-5, abs=1e-9)
        assert found.complete
    assert 0 < evaluator.spent.passes < len(asked)


def test_threads_do_not_change_a_bit(prepared: Prepared) -> None:
    asked = candidates(prepared, 12)
    found = []
    for workers in (1, 2):
        evaluator = evaluator_of(prepared, workers)
        rival = next(evaluator.race(asked[:1], [None], range(16))).samples
        raced = list(evaluator.race(asked, [rival] * len(asked), range(15, -1, -1)))
        found.append([(m.value, m.doubt, m.examples) for m in raced])
    assert found[0] == found[1]
    assert any(doubt > 0 for _, doubt, _ in found[0])


def test_products_are_symmetric_and_scaled(prepared: Prepared) -> None:
    products = prepared.prices.products
    assert np.allclose(products, products.T, atol=1e-7)
    lengths = np.sqrt(np.concatenate(prepared.prices.losses["swap"]))
    assert np.allclose(np.diag(products), lengths**2, rtol=1e-3, atol=1e-7)
    assert (np.abs(products) <= np.outer(lengths, lengths) * (1 + 1e-3) + 1e-7).all()
