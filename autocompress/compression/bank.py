"""The bank: every (layer, option) compressed once, on disk, found again by content.

The key of an entry is a hash of all weights, the calibration inputs, the layer as it was traced
(what surrounds it included), the option and the code that made it, so nothing stale is read.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autocompress.compression.channels import Channels
from autocompress.compression.making import Job, Supplies
from autocompress.compression.moments import Statistics
from autocompress.compression.treated import Grid, Narrow, StoredTensor, Treated, stored_dense
from autocompress.errors import StorageError
from autocompress.files import write_bytes
from autocompress.model.layer import Layer
from autocompress.model.memory import give_back
from autocompress.search_space.option import Option

MAPPED = 2**25  # bytes of entries that stay mapped

_RECIPE = (
    "channels",
    "codebook",
    "compress",
    "density",
    "descent",
    "eliminate",
    "factorize",
    "feedback",
    "moments",
    "narrow",
    "pattern",
    "quantize",
    "rate",
    "rounding",
    "sparsify",
    "steps",
    "stored",
    "treated",
    "tucker",
)


@dataclass(frozen=True)
class Entry:
    """One layer under one option.

    Args:
        treated: What is stored; its tensors are mapped from the file, as long as they are held.
        error: Relative output error on the calibration inputs.
    """

    treated: Treated
    error: float


class Bank:
    """A folder of entries.

    Args:
        folder: Created when the first entry is written.
        content: Hash of model weights and calibration inputs (`fingerprint`).
        channels: Which channels narrow options keep.
    """

    def __init__(self, folder: Path, content: str, channels: Channels | None = None) -> None:
        self.folder = folder
        self.content = content
        self.channels = channels or Channels()
        self.made = 0
        self.reused = 0
        self._paths: dict[tuple[str, Option], Path] = {}
        # Pages of a file count as the process's memory while it is mapped: not all stay so.
        self._mapped: OrderedDict[tuple[str, Option], tuple[Entry, int]] = OrderedDict()
        self._bytes = 0

    def fill(
        self,
        layer: Layer,
        module: nn.Module,
        statistics: Callable[[], Statistics],
        options: Iterable[Option],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Makes the entries that are missing; those on disk are mapped.

        Args:
            layer: The layer.
            module: The dense module.
            statistics: Gives the calibration statistics; only called when something is missing.
            options: The layer's menu; the identity is skipped.
            done: Called after each entry.

        Raises:
            StorageError: If an entry cannot be written; those before it are kept.
        """
        missing = self.missing(layer, options, done)
        if not missing:
            return
        supplies = Supplies({layer.name: module}, {layer.name: statistics()}, self.channels)
        for entry in supplies.make(Job(layer, tuple(missing))):
            self.add(layer, *entry)
            done()
        give_back()

    def missing(
        self, layer: Layer, options: Iterable[Option], found: Callable[[], None] = lambda: None
    ) -> list[Option]:
        """Options of a layer that have to be made; those on disk are mapped.

        Args:
            layer: The layer.
            options: Its menu; the identity is skipped.
            found: Called for each that is on disk.
        """
        missing = []
        # Output channels are cut when an entry is looked up.
        for option in dict.fromkeys(option.computed for option in options):
            if option.is_identity:
                continue
            path = self._path(layer, option)
            entry = _read(path)
            if entry is None:
                missing.append(option)
                continue
            self._keep((layer.name, option), path, entry)
            self.reused += 1
            found()
        return missing

    def add(self, layer: Layer, option: Option, treated: Treated, error: float) -> None:
        """Stores what was made.

        Raises:
            StorageError: If it cannot be written.
        """
        entry = Entry(treated, error)
        path = self._path(layer, option)
        write_bytes(path, _pack(entry))
        self._keep((layer.name, option), path, _read(path) or entry)
        self.made += 1

    def stored(self, layer: Layer, module: nn.Module, option: Option) -> Treated:
        """What is stored for a layer under an option, the identity included.

        Args:
            layer: The record of the layer.
            module: The dense module.
            option: One that was filled in, with any number of its output channels.
        """
        whole = option.computed
        treated = stored_dense(module) if whole.is_identity else self[layer.name, whole].treated
        return self.channels.cut(layer, option, treated)

    def __getitem__(self, key: tuple[str, Option]) -> Entry:
        name, option = key
        place = (name, option.computed)
        if place not in self._mapped:
            path = self._paths[place]
            entry = _read(path)
            if entry is None:
                raise StorageError(
                    f"{path}: the bank's entry of layer {name!r} under {option.computed.id} is"
                    " gone or damaged; the same command makes it again"
                )
            self._keep(place, path, entry)
        self._mapped.move_to_end(place)
        return self._mapped[place][0]

    def _keep(self, place: tuple[str, Option], path: Path, entry: Entry) -> None:
        """Remembers an entry; of many large ones those used last stay mapped."""
        size = path.stat().st_size
        self._paths[place] = path
        self._mapped[place] = (entry, size)
        self._bytes += size
        while self._bytes > MAPPED and len(self._mapped) > 1:
            self._bytes -= self._mapped.popitem(last=False)[1][1]

    def _path(self, layer: Layer, option: Option) -> Path:
        # The record too: another `forward` around the same weights gives other moments and grids.
        kept = self.channels.kept(layer, option)
        inputs = [] if kept is None or kept.inputs is None else kept.inputs.tolist()
        text = json.dumps([self.content, repr(layer), option.id, recipe(), inputs])
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"


def fingerprint(model: nn.Module, inputs: Iterable[Tensor]) -> str:
    """Hash of every parameter and buffer by name, and of the calibration inputs."""
    digest = hashlib.sha256()
    tensors = [*model.state_dict().items(), *((str(i), x) for i, x in enumerate(inputs))]
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def recipe() -> str:
    """Hash of the code that makes entries: another version of it makes other entries."""
    return code_hash((*_RECIPE, "../model/matrix", "../model/gates"))


@cache
def code_hash(names: tuple[str, ...]) -> str:
    """Hash of some files, by their paths from this folder without `.py`."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _pack(entry: Entry) -> bytes:
    treated = entry.treated
    tensors: dict[str, Tensor] = {}
    for index, weight in enumerate(treated.weights):
        tensors[f"codes{index}"] = weight.codes.contiguous()
        for part in ("scale", "zero", "codebook"):
            values = getattr(weight, part)
            if values is not None:
                tensors[f"{part}{index}"] = values.contiguous()
    if treated.bias is not None:
        tensors["bias"] = treated.bias.contiguous()
    if treated.narrow is not None and treated.narrow.inputs is not None:
        tensors["inputs"] = treated.narrow.inputs
    facts = {
        "bits": [weight.bits for weight in treated.weights],
        "groups": [weight.group for weight in treated.weights],
        "grids": [grid and [grid.scale, grid.zero_point] for grid in treated.grids],
        "dynamic": treated.is_dynamic,
        "sizes": treated.narrow and treated.narrow.sizes,
        "error": entry.error,
    }
    return save(tensors, {"entry": json.dumps(facts)})


def _read(path: Path) -> Entry | None:
    """The entry of a file, or None where there is none; a damaged one is made again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["entry"])
            tensors: Mapping[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        weights = tuple(
            StoredTensor(
                bits,
                tensors[f"codes{index}"],
                tensors.get(f"scale{index}"),
                group,
                tensors.get(f"zero{index}"),
                tensors.get(f"codebook{index}"),
            )
            for index, (bits, group) in enumerate(zip(facts["bits"], facts["groups"], strict=True))
        )
        grids = tuple(Grid(*grid) if grid else None for grid in facts["grids"])
        sizes = facts["sizes"]
        narrow = Narrow((sizes[0], sizes[1]), None, tensors["inputs"]) if sizes else None
        treated = Treated(weights, tensors.get("bias"), grids, narrow, bool(facts["dynamic"]))
        return Entry(treated, float(facts["error"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
