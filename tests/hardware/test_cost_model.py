from __future__ import annotations

import json

import numpy as np
import pytest

from autocompress.errors import DeviceError, StorageError
from autocompress.hardware.candidates import draw_candidates
from autocompress.hardware.cost_model import (
    Edge,
    IntegerSum,
    LatencyPrices,
    features,
    fit_coefficients,
    fit_prices,
    scale_prices,
)
from autocompress.hardware.fit import Point, judge, spearman
from autocompress.hardware.timing import Timing
from autocompress.search_space.option import Option

INT8 = Option(bits=7, activations="int8")
HALF = Option(rank=0.5)
PACKED = Option(bits=4, activations="dynamic")
MENU = (Option(), INT8, HALF, PACKED)
NAMES = [f"layer{index}" for index in range(6)]


def made_up(generator: np.random.Generator) -> LatencyPrices:
    units = {
        name: {option.id: float(generator.uniform(0.5, 3)) for option in MENU} for name in NAMES
    }
    pairs = zip([None, *NAMES], [*NAMES, None], strict=True)
    edges = tuple(
        Edge(tail, head, *map(float, generator.uniform(0.05, 0.4, 2))) for tail, head in pairs
    )
    return LatencyPrices(0.0, units, edges)


def test_prediction_adds_units_and_changes_of_precision() -> None:
    prices = LatencyPrices(
        1.0,
        {"a": {"dense": 10.0, INT8.id: 4.0}, "b": {"dense": 20.0, INT8.id: 8.0}},
        (Edge(None, "a", 0.1, 9.0), Edge("a", "b", 0.2, 0.3), Edge("b", None, 9.0, 0.4)),
    )
    assert prices.predict({}) == 31.0
    assert prices.predict({"a": INT8}) == pytest.approx(1 + 4 + 20 + 0.1 + 0.3)
    assert prices.predict({"b": INT8}) == pytest.approx(1 + 10 + 8 + 0.2 + 0.4)
    assert prices.predict({"a": INT8, "b": INT8}) == pytest.approx(1 + 4 + 8 + 0.1 + 0.4)
    # Bits and sparsity do not change which kernels run.
    small = Option(bits=3, sparsity=0.9, activations="int8")
    assert prices.predict({"a": small}) == prices.predict({"a": INT8})


def test_a_sum_saves_only_where_all_layers_around_it_are_int8() -> None:
    units = {name: {"dense": 10.0, INT8.id: 4.0} for name in "abc"}
    prices = LatencyPrices(1.0, units, (), (IntegerSum(("a", "b", "c"), 0.5, 3),))
    every = dict.fromkeys("abc", INT8)
    assert prices.predict(every) == pytest.approx(1 + 12 - 0.5)
    assert prices.predict(every | {"b": Option()}) == pytest.approx(1 + 4 + 10 + 4)
    assert LatencyPrices.from_dict(json.loads(json.dumps(prices.as_dict()))) == prices
    old = {key: value for key, value in prices.as_dict().items() if key != "sums"}
    assert LatencyPrices.from_dict(old).sums == ()


def test_what_sums_save_is_learned_from_runs() -> None:
    generator = np.random.default_rng(7)
    plain = made_up(generator)
    around = [tuple(NAMES[:3]), tuple(NAMES[2:5])]
    isolated = LatencyPrices(
        0.0, plain.unit_ms, plain.edges, tuple(IntegerSum(layers, 0.3, 2) for layers in around)
    )
    known = np.array([0.8, 1.3, 0.6, 2.0, 0.05, 1.7])
    classes = dict.fromkeys(NAMES, MENU)
    candidates = draw_candidates(classes, 120, generator, together=around)
    truth = scale_prices(isolated, known)
    truth = LatencyPrices(
        truth.constant_ms,
        truth.unit_ms,
        truth.edges,
        (IntegerSum(around[0], 1.2, 2), IntegerSum(around[1], 0.1, 2)),
    )
    measured = np.array([truth.predict(candidate) for candidate in candidates])
    prices = fit_prices(isolated, candidates, measured)
    assert prices.sums[0].saved_ms > 2 * prices.sums[1].saved_ms
    fresh = draw_candidates(classes, 30, np.random.default_rng(2), together=around)
    expected = np.array([truth.predict(candidate) for candidate in fresh])
    found = np.array([prices.predict(candidate) for candidate in fresh])
    assert np.abs(found / expected - 1).max() < 0.02


def test_layers_around_a_sum_are_often_int8_together() -> None:
    around = [tuple(NAMES[:4]), tuple(NAMES[2:])]
    menu = (*MENU, Option(bits=7, rank=0.5, activations="int8"))
    shares = []
    for together in ((), around):
        drawn = draw_candidates(
            dict.fromkeys(NAMES, menu), 300, np.random.default_rng(0), together=together
        )
        integer = [IntegerSum(layers, 0.0, 0).is_integer(c) for c in drawn for layers in around]
        shares.append(np.mean(integer))
    assert shares[1] > 1.5 * shares[0]


def test_what_was_never_measured_is_an_error() -> None:
    prices = LatencyPrices(1.0, {"a": {"dense": 10.0}}, ())
    with pytest.raises(DeviceError, match="'a'.*'w32-r50' was never measured"):
        prices.predict({"a": HALF})
    with pytest.raises(DeviceError, match="'z' was never measured"):
        prices.predict({"z": Option()})


def test_known_coefficients_are_recovered() -> None:
    generator = np.random.default_rng(1)
    isolated = made_up(generator)
    known = np.array([0.8, 1.3, 0.6, 2.0, 0.05, 1.7])
    candidates = draw_candidates(dict.fromkeys(NAMES, MENU), 16, generator)
    measured = np.array([features(isolated, candidate) @ known for candidate in candidates])
    np.testing.assert_allclose(fit_coefficients(isolated, candidates, measured), known, rtol=1e-6)
    fresh = draw_candidates(dict.fromkeys(NAMES, MENU), 30, np.random.default_rng(2))
    prices = fit_prices(isolated, candidates, measured)
    for candidate in fresh:
        expected = features(isolated, candidate) @ known
        assert prices.predict(candidate) == pytest.approx(expected, rel=1e-6)


def test_many_runs_correct_each_price_beyond_the_coefficients() -> None:
    generator = np.random.default_rng(5)
    isolated = made_up(generator)
    truth = scale_prices(isolated, np.array([1.0, 1.0, 1.0, 1.0, 0.1, 2.0]))
    units = {
        name: {key: price * float(generator.uniform(0.6, 1.5)) for key, price in menu.items()}
        for name, menu in truth.unit_ms.items()
    }
    truth = LatencyPrices(2.0, units, truth.edges)
    candidates = draw_candidates(dict.fromkeys(NAMES, MENU), 90, generator)
    measured = np.array([truth.predict(candidate) for candidate in candidates])
    seen, unseen = slice(0, 60), slice(60, 90)

    def error(prices: LatencyPrices) -> float:
        predicted = np.array([prices.predict(candidate) for candidate in candidates[unseen]])
        return float(np.abs(predicted / measured[unseen] - 1).mean())

    coefficients = fit_coefficients(isolated, candidates[seen], measured[seen])
    refined = fit_prices(isolated, candidates[seen], measured[seen])
    assert error(refined) < 0.005 < error(scale_prices(isolated, coefficients))
    assert min(min(menu.values()) for menu in refined.unit_ms.values()) >= 0


def test_runs_without_latencies_are_refused() -> None:
    with pytest.raises(ValueError, match="1 runs, 2 latencies"):
        fit_prices(made_up(np.random.default_rng(0)), [{}], np.ones(2))


def test_prices_come_back_from_json_bit_for_bit() -> None:
    prices = made_up(np.random.default_rng(3))
    text = json.dumps(prices.as_dict())
    assert LatencyPrices.from_dict(json.loads(text)) == prices
    with pytest.raises(StorageError, match="latency prices"):
        LatencyPrices.from_dict({"constant_ms": 1.0})


def test_a_fit_is_judged_on_held_out_candidates_only() -> None:
    points = [
        Point("seen", 1.0, 5.0, 1.0, False),
        Point("seen", 1.0, 4.0, 2.0, False),
        Point("a", 1.1, 1.0, 3.0, True),
        Point("b", 1.8, 2.0, 2.0, True),
        Point("c", 3.0, 3.0, 1.0, True),
    ]
    timing = Timing.of(np.array([1.0, 1.02] * 10))
    fit = judge(points, [timing] * 5, 0.0, 1.0)
    assert fit.mape_percent == pytest.approx(20 / 3)
    assert fit.worst_percent == pytest.approx(10)
    assert fit.spearman == pytest.approx(1)
    assert fit.flops_spearman == pytest.approx(-1)
    assert fit.noise_floor_percent == pytest.approx(2, rel=0.05)


def test_rank_correlation_with_a_constant_is_zero() -> None:
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0
    assert spearman(np.array([1.0, 3, 2]), np.array([10.0, 30, 20])) == pytest.approx(1)


def test_candidates_are_distinct_repeatable_and_hold_the_extremes() -> None:
    menus = dict.fromkeys(NAMES, MENU)
    drawn = draw_candidates(menus, 40, np.random.default_rng(7))
    assert drawn == draw_candidates(menus, 40, np.random.default_rng(7))
    assert drawn[0] == dict.fromkeys(NAMES, Option())
    assert drawn[1] == dict.fromkeys(NAMES, INT8)
    assert drawn[2] == dict.fromkeys(NAMES, PACKED)
    assert len({tuple(candidate.items()) for candidate in drawn}) == 40
    assert len(draw_candidates({"a": MENU}, 40, np.random.default_rng(7))) == len(MENU)
