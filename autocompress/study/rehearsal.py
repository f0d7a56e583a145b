"""A rehearsal: bank, prices and a short search of a study, judged on data that no knob has seen.

What is compared is the loss on the inputs of the selection split: neither the options are fitted
to them nor the search is led by them, and they tell small differences apart that the user's metric
does not.  The test split is not touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.errors import ConfigError, TaskError
from autocompress.model.task import Inputs, Task
from autocompress.objective.quality import Proxy
from autocompress.search_space.candidate import Candidate
from autocompress.study.choose import choose
from autocompress.study.config import Study
from autocompress.study.events import Listener, Log
from autocompress.study.finalist import make_finalist
from autocompress.study.knobs import Knobs
from autocompress.study.prepare import prepare
from autocompress.study.searching import search_all
from autocompress.study.status import JOURNAL
from autocompress.study.storage import StudyStorage
from autocompress.study.subject import Model, look, made_from, menus_of

FINALISTS = 3  # candidates whose losses are averaged: one alone is a matter of luck
LEAST_LOSS = 1e-9


@dataclass(frozen=True)
class Rehearsal:
    """What a short run came to.

    Args:
        loss: Geometric mean loss of the best candidates, as they would ship, on the inputs of the
            selection split.
        excess: How far the best one misses the limits, as a share of them; at most zero is
            feasible.
        seconds: Stage to seconds: `bank`, `price`, `search`.
    """

    loss: float
    excess: float
    seconds: dict[str, float]


class Recorder(nn.Module):
    """Keeps the inputs that a model is called with.

    Args:
        model: Gives the outputs.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[Inputs] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.calls.append(tuple(tensor.detach().clone() for tensor in inputs))
        outputs: Tensor = self.model(*inputs)
        return outputs


def rehearse(
    study: Study, knobs: Knobs, draw: int, evaluations: int, folder: Path, listener: Listener
) -> Rehearsal:
    """Runs a study up to its finalists.

    Args:
        study: What is asked.
        knobs: Take the place of the study's.
        draw: 0 takes the calibration inputs in the user's order; others shuffle them, so that
            other ones are fitted to and searched on, and are added to the seed.
        evaluations: Candidates of the search.
        folder: Holds `device.json`, the bank and the prices, and is written to.
        listener: Hears of the stages.

    Raises:
        ConfigError: If the study does not make the loss small under limits.
        AutocompressError: If a stage fails.
    """
    if study.objective.minimise != "quality" or not {"size", "latency"} & set(study.budget):
        raise ConfigError(
            f"{study.name}: knobs are compared by the loss at a budget; the study needs an"
            " objective that minimises quality's loss, and a limit on size or latency"
        )
    seed = study.settings.seed + draw
    changes = {"knobs": knobs, "seed": seed, "evaluations": evaluations, "max_time": ""}
    study = replace(study, settings=study.settings.model_copy(update=changes))
    folder.mkdir(parents=True, exist_ok=True)
    # Priced and searched anew, so that the seconds of two rehearsals can be compared.
    for name in ("prices.json", JOURNAL):
        (folder / name).unlink(missing_ok=True)
    log = Log(folder / "log.jsonl", listener)
    model, space = look(study, log)
    model = _redrawn(study, model, draw)
    prepared = prepare(study, model, space, folder, log)
    storage = StudyStorage(
        folder / JOURNAL, menus_of(prepared.space), made_from(study, model, space)
    )
    log.stage("search", f"{evaluations} candidates")
    _, problem = search_all(prepared, storage, log)
    log.finish()
    records = choose(prepared, problem, storage.records())[:FINALISTS]
    candidates = [Candidate.from_dict(record.choices) for record in records]
    judge = Proxy(
        model.dense, selection_inputs(study.task, model.dense), prepared.proxy.divergence
    )
    losses = [judge(make_finalist(prepared, candidate).module).value for candidate in candidates]
    return Rehearsal(
        loss=float(np.exp(np.mean(np.log(np.array(losses) + LEAST_LOSS)))),
        excess=problem.violation(prepared.space.indices(candidates[0])),
        seconds={name: log.seconds.get(name, 0.0) for name in ("bank", "price", "search")},
    )


def _redrawn(study: Study, model: Model, draw: int) -> Model:
    """The model with its calibration inputs in another order."""
    if not draw:
        return model
    inputs = study.task.calibration()
    order = np.random.default_rng([study.settings.seed, 4]).permutation(len(inputs[0]))
    used = order[: study.settings.knobs.calibration or None]
    labels = None if model.labels is None else study.task.labels(len(inputs[0]))
    return replace(
        model,
        calibration=tuple(tensor[used] for tensor in inputs),
        labels=labels if labels is None else labels[used],
        draw=draw,
    )


def selection_inputs(task: Task, model: nn.Module) -> Inputs:
    """What `evaluate` gives a model for the selection split.

    Raises:
        TaskError: If it does not call the model, or with batches of several shapes.
    """
    recorder = Recorder(model)
    task.evaluate(recorder, "selection")
    if not recorder.calls:
        raise TaskError(f"{task.origin}: evaluate() does not call the model")
    try:
        return tuple(torch.cat(parts) for parts in zip(*recorder.calls, strict=True))
    except (RuntimeError, ValueError) as error:
        raise TaskError(
            f"{task.origin}: evaluate() gives the model batches that cannot be joined ({error});"
            " knobs are compared on inputs of one shape"
        ) from error
