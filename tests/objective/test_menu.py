from __future__ import annotations

import itertools

import numpy as np
import pytest

from autocompress.objective.menu import useful


def chosen(
    options: list[tuple[float, float, float]], keep: int, kinds: list[int] | None = None
) -> list[int]:
    """Options are `(loss, size, latency)`; the first is the identity."""
    loss, size, latency = np.array(options, dtype=float).T
    return useful(loss, size, latency, np.array(kinds or [0] * len(options)), keep)


def test_what_another_option_beats_in_everything_goes() -> None:
    options = [
        (0.0, 100, 1.0),
        (0.1, 50, 1.0),
        (0.2, 60, 1.0),  # larger and worse than the one before
        (0.3, 40, 1.0),
        (0.3, 40, 1.0),  # the same again
        (0.4, 45, 0.5),  # larger and worse, but faster
        (0.0, 120, 2.0),  # the identity is better
    ]
    assert chosen(options, 24) == [0, 1, 3, 5]


def test_the_identity_always_stays() -> None:
    options = [(0.0, 100, 1.0), (0.0, 10, 0.5), (0.1, 5, 0.5), (0.2, 2, 0.5)]
    assert chosen(options, 24) == [0, 1, 2, 3]
    assert chosen(options, 2)[0] == 0


@pytest.mark.parametrize("keep", [2, 3, 5, 8, 30])
def test_no_more_stay_than_asked_for_and_none_is_lost_needlessly(keep: int) -> None:
    generator = np.random.default_rng(keep)
    sizes = np.linspace(10, 100, 20)
    # All on one convex curve, in any order.
    options = [(0.0, 200.0, 1.0)]
    options += [(100 / size**2, size, 1.0) for size in generator.permutation(sizes)]
    found = chosen(options, keep)
    assert found == sorted(set(found))
    assert 0 in found
    assert len(found) == min(keep, len(options))


def test_options_of_different_kinds_are_not_compared() -> None:
    # Of the second kind all are beaten by one of the first.
    options = [(0.0, 100, 1.0), (0.1, 20, 0.1), (0.2, 50, 0.5), (0.3, 40, 0.5), (0.4, 60, 0.6)]
    assert chosen(options, 24, [0, 0, 1, 1, 1]) == [0, 1, 2, 3]
    assert chosen(options, 24) == [0, 1]


def test_each_kind_keeps_its_share() -> None:
    float_kind = [(1 / size, size, 2.0) for size in np.linspace(20, 90, 30)]
    int_kind = [(2 / size, size, 1.0) for size in np.linspace(20, 90, 30)]
    kinds = [0] * 31 + [1] * 30
    found = chosen([(0.0, 100, 2.0), *float_kind, *int_kind], 12, kinds)
    assert len(found) == 12
    counts = np.bincount(np.array(kinds)[found])
    assert abs(counts[0] - counts[1]) <= 1
    # A kind with little to offer leaves its turns to the others.
    found = chosen([(0.0, 100, 2.0), *float_kind, int_kind[0]], 12, kinds[:32])
    assert len(found) == 12
    assert 31 in found


def test_options_on_the_curve_come_before_those_above_it() -> None:
    curve = [(10 / size, size, 1.0) for size in (10, 20, 30, 40, 50, 60)]
    # Each lies above the line between its neighbours, and below the loss of the smaller one.
    above = [(0.98 * loss, size + 9, 1.0) for loss, size, _ in curve[:-1]]
    identity = (0.0, 1000.0, 1.0)
    for keep in (3, 5, 7):
        assert all(number <= 6 for number in chosen([identity, *curve, *above], keep))
    assert len(chosen([identity, *curve, *above], 30)) == 12


def test_the_middle_of_a_steep_curve_is_on_it() -> None:
    # A bit more, a quarter of the loss: convex for the solver, though not in both logarithms.
    bits = [2, 3, 4, 5, 6, 7, 8]
    curve = [(4.0**-bit, 10.0 * bit, 1.0) for bit in bits]
    above = [(0.95 * 4.0**-bit, 10.0 * bit + 9, 1.0) for bit in bits[:-1]]
    assert chosen([(0.0, 320.0, 1.0), *curve, *above], 8) == list(range(8))


def test_those_kept_are_spread_over_the_sizes() -> None:
    sizes = np.geomspace(10, 1000, 41)
    options = [(0.0, 4000.0, 1.0), *((10 / size, size, 1.0) for size in sizes)]
    found = [options[number][1] for number in chosen(options, 7)]
    kept = np.log(np.sort(found)[:-1])
    assert kept[0] == pytest.approx(np.log(10))
    assert kept[-1] == pytest.approx(np.log(1000))
    # Six places on 40 equal steps: none further apart than half of the range.
    assert np.diff(kept).max() < 0.51 * np.log(100)


def test_a_faster_option_is_on_the_curve_of_the_fast() -> None:
    # Slow ones are better at every size; the two fast ones are what a latency limit leaves.
    slow = [(1 / size, size, 2.0) for size in (10, 20, 40, 80)]
    fast = [(1.5 / size, size * 1.01, 1.0) for size in (10, 80)]
    found = chosen([(0.0, 100, 3.0), *slow, *fast], 24)
    assert found == [0, 1, 2, 3, 4, 5, 6]
    # So they stay before slow ones that lie above the curve of the slow, if less far.
    above = [(1.2 / size, size, 2.0) for size in (15, 30, 60)]
    assert chosen([(0.0, 100, 3.0), *slow, *fast, *above], 24) == list(range(10))
    assert chosen([(0.0, 100, 3.0), *slow, *fast, *above], 7) == list(range(7))


def test_nothing_beats_what_stays_when_all_may() -> None:
    generator = np.random.default_rng(0)
    options = [(0.0, 1.0, 1.0), *map(tuple, generator.uniform(0.1, 0.9, (60, 3)))]
    found = chosen(options, 256)  # type: ignore[arg-type]
    wanted = [
        number
        for number, option in enumerate(options)
        if not any(
            all(a <= b for a, b in zip(other, option, strict=True)) and other != option
            for other in options
        )
    ]
    assert found == wanted
    for one, other in itertools.permutations(found, 2):
        assert any(a < b for a, b in zip(options[one], options[other], strict=True))


def test_losses_of_zero_and_equal_options_do_no_harm() -> None:
    assert chosen([(0.0, 10, 1.0)], 5) == [0]
    assert chosen([(0.0, 10, 1.0)] * 5, 5) == [0]
    assert chosen([(0.0, 10, 1.0), (0.0, 5, 1.0), (0.0, 2, 1.0)], 5) == [0, 2]
