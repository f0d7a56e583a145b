"""Latency as a sum of prices: one per layer and option, one per change between float and int8.

Operations timed alone do not add up to a model: caches, layouts and overheads differ.  So their
sums are scaled to whole-model runs by non-negative coefficients (float time, int8 time, time on
packed weights, boundary time, number of boundaries, constant); then each price moves towards what
the runs say.
A residual addition between int8 layers alone is done on integers, and saves boundaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from autocompress.errors import DeviceError, StorageError
from autocompress.hardware.device import kernel_class
from autocompress.search_space.option import ACTIVATIONS, Option

Candidate = Mapping[str, Option]
Term = tuple[str, ...]

# How far a price may move from what the coefficients make of it: a share of itself and of the
# model's latency, times one of `WIDTHS`; and what a run is off by, as a share of itself.
PRICE_SHARE, MODEL_SHARE, NOISE_SHARE = 0.3, 0.02, 0.01
WIDTHS = (0.01, 0.1, 0.3, 1.0)
FOLDS = 5


@dataclass(frozen=True)
class Edge:
    """A way from one layer to the next, where values may change between float and int8.

    Args:
        tail: Layer that gives the values; None is the world outside, which is float.
        head: Layer that reads them; None likewise.
        up_ms: Cost when the tail is float and the head int8.
        down_ms: Cost when the tail is int8 and the head float.
    """

    tail: str | None
    head: str | None
    up_ms: float
    down_ms: float


@dataclass(frozen=True)
class IntegerSum:
    """A residual addition that is done on integers where all layers around it are int8.

    Args:
        layers: These layers.
        saved_ms: What that saves of the changes of precision that the edges charge.
        boundaries: How many of these it saves.
    """

    layers: tuple[str, ...]
    saved_ms: float
    boundaries: int

    def is_integer(self, candidate: Candidate) -> bool:
        return all(candidate.get(name, Option()).activations == "int8" for name in self.layers)


@dataclass(frozen=True)
class LatencyPrices:
    """What a search needs to know of latency: numbers only.

    Args:
        constant_ms: What every candidate costs.
        unit_ms: Layer name to option id to milliseconds.
        edges: Prices of the changes of precision.
        sums: What residual additions save.
    """

    constant_ms: float
    unit_ms: Mapping[str, Mapping[str, float]]
    edges: tuple[Edge, ...]
    sums: tuple[IntegerSum, ...] = ()

    def unit(self, layer: str, option: Option) -> float:
        """Price of an option, or of another one that runs the same kernels.

        Raises:
            DeviceError: If it was never measured.
        """
        prices = self.unit_ms.get(layer, {})
        for key in (option.id, kernel_class(option).id):
            if key in prices:
                return prices[key]
        raise DeviceError(
            f"layer {layer!r}: the latency of option {option.id!r} was never measured; "
            f"measured are {', '.join(prices) or 'none'}"
        )

    def predict(self, candidate: Candidate) -> float:
        """Latency of a candidate in ms; a layer that it does not name is dense float32.

        Raises:
            DeviceError: If it holds a layer or an option that was never measured.
        """
        for layer in candidate:
            if layer not in self.unit_ms:
                raise DeviceError(f"layer {layer!r} was never measured")
        units = [self.unit(layer, candidate.get(layer, Option())) for layer in self.unit_ms]
        changes = [
            edge.up_ms if change == "up" else edge.down_ms
            for edge in self.edges
            if (change := direction(edge, candidate))
        ]
        saved = [found.saved_ms for found in self.sums if found.is_integer(candidate)]
        return self.constant_ms + sum(units) + sum(changes) - sum(saved)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; floats come back bit for bit."""
        return {
            "constant_ms": self.constant_ms,
            "unit_ms": {layer: dict(prices) for layer, prices in self.unit_ms.items()},
            "edges": [asdict(edge) for edge in self.edges],
            "sums": [asdict(found) for found in self.sums],
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> LatencyPrices:
        """The inverse of `as_dict`.

        Raises:
            StorageError: If a field is missing or malformed.
        """
        try:
            units = {
                str(layer): {str(option): float(price) for option, price in prices.items()}
                for layer, prices in content["unit_ms"].items()
            }
            edges = tuple(Edge(**fields) for fields in content["edges"])
            # Profiles from before there were integer sums have none.
            sums = tuple(
                IntegerSum(tuple(fields["layers"]), fields["saved_ms"], fields["boundaries"])
                for fields in content.get("sums", ())
            )
            return LatencyPrices(float(content["constant_ms"]), units, edges, sums)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(f"not a record of latency prices: {error!r}") from error


def direction(edge: Edge, candidate: Candidate) -> str:
    """`up`, `down` or empty: how the precision changes along an edge."""
    ends = [
        name is not None and candidate.get(name, Option()).activations == "int8"
        for name in (edge.tail, edge.head)
    ]
    if ends[0] == ends[1]:
        return ""
    return "up" if ends[1] else "down"


def features(isolated: LatencyPrices, candidate: Candidate) -> NDArray[np.float64]:
    """`(6,)`: float time, int8 time, time on packed weights, boundary time, number of boundaries,
    1."""
    row = np.zeros(6)
    for layer in isolated.unit_ms:
        option = candidate.get(layer, Option())
        row[ACTIVATIONS.index(option.activations)] += isolated.unit(layer, option)
    for edge in isolated.edges:
        change = direction(edge, candidate)
        if change:
            row[3] += edge.up_ms if change == "up" else edge.down_ms
            row[4] += 1
    for found in isolated.sums:
        if found.is_integer(candidate):
            row[3] -= found.saved_ms
            row[4] -= found.boundaries
    row[5] = 1
    return row


def fit_coefficients(
    isolated: LatencyPrices, candidates: Sequence[Candidate], measured_ms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`(6,)` non-negative coefficients of `features` with the least squared relative error."""
    rows = np.array([features(isolated, candidate) for candidate in candidates])
    coefficients, _ = nnls(rows / measured_ms[:, None], np.ones(len(rows)))
    return np.asarray(coefficients)


def scale_prices(isolated: LatencyPrices, coefficients: NDArray[np.float64]) -> LatencyPrices:
    """The prices that the coefficients mean."""
    *times, boundary, count, constant = map(float, coefficients)
    units = {
        layer: {
            key: price * times[ACTIVATIONS.index(Option.parse(key).activations)]
            for key, price in prices.items()
        }
        for layer, prices in isolated.unit_ms.items()
    }
    edges = tuple(
        Edge(edge.tail, edge.head, boundary * edge.up_ms + count, boundary * edge.down_ms + count)
        for edge in isolated.edges
    )
    sums = tuple(
        replace(found, saved_ms=boundary * found.saved_ms + count * found.boundaries)
        for found in isolated.sums
    )
    return LatencyPrices(constant, units, edges, sums)


def fit_prices(
    isolated: LatencyPrices, candidates: Sequence[Candidate], measured_ms: NDArray[np.float64]
) -> LatencyPrices:
    """Fit the coefficients, then each price.

    The second step is a non-negative least squares with one more row a price, which draws it
    towards what the coefficients make of it.  How strongly is what predicts left-out runs best:
    with few runs for many layers the coefficients do nearly all, with many each price is its own.

    Args:
        isolated: Times of single operations; its constant is ignored.
        candidates: What was run; ten or more, or all that there are.
        measured_ms: `(runs,)` latencies.

    Raises:
        ValueError: If there is not one latency for each run.
    """
    if not len(candidates) or len(candidates) != len(measured_ms):
        raise ValueError(f"fit_prices: {len(candidates)} runs, {len(measured_ms)} latencies")
    errors = dict.fromkeys(WIDTHS, 0.0)
    folds = FOLDS if len(candidates) >= 2 * FOLDS else 0
    for fold in range(folds):
        # The first two runs are the extremes: without them a fit would have to extrapolate.
        left_out = [index for index in range(2, len(candidates)) if index % FOLDS == fold]
        kept = sorted(set(range(len(candidates))) - set(left_out))
        runs, times = [candidates[index] for index in kept], measured_ms[kept]
        prior = scale_prices(isolated, fit_coefficients(isolated, runs, times))
        for width in WIDTHS:
            prices = _refine(prior, runs, times, width)
            errors[width] += sum(
                (prices.predict(candidates[index]) / measured_ms[index] - 1) ** 2
                for index in left_out
            )
    prior = scale_prices(isolated, fit_coefficients(isolated, candidates, measured_ms))
    return _refine(prior, candidates, measured_ms, min(WIDTHS, key=lambda width: errors[width]))


def _refine(
    prior: LatencyPrices,
    candidates: Sequence[Candidate],
    measured_ms: NDArray[np.float64],
    width: float,
) -> LatencyPrices:
    """Prices between the prior ones and those that the runs alone would give."""
    terms = _terms(prior)
    before = np.array(list(terms.values()))
    spread = width * (PRICE_SHARE * before + MODEL_SHARE * float(np.median(measured_ms)))
    where = {term: index for index, term in enumerate(terms)}
    rows = np.zeros((len(candidates), len(terms)))
    for row, candidate in zip(rows, candidates, strict=True):
        for term, sign in _terms_of(prior, candidate).items():
            row[where[term]] = sign
    weight = 1 / (NOISE_SHARE * measured_ms)
    system = np.vstack([rows * weight[:, None], np.diag(1 / spread)])
    after, _ = nnls(system, np.concatenate([measured_ms * weight, before / spread]))
    return _replace(prior, dict(zip(terms, map(float, after), strict=True)))


def _terms(prices: LatencyPrices) -> dict[Term, float]:
    """Every price by a key; options that run the same kernels have one term."""
    terms: dict[Term, float] = {("constant",): prices.constant_ms}
    for layer, menu in prices.unit_ms.items():
        for key, price in menu.items():
            terms["unit", layer, kernel_class(Option.parse(key)).id] = price
    for index, edge in enumerate(prices.edges):
        terms["edge", str(index), "up"] = edge.up_ms
        terms["edge", str(index), "down"] = edge.down_ms
    for index, found in enumerate(prices.sums):
        terms["sum", str(index)] = found.saved_ms
    return terms


def _terms_of(prices: LatencyPrices, candidate: Candidate) -> dict[Term, int]:
    """The prices that a candidate pays, with 1, and what it saves, with -1."""
    terms: dict[Term, int] = {("constant",): 1}
    for layer in prices.unit_ms:
        terms["unit", layer, kernel_class(candidate.get(layer, Option())).id] = 1
    for index, edge in enumerate(prices.edges):
        change = direction(edge, candidate)
        if change:
            terms["edge", str(index), change] = 1
    for index, found in enumerate(prices.sums):
        if found.is_integer(candidate):
            terms["sum", str(index)] = -1
    return terms


def _replace(prices: LatencyPrices, terms: Mapping[Term, float]) -> LatencyPrices:
    units = {
        layer: {key: terms["unit", layer, kernel_class(Option.parse(key)).id] for key in menu}
        for layer, menu in prices.unit_ms.items()
    }
    edges = tuple(
        Edge(
            edge.tail,
            edge.head,
            terms["edge", str(index), "up"],
            terms["edge", str(index), "down"],
        )
        for index, edge in enumerate(prices.edges)
    )
    sums = tuple(
        replace(found, saved_ms=terms["sum", str(index)])
        for index, found in enumerate(prices.sums)
    )
    return LatencyPrices(terms["constant",], units, edges, sums)
