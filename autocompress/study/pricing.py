"""What every option costs: exact bytes, predicted latency, predicted loss; and the menus thinned
by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from autocompress.compression.bank import Bank
from autocompress.compression.stitch import Stitcher
from autocompress.errors import StorageError
from autocompress.files import read_json, write_bytes, write_json
from autocompress.hardware.cost_model import LatencyPrices
from autocompress.model.memory import allowance
from autocompress.model.replay import MEMORY
from autocompress.objective.adjoint import adjoint_prices
from autocompress.objective.menu import useful
from autocompress.objective.quality import Proxy
from autocompress.search.resource import Edge, Joint, Resource
from autocompress.search_space.option import ACTIVATIONS, Option
from autocompress.search_space.space import Space
from autocompress.study.config import Study
from autocompress.study.evaluator import Evaluator, assembly_of
from autocompress.study.events import Listener
from autocompress.study.executors.executor import Executor
from autocompress.study.file_bytes import base_bytes, sum_bytes, unit_bytes
from autocompress.study.subject import Model, space_key
from autocompress.study.swap import Swapped, swap_prices

SCHEMA = 3
PRODUCTS = "products.safetensors"  # beside the prices
ADJOINT_EXAMPLES = 128  # enough to thin menus; the swap table prices what is left
SHARE, LEAST = 0.25, 2**28  # of the model's bytes, and bytes: for activations of the original
FIRST_CUT = 2  # times the menu survive the cut by local error, before the adjoint is asked

Table = tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class Prices:
    """Numbers for the solver, one array `(options,)` a unit.

    Args:
        losses: Loss tables by name: `adjoint` and `swap`.
        size: Bytes of the file that ships.
        latency: Milliseconds on the device.
        labels: 1 where an option runs on int8 kernels.
        swap_passes: What the swap table took, in full proxy passes.
        products: For the `swap` table `(all options, all options)` inner products of the pushes of
            any two options; those that compute the same share a row.
        alike: `(all options,)` the row of `products` of each option.
    """

    losses: Mapping[str, Table]
    size: Resource
    latency: Resource
    labels: tuple[NDArray[np.int64], ...]
    swap_passes: float
    products: NDArray[np.float64]
    alike: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def price(
    study: Study,
    model: Model,
    space: Space,
    bank: Bank,
    stitcher: Stitcher,
    proxy: Proxy,
    latency: LatencyPrices,
    path: Path,
    listener: Listener,
    executor: Executor,
    keep: Mapping[str, Collection[Option]] | None = None,
) -> tuple[Prices, Space]:
    """Prices every option and returns the menus worth searching.

    Local error and bytes make a first cut, the Gauss-Newton adjoint the second; what is left is
    priced by the loss of swapping it alone into the original.

    Args:
        study: What is asked.
        model: The traced model.
        space: All options.
        bank: What each stores.
        stitcher: Assembles candidates.
        proxy: Measures them.
        latency: Prices of the device.
        path: `prices.json`, reused when it was made from the same model, menus and code.
        listener: Hears of the progress.
        executor: Where swaps are measured.
        keep: Unit to options that stay on its menu, however they are priced.
    """
    key = space_key(
        model,
        space,
        SCHEMA,
        study.settings.seed,
        study.settings.format,
        model.proxy_key(study.objective.proxy),
        study.settings.knobs.swap_examples,
    )
    known = _known(path, listener)
    products = _known_products(path.with_name(PRODUCTS))
    if known.get("key") == key and products is not None:
        computed = _chosen(space, known["menus"])
        bytes_of = {
            (unit, Option.parse(text)): size
            for unit, sizes in known["bytes"].items()
            for text, size in sizes.items()
        }
        tables = {name: _table(table, computed) for name, table in known["losses"].items()}
        passes = float(known["swap_passes"])
        listener.note(f"prices: reused from {path}")
    else:
        bytes_of = unit_bytes(study, model, space, bank)
        computed, swapped, tables = _measure(
            study,
            model,
            space,
            bank,
            stitcher,
            proxy,
            latency,
            bytes_of,
            listener,
            executor,
            keep or {},
        )
        record = {
            "schema": SCHEMA,
            "key": key,
            "menus": {
                unit: [option.id for option in menu] for unit, menu in computed.units.items()
            },
            "bytes": {
                unit: {option.id: bytes_of[unit, option] for option in menu}
                for unit, menu in computed.with_outputs().units.items()
            },
            "losses": {
                name: {
                    unit: list(values) for unit, values in zip(computed.units, table, strict=True)
                }
                for name, table in tables.items()
            },
            "swap_passes": swapped.passes,
        }
        products, passes = swapped.products, swapped.passes
        write_bytes(path.with_name(PRODUCTS), save({"products": torch.from_numpy(products)}))
        write_json(path, record)
    thinned = computed.with_outputs()
    alike = _alike(thinned, computed)
    wide = {name: _spread(table, alike) for name, table in tables.items()}
    numbers = _numbers(study, model, thinned, wide, latency, bytes_of)
    return (
        replace(numbers, swap_passes=passes, products=products.astype(np.float64), alike=alike),
        thinned,
    )


def _alike(space: Space, computed: Space) -> NDArray[np.int64]:
    """For every option the place of the one that computes the same, all units in a row."""
    places, start = [], 0
    for unit, menu in space.units.items():
        own = {option: start + index for index, option in enumerate(computed.units[unit])}
        places += [own[option.computed] for option in menu]
        start += len(own)
    return np.array(places, dtype=np.int64)


def _spread(table: Table, alike: NDArray[np.int64]) -> Table:
    """A table over options that compute something else, for all options."""
    flat, unit = np.concatenate(list(table)), np.repeat(np.arange(len(table)), [*map(len, table)])
    return tuple(flat[alike[unit[alike] == index]] for index in range(len(table)))


def _known(path: Path, listener: Listener) -> dict[str, Any]:
    """What was priced before; a damaged file only costs the time to price again."""
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except StorageError as error:
        listener.note(f"{error}; priced again")
        return {}
    return value if isinstance(value, dict) else {}


def _known_products(path: Path) -> NDArray[np.float32] | None:
    try:
        return np.asarray(load_file(path)["products"].numpy())
    except (OSError, KeyError, SafetensorError):
        return None


def _measure(
    study: Study,
    model: Model,
    space: Space,
    bank: Bank,
    stitcher: Stitcher,
    proxy: Proxy,
    latency: LatencyPrices,
    bytes_of: Mapping[tuple[str, Option], int],
    listener: Listener,
    executor: Executor,
    wanted: Mapping[str, Collection[Option]],
) -> tuple[Space, Swapped, dict[str, Table]]:
    def errors(unit: str, menu: Sequence[Option]) -> NDArray[np.float64]:
        return np.array([0.0 if o.is_identity else bank[unit, o].error for o in menu])

    def thin(menus: Space, losses: Mapping[str, NDArray[np.float64]], keep: int) -> Space:
        kept = {}
        for unit, menu in menus.units.items():
            shares = sorted({option.inputs for option in menu}, reverse=True)
            size = np.array([bytes_of[unit, option] for option in menu], dtype=float)
            time = np.array([latency.unit(unit, option) for option in menu])
            # Widths are a matter of several layers: options of different ones are not compared.
            kinds = np.array(
                [3 * shares.index(o.inputs) + ACTIVATIONS.index(o.activations) for o in menu]
            )
            chosen = useful(losses[unit], size, time, kinds, keep * (len(shares) + 1) // 2)
            asked = {index for index, o in enumerate(menu) if o in wanted.get(unit, ())}
            kept[unit] = tuple(menu[index] for index in sorted({*chosen, *asked}))
        return replace(menus, units=kept)

    space = space.computed
    first = {unit: errors(unit, menu) for unit, menu in space.units.items()}
    candidates = thin(space, first, FIRST_CUT * study.space.menu)
    generator = torch.Generator().manual_seed(study.settings.seed)
    sparing = stitcher.sparing()  # every option is built once or twice
    listener.progress(0, 1, "backward passes")
    adjoint = adjoint_prices(
        model.dense,
        candidates.units,
        sparing.module,
        tuple(tensor[:ADJOINT_EXAMPLES] for tensor in model.cost_inputs),
        proxy.divergence,
        generator,
    )
    thinned = thin(candidates, adjoint, study.space.menu)
    assembly = assembly_of(model, thinned, bank, sparing, proxy)
    memory = allowance(model.dense, SHARE, LEAST, MEMORY)
    evaluator = Evaluator(replace(assembly, memory=memory), executor)
    swapped = swap_prices(study, thinned, proxy, evaluator, listener)
    return (
        thinned,
        swapped,
        {
            "adjoint": tuple(
                adjoint[unit][[candidates.units[unit].index(option) for option in menu]]
                for unit, menu in thinned.units.items()
            ),
            "swap": swapped.losses,
        },
    )


def _numbers(
    study: Study,
    model: Model,
    space: Space,
    tables: Mapping[str, Table],
    latency: LatencyPrices,
    bytes_of: Mapping[tuple[str, Option], int],
) -> Prices:
    order = list(space.units)
    number = {unit: index for index, unit in enumerate(order)}
    edges = tuple(
        Edge(
            None if edge.tail is None else number[edge.tail],
            None if edge.head is None else number[edge.head],
            edge.up_ms,
            edge.down_ms,
        )
        for edge in latency.edges
    )

    def table(value: Mapping[tuple[str, Option], float]) -> Table:
        return tuple(
            np.array([value[unit, option] for option in menu], dtype=float)
            for unit, menu in space.units.items()
        )

    times = {(unit, o): latency.unit(unit, o) for unit, menu in space.units.items() for o in menu}
    labels = tuple(
        np.array([int(option.activations == "int8") for option in menu], dtype=np.int64)
        for menu in space.units.values()
    )
    sums = tuple(
        Joint(tuple(number[name] for name in found.layers), -found.saved_ms)
        for found in latency.sums
    )
    base = float(base_bytes(study, model, order))
    return Prices(
        losses=tables,
        size=Resource(base, table(bytes_of), joints=sum_bytes(study, model, number)),
        latency=Resource(latency.constant_ms, table(times), edges, sums),
        labels=labels,
        swap_passes=0.0,
        products=np.zeros((0, 0)),
    )


def _chosen(space: Space, menus: Mapping[str, Sequence[str]]) -> Space:
    units = {unit: tuple(Option.parse(text) for text in menus[unit]) for unit in space.units}
    return replace(space, units=units)


def _table(table: Mapping[str, Sequence[float]], space: Space) -> Table:
    return tuple(np.array(table[unit], dtype=float) for unit in space.units)
