from __future__ import annotations

from dataclasses import replace

from autocompress.hardware.cost_model import Edge, LatencyPrices
from autocompress.search_space.option import Option
from autocompress.search_space.space import Space
from autocompress.study.gains import without_losers

INT8 = Option(bits=7, activations="int8")
SMALL8 = Option(bits=4, sparsity=0.5, activations="int8")
HALF = Option(bits=8, rank=0.5)
HALF8 = Option(bits=7, rank=0.5, activations="int8")
MENU = (Option(), Option(bits=4), INT8, SMALL8, HALF, HALF8)


def prices(int8: float, half: float, half8: float, between: float = 0.0) -> LatencyPrices:
    units = {
        name: {
            "dense": 1.0,
            "w7-a8": int8,
            "w32-r50": half,
            "w7-r50-a8": half8,
        }
        for name in ("a", "b")
    }
    return LatencyPrices(0.1, units, (Edge("a", "b", between, between), Edge(None, "a", 9.0, 9.0)))


def menu(found: Space) -> tuple[Option, ...]:
    return found.units["a"]


SPACE = Space({"a": MENU, "b": MENU}, ("before",))


def test_what_is_faster_stays() -> None:
    assert without_losers(SPACE, prices(0.5, 0.7, 0.4)) == SPACE


def test_what_is_not_faster_goes_with_the_reason() -> None:
    found = without_losers(SPACE, prices(1.0, 1.2, 0.9))
    assert menu(found) == (Option(), Option(bits=4), HALF8)
    assert found.removed[0] == "before"
    said = [sentence for sentence in found.removed if sentence.startswith("a: ")]
    assert said == [
        "a: int8 kernels, which make nothing faster here (1.0000 ms at best, 1.0000 ms without)",
        "a: lower ranks, which make nothing faster here (1.2000 ms at best, 1.0000 ms without)",
    ]


def test_an_int8_layer_may_spare_its_neighbours_a_change_of_precision() -> None:
    assert INT8 in menu(without_losers(SPACE, prices(1.1, 0.5, 0.4, between=0.2)))
    assert INT8 not in menu(without_losers(SPACE, prices(1.1, 0.5, 0.4, between=0.1)))


def test_a_rank_is_compared_with_the_same_kernels() -> None:
    found = without_losers(SPACE, prices(0.3, 0.9, 0.4))
    assert HALF in menu(found)
    assert HALF8 not in menu(found)  # slower than int8 in full rank, though faster than float


def test_cores_take_part_by_their_own_name() -> None:
    core, core8 = Option(tucker=0.5), Option(bits=7, tucker=0.5, activations="int8")
    units = {"dense": 1.0, "w7-a8": 0.6, "w32-t50": 1.1, "w7-t50-a8": 0.7}
    menus = Space({"a": (Option(), INT8, core, core8)})
    found = without_losers(menus, LatencyPrices(0.1, {"a": units}, ()))
    assert menu(found) == (Option(), INT8)
    assert list(found.removed) == [
        "a: Tucker cores, which make nothing faster here (1.1000 ms at best, 1.0000 ms without)",
        "a: Tucker cores on int8, which make nothing faster here"
        " (0.7000 ms at best, 0.6000 ms without)",
    ]
    faster = {**units, "w32-t50": 0.9, "w7-t50-a8": 0.5}
    assert without_losers(menus, LatencyPrices(0.1, {"a": faster}, ())) == menus


def test_what_pays_at_one_number_of_outputs_stays_at_all() -> None:
    halved = [replace(option, outputs=0.5) for option in (Option(), HALF)]
    units = {"dense": 1.0, "w32-r50": 1.1, "w32-o50": 0.6, "w32-r50-o50": 0.5}
    latency = LatencyPrices(0.1, {"a": units}, ())
    menus = (Option(), HALF, *halved)
    assert menu(without_losers(Space({"a": menus}), latency)) == menus
