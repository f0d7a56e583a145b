"""Where finalists are measured: the user's metric on the selection split, bytes, and the clock
beside the original."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from torch import nn

from autocompress.deploy.onnx_file import OnnxModule
from autocompress.hardware.clock import feeds, time_when_calm
from autocompress.hardware.runtimes.onnx_graph import same_work
from autocompress.hardware.timing import Timing, ratio
from autocompress.search_space.candidate import Candidate
from autocompress.study.config import parse_duration
from autocompress.study.events import Listener
from autocompress.study.finalist import Finalist, Verdict, make_finalist, original_of
from autocompress.study.prepare import Prepared
from autocompress.study.storage import Record
from autocompress.study.targets import Measured, Target, keeps_hard, targets_of

ORIGINAL = "original"


class Bench:
    """Measures finalists in batches, each batch interleaved with the original.

    Args:
        prepared: The run.
        patience_seconds: Longest wait of a batch for a machine as calm as when it was profiled;
            by default that of the study.

    Attributes:
        latency_ms: Of the original, beside the first batch; what later batches measure is put on
            the same scale by their ratio to the original.
    """

    def __init__(self, prepared: Prepared, patience_seconds: float | None = None) -> None:
        self.prepared = prepared
        self.latency_ms = 0.0
        if patience_seconds is None:
            patience_seconds = parse_duration(prepared.study.settings.clock_patience)
        self._patience = patience_seconds
        self._generator = np.random.default_rng([prepared.study.settings.seed, 2])

    @cached_property
    def _original(self) -> Finalist:
        return original_of(self.prepared)

    @cached_property
    def quality(self) -> float:
        """Of the original."""
        return self.prepared.study.task.evaluate(self.prepared.model.dense, "selection")

    @cached_property
    def _original_energy_mj(self) -> float | None:
        return self.prepared.footprints.of({}).energy_mj

    @property
    def base(self) -> Measured:
        """The original, once a batch was measured."""
        return Measured(
            self.quality, self._original.size_bytes, self.latency_ms, self._original_energy_mj
        )

    @property
    def targets(self) -> tuple[Target, ...]:
        """The budget in numbers, against the original."""
        study = self.prepared.study
        return targets_of(
            study.budget, self.base, study.higher_is_better, study.settings.metric_unit
        )

    @property
    def _must_be_faster(self) -> bool:
        """Whether a hard limit asks for less than the original's latency."""
        return any(
            target.name == "latency" and not target.soft and target.bound < self.base.latency_ms
            for target in self.targets
        )

    def measure(self, records: Sequence[Record], listener: Listener) -> list[Verdict]:
        """Fits the candidates of some records in sequence and measures them, in their order.

        Raises:
            TaskError: If `evaluate` fails.
            DeviceError: If the runtime does not run a layer as it was priced.
        """
        finalists = []
        for index, record in enumerate(records):
            listener.progress(index, len(records) + 1, f"fitting {record.id}")
            candidate = Candidate.from_dict(record.choices)
            finalists.append(make_finalist(self.prepared, candidate))
        return self.judge(finalists, records, listener)

    def judge(
        self, finalists: Sequence[Finalist], records: Sequence[Record], listener: Listener
    ) -> list[Verdict]:
        """Measures finalists that are fitted, each with its record, in their order.

        Raises:
            TaskError: If `evaluate` fails.
        """
        listener.progress(len(records), len(records) + 1, "timing beside the original")
        timings = self._timings(finalists)
        reference = timings[ORIGINAL]
        self.latency_ms = self.latency_ms or reference.p20_ms
        verdicts = []
        for finalist, record in zip(finalists, records, strict=True):
            timing = timings[finalist.candidate.id]
            interval = ratio(timing, reference, self._generator)
            footprint = self.prepared.footprints.of(dict(finalist.candidate.choices))
            same = same_work(finalist.proto, self._original.proto)
            # Between two sessions of the same operations the clock tells noise alone.
            slower = 1.0 if same else timing.p20_ms / reference.p20_ms
            measured = Measured(
                self.prepared.study.task.evaluate(self._as_run(finalist), "selection"),
                finalist.size_bytes,
                slower * self.latency_ms,
                footprint.energy_mj,
            )
            rooms = self.prepared.footprints.rooms(footprint, finalist.size_bytes)
            no_gain = self._must_be_faster and (same or interval.high >= 1)
            met = keeps_hard(self.targets, measured) and all(room.fits for room in rooms)
            verdicts.append(
                Verdict(
                    finalist,
                    record,
                    measured,
                    interval.low,
                    interval.high,
                    met and not no_gain,
                    same,
                    footprint=footprint,
                    rooms=rooms,
                    no_gain=no_gain,
                )
            )
        return verdicts

    def _as_run(self, finalist: Finalist) -> nn.Module:
        """What gives the outputs that the device gives: the torch module, but where float layers
        run in fewer bits."""
        device = self.prepared.study.device
        if device.file_engine.is_exact:
            return finalist.module
        return OnnxModule(finalist.proto, runtime=device.file_engine)

    def _timings(self, finalists: Sequence[Finalist]) -> dict[str, Timing]:
        """Of the finalists and the original: by the clock, or the prices where there is none."""
        prepared = self.prepared
        if prepared.study.device.sheet is not None:
            latencies = {
                item.candidate.id: prepared.latency.predict(dict(item.candidate.choices))
                for item in finalists
            }
            latencies[ORIGINAL] = prepared.latency.predict({})
            return {name: Timing(value, 0.0, 1, (value,)) for name, value in latencies.items()}
        programs = {item.candidate.id: item.program for item in finalists}
        return time_when_calm(
            {ORIGINAL: self._original.program, **programs},
            feeds(prepared.model.graph, prepared.model.example_inputs),
            ORIGINAL,
            prepared.latency.predict({}),
            self._patience,
            runtime=prepared.study.device.engine,
        )

    def stitched_quality(self, record: Record) -> float:
        """The metric of a candidate as it stands in the bank: neither fitted nor timed."""
        choices = dict(Candidate.from_dict(record.choices).choices)
        model = self.prepared.stitcher.stitch(choices)
        return self.prepared.study.task.evaluate(model, "selection")
