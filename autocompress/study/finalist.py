"""One confirmed candidate: fitted in sequence, written in both formats, judged by the user's
metric and the device's clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import onnx
from torch import nn

from autocompress.compression.narrowed import counts_of, narrowed
from autocompress.compression.resolve import resolve
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Treated
from autocompress.deploy import archive
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.runtime import Program
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.study.file_bytes import dense_record, metadata
from autocompress.study.footprint import Footprint, Room
from autocompress.study.prepare import Prepared
from autocompress.study.storage import Record
from autocompress.study.targets import Measured


@dataclass(frozen=True)
class Finalist:
    """A candidate ready to ship.

    Args:
        candidate: The choice.
        treated: What is stored for every unit, dense ones included.
        module: The torch model that computes it.
        proto: The ONNX file's content.
        operators: Layer to the operators that the runtime really runs.
        size_bytes: Exact size of the file that ships.
        loss: Proxy loss of the final fit, on the search inputs.
        options: Layer to the id of what is stored for it.
        narrow: Makes the torch model in its real width, without the zeros.
        recovered: File in the run's folder `recovered`, if it was trained; else empty.
    """

    candidate: Candidate
    treated: Mapping[str, Treated]
    module: nn.Module
    proto: onnx.ModelProto
    operators: Mapping[str, str]
    size_bytes: int
    loss: float
    options: Mapping[str, str]
    narrow: Callable[[], nn.Module]
    recovered: str = ""

    @property
    def program(self) -> Program:
        """In the forms that runtimes take."""
        return Program(self.proto, self.narrow)


@dataclass(frozen=True)
class Probe:
    """A candidate of which both loss and quality are known: what the proxy is audited on."""

    candidate: str
    loss: float
    quality: float


@dataclass(frozen=True)
class Verdict:
    """What was measured on a finalist.

    Args:
        finalist: The candidate.
        record: Its trial; holds the predictions.
        measured: Quality on the selection split, bytes, milliseconds.
        latency_low: Lower end of the 90 % interval of its latency over the original's.
        latency_high: Upper end.
        met: Whether every limit is kept but for the soft ones.
        same_work: Whether it runs the same operations on the same shapes as the original, so that
            the clock can only tell noise between them.
        reason: Why it was not chosen; empty for the winner.
        footprint: Energy and memory, estimated.
        rooms: What it takes of the device's memories.
        no_gain: Whether a hard limit asks for less than the original's latency, and it is not
            faster outside the noise: then it does not keep the limit, whatever one timing says.
        trained: Whether the candidate was trained after the search.
    """

    finalist: Finalist
    record: Record
    measured: Measured
    latency_low: float
    latency_high: float
    met: bool
    same_work: bool = False
    reason: str = ""
    footprint: Footprint | None = None
    rooms: tuple[Room, ...] = ()
    no_gain: bool = False
    trained: bool = False

    @property
    def missed_latency(self) -> dict[str, float]:
        """How far a latency limit is missed by noise alone, as a share of the original; empty if
        there is a gain."""
        return {"latency": max(0.0, self.latency_high - 1)} if self.no_gain else {}

    @property
    def probe(self) -> Probe:
        """Loss and quality after the final fit."""
        return Probe(self.record.id, self.finalist.loss, self.measured.quality)

    def because(self, reason: str) -> Verdict:
        """The same with a reason."""
        return replace(self, reason=reason)


def make_finalist(prepared: Prepared, candidate: Candidate) -> Finalist:
    """Fits a candidate in sequence on all calibration inputs and builds what would ship.

    The search inputs have done their part once the candidate is chosen, so they serve here as
    well.  The fit helps as a rule, not always: where the proxy finds the bank's entries better,
    those are taken.

    Raises:
        DeviceError: If the runtime does not run a layer as it was priced.
    """
    model, bank = prepared.model, prepared.bank
    choices = dict(candidate.choices)
    # Output channels that nothing reads are cut when all is fitted.
    computed = {name: option.computed for name, option in choices.items()}
    banked = {
        name: bank[name, option].treated
        for name, option in computed.items()
        if not option.is_identity
    }
    damping = model.knobs.damping
    fitted = resolve(
        model.dense, model.layers, banked, computed, model.calibration, damping=damping
    )
    losses = [prepared.proxy(stitched(model.dense, kept)).value for kept in (fitted, banked)]
    best = fitted if losses[0] <= losses[1] else banked
    whole = {
        name: bank.channels.cut(
            model.layer(name), option, best.get(name) or dense_record(model, name)
        )
        for name, option in choices.items()
    }
    return build_finalist(prepared, candidate, whole, min(losses))


def build_finalist(
    prepared: Prepared,
    candidate: Candidate,
    whole: Mapping[str, Treated],
    loss: float,
    options: Mapping[str, str] | None = None,
    recovered: str = "",
) -> Finalist:
    """A candidate whose layers are given, in the forms that ship.

    Args:
        prepared: The run.
        candidate: The choice.
        whole: What is stored for every unit, dense ones included.
        loss: Proxy loss on the search inputs.
        options: Layer to the id of what is stored, where that is not what was chosen.
        recovered: The file that keeps it, if it was trained.

    Raises:
        DeviceError: If the runtime does not run a layer as it was priced.
    """
    treated = {name: whole[name] for name, option in candidate.choices if not option.is_identity}
    options = options or candidate.as_dict()
    format = prepared.study.settings.format
    proto = assemble(prepared.model.graph, treated, format, prepared.study.device.threads)
    dense = prepared.model.dense
    return Finalist(
        candidate=candidate,
        treated=whole,
        module=stitched(dense, treated),
        proto=proto,
        operators=_operators(prepared, proto, treated),
        size_bytes=file_bytes(prepared, candidate, whole, proto, options),
        loss=loss,
        options=options,
        narrow=partial(narrowed, dense, treated, counts_of(prepared.bank.channels.groups)),
        recovered=recovered,
    )


def _operators(
    prepared: Prepared, proto: onnx.ModelProto, treated: Mapping[str, Treated]
) -> dict[str, str]:
    """What the device runs; not known where it is not here."""
    device = prepared.study.device
    return {} if device.sheet is not None else device.engine.check(proto, treated)


def original_of(prepared: Prepared) -> Finalist:
    """The original as a finalist: its float32 ONNX file, its weights as plain safetensors."""
    model = prepared.model
    proto = assemble(model.graph, {}, "archive", prepared.study.device.threads)
    shipped = prepared.study.settings.format
    return Finalist(
        candidate=Candidate(tuple((unit, Option()) for unit in prepared.space.units)),
        treated={},
        module=model.dense,
        proto=proto,
        operators={},
        size_bytes=proto.ByteSize() if shipped == "onnx" else model.size_bytes,
        loss=0.0,
        options={},
        narrow=lambda: model.dense,
    )


def file_bytes(
    prepared: Prepared,
    candidate: Candidate,
    treated: Mapping[str, Treated],
    proto: onnx.ModelProto,
    options: Mapping[str, str],
) -> int:
    """Size of the file that ships."""
    if prepared.study.settings.format == "onnx":
        return int(proto.ByteSize())
    return archive.archive_bytes(
        treated,
        options,
        prepared.model.rest(treated),
        metadata(prepared.study, prepared.model, candidate.id),
    )
