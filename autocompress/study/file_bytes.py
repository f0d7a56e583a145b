"""Bytes of the file that ships, exactly: what each unit adds, what is left without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autocompress.compression.bank import Bank
from autocompress.compression.narrowed import counts_of
from autocompress.compression.treated import Treated, stored_dense
from autocompress.deploy import archive
from autocompress.hardware.runtimes import onnx_graph
from autocompress.model.sums import sums_of
from autocompress.search.resource import Joint
from autocompress.search_space.option import Option
from autocompress.search_space.space import Space
from autocompress.study.config import Study
from autocompress.study.subject import Model


def dense_record(model: Model, unit: str) -> Treated:
    """What is stored for a unit that stays as it is."""
    return stored_dense(model.dense.get_submodule(unit))


def unit_bytes(
    study: Study, model: Model, space: Space, bank: Bank
) -> dict[tuple[str, Option], int]:
    """Exact bytes that each unit adds to the file that ships."""
    sizes = {}
    for unit, menu in space.units.items():
        for option in menu:
            stored = bank.stored(model.layer(unit), model.dense.get_submodule(unit), option)
            if study.settings.format == "onnx":
                sizes[unit, option] = onnx_graph.layer_bytes(model.graph, unit, stored, "onnx")
            else:
                sizes[unit, option] = archive.layer_bytes(unit, option.id, stored)
    return sizes


def sum_bytes(study: Study, model: Model, number: Mapping[str, int]) -> tuple[Joint, ...]:
    """What rounded sums add to the file that ships; an archive stores nothing of them."""
    if study.settings.format == "archive":
        return ()
    return tuple(
        Joint(tuple(number[layer] for layer in found.around.layers), bytes_more)
        for name, found in model.graph.sums.items()
        if all(layer in number for layer in found.around.layers)
        and (bytes_more := onnx_graph.sum_bytes(model.graph, name))
    )


def base_bytes(study: Study, model: Model, units: Sequence[str]) -> int:
    """Bytes of the file that ships without its units."""
    if study.settings.format == "onnx":
        outside = [layer.name for layer in model.graph.layers if layer.name not in units]
        dense = (
            onnx_graph.layer_bytes(model.graph, name, dense_record(model, name), "onnx")
            for name in outside
        )
        return onnx_graph.base_bytes(model.graph, study.device.threads) + sum(dense)
    rest = model.rest(dict.fromkeys(units, None))  # type: ignore[arg-type]
    # An id of many different digits, as ids are: zeros would shrink more.
    return archive.base_bytes(rest, metadata(study, model, "5a3e61c0f7"), units)


def metadata(study: Study, model: Model, candidate: str) -> dict[str, str]:
    """What an archive says of where it comes from; short, because every byte counts.

    It depends on nothing that a search decides, but for the candidate's id.
    """
    numbers = {archive.SUMS: len(sums_of(model.dense)), archive.FORMS: model.forms}
    told = {key: str(count) for key, count in numbers.items() if count}
    names = {width.name for width in model.widths(study)}
    counts = counts_of([group for group in model.groups if group.name in names] if names else [])
    if counts:
        told[archive.COUNTS] = " ".join(map(str, counts))
    return {"study": study.name, "id": candidate} | told
