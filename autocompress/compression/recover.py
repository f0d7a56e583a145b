"""Recovery: the weights of a chosen candidate are trained, taught by the original, and stay what
can be stored.

Masks, bits and grids of a candidate are kept (straight-through quantisation-aware distillation),
or, under a limit on bytes, the coded length is part of the loss: its weight is turned up or down
until the file is as small as was asked for (`Squeeze`).  What comes back is never worse than what
came in.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autocompress.compression.distil import (
    Block,
    Lesson,
    Watch,
    distance,
    feature_distance,
    reach,
    soft_targets,
)
from autocompress.compression.squeeze import Pressure, Squeeze
from autocompress.compression.trainable import trainable
from autocompress.compression.training_batches import Batches
from autocompress.compression.training_state import load_state, save_state
from autocompress.compression.treated import Treated
from autocompress.errors import TaskError
from autocompress.model.task import Inputs

WARM_UP = 0.02  # share of the steps in which the learning rate rises
FLOOR = 0.01  # share of the learning rate that is left at the end
TIMED = 10  # steps after which the time of one is known
RESERVE = 0.9  # share of the time limit that is planned with
LOOKS = 20  # times that the held-out score is taken, at most
SAVED = 30.0  # seconds between checkpoints

Score = Callable[[Mapping[str, Treated]], float]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        lesson: What the original teaches.
        epochs: Passes over the training inputs.
        learning_rate: Of Adam, at its highest.
        max_seconds: Time limit; None for none.  The learning rate falls to its end within it.
        free: Whether zeros may move and codes are free: with a squeeze to far fewer bytes.
        threads: Inside one operator; 0 takes torch's setting.
    """

    lesson: Lesson = Lesson()
    epochs: int = 10
    learning_rate: float = 1e-3
    max_seconds: float | None = None
    free: bool = False
    threads: int = 0


@dataclass(frozen=True)
class Recovered:
    """What training came to.

    Args:
        treated: The best layers that were seen; what came in where nothing was better.
        before: Score of what came in.
        after: Score of `treated`.
        steps: Batches that were trained on.
        seconds: Time that it took, earlier runs included.
        improved: Whether `treated` is not what came in.
    """

    treated: Mapping[str, Treated]
    before: float
    after: float
    steps: int
    seconds: float
    improved: bool


def recover(
    model: nn.Module,
    treated: Mapping[str, Treated],
    batches: Batches,
    recipe: Recipe,
    score: Score,
    squeeze: Squeeze | None = None,
    watched: tuple[str, ...] = (),
    blocks: tuple[Block, ...] = (),
    checkpoint: Path | None = None,
    key: str = "",
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Recovered:
    """Trains the treated layers of a candidate.

    Args:
        model: The original, which teaches; not changed.
        treated: The candidate's layers by name; all others stay as they are in the original.
        batches: Training inputs.
        recipe: How to train.
        score: Judges layers on inputs that are not trained on; lower is better.
        squeeze: A limit on bytes, which the coded length is pressed to keep; None for none.
        watched: Layers whose feature maps are compared, where the lesson asks for it.
        blocks: Reconstructed one after another, in place of all at once; empty for the latter.
        checkpoint: File that is written every now and then, from which a killed training goes on.
        key: What the checkpoint must have been made from.
        progress: Hears of steps done, steps in total, and how it goes.

    Raises:
        TaskError: If the batches do not fit the model.
        StorageError: If the checkpoint cannot be written.
    """
    training = _Training(model, treated, recipe, squeeze, watched, blocks, batches.count)
    before = score(treated)
    if squeeze is None or squeeze.size(treated) <= squeeze.limit:
        training.best, training.least = dict(treated), before
    if checkpoint is not None:
        training.restore(checkpoint, key)
    started = saved = time.perf_counter()
    earlier = training.seconds
    with _threads(recipe.threads):
        for inputs in batches:
            if training.done >= training.total:
                break
            training.step(inputs)
            now = time.perf_counter()
            training.seconds = earlier + now - started
            training.plan()
            if training.is_time_to_look:
                training.look(score)
                progress(training.done, training.total, training.text)
            if checkpoint is not None and now - saved > SAVED:
                saved = now
                training.save(checkpoint, key)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    improved = training.values is not None
    best = training.best if training.best is not None else dict(treated)
    after = training.least if training.best is not None else before
    return Recovered(best, before, after, training.done, training.seconds, improved)


class _Training:
    """The state of one training."""

    def __init__(
        self,
        model: nn.Module,
        treated: Mapping[str, Treated],
        recipe: Recipe,
        squeeze: Squeeze | None,
        watched: tuple[str, ...],
        blocks: tuple[Block, ...],
        epoch: int,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # A copy on the accelerator: the user's model stays where it is.
        away = self.device.type != "cpu"
        self.teacher = copy.deepcopy(model).to(self.device) if away else model
        student, self.layers = trainable(model, treated, free=recipe.free)
        self.student = student.to(self.device)
        self.recipe, self.squeeze = recipe, squeeze
        self.watched = watched if recipe.lesson.looks_inside else ()
        self.blocks = blocks
        self.total = recipe.epochs * epoch
        self.done, self.seconds = 0, 0.0
        self.best: dict[str, Treated] | None = None
        self.least, self.text = math.inf, ""
        self.values: list[Tensor] | None = None  # of the parameters where they were best
        self.parameters = [p for layer in self.layers.values() for p in layer.parameters()]
        self.optimiser = torch.optim.Adam(self.parameters, lr=recipe.learning_rate)
        self.pressure = Pressure(self.layers, squeeze) if squeeze else None

    @property
    def is_time_to_look(self) -> bool:
        every = max(1, -(-self.total // LOOKS))
        return self.done % every == 0 or self.done == self.total

    def step(self, inputs: Inputs) -> None:
        """One batch."""
        inputs = tuple(tensor.to(self.device) for tensor in inputs)
        rate = self._rate()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * rate
        loss = self._block_distance(inputs) if self.blocks else self._distance(inputs)
        if self.pressure is not None:
            loss = loss + self.pressure(self.done / self.total, rate)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.done += 1

    def _distance(self, inputs: Inputs) -> Tensor:
        """Of the whole student from its teacher."""
        with Watch(self.teacher, self.watched) as taught, torch.no_grad():
            wanted = _outputs(self.teacher, inputs)
        with Watch(self.student, self.watched) as learnt:
            found = _outputs(self.student, inputs)
        return distance(self.recipe.lesson, found, wanted, learnt.maps, taught.maps)

    def _block_distance(self, inputs: Inputs) -> Tensor:
        """Of the output of the block whose turn it is, which alone is trained."""
        block = self.blocks[int(self._turn)]
        for name, layer in self.layers.items():
            layer.requires_grad_(name in block.members)
        with torch.no_grad():
            wanted = _outputs(self.teacher, inputs, block.end)
        found = _outputs(self.student, inputs, block.end)
        if block.end:
            return feature_distance(found, wanted)
        return soft_targets(found, wanted, self.recipe.lesson.temperature)

    @property
    def _turn(self) -> float:
        """Blocks that are done, the one that is worked on in part."""
        return min(len(self.blocks) * self.done / self.total, len(self.blocks) - 1e-9)

    def plan(self) -> None:
        """Cuts the number of steps to what the time limit leaves room for."""
        if self.recipe.max_seconds is None or self.done < TIMED:
            return
        if self.done == TIMED or self.seconds > self.recipe.max_seconds:
            room = RESERVE * self.recipe.max_seconds / (self.seconds / self.done)
            self.total = max(self.done, min(self.total, int(room)))

    def look(self, score: Score) -> None:
        """Scores the layers as they stand and keeps them if they are the best within the limit."""
        treated = self.treated()
        found = score(treated)
        self.text = f"score {found:.5f}"
        if self.squeeze is not None:
            size = self.squeeze.size(treated)
            assert self.pressure is not None
            self.pressure.learn(size)
            self.text += f" at {size} bytes"
            if size > self.squeeze.limit:
                self.text += f", {self.squeeze.limit} are allowed"
                return
        if found < self.least:
            self.best, self.least = treated, found
            self.values = [parameter.detach().clone() for parameter in self.parameters]

    def save(self, path: Path, key: str) -> None:
        facts = {
            "key": key,
            "done": self.done,
            "total": self.total,
            "seconds": self.seconds,
            "least": self.least,
            "pressure": self.pressure.weight if self.pressure else 0.0,
        }
        save_state(path, self.parameters, self.optimiser, self.values, facts)

    def restore(self, path: Path, key: str) -> None:
        """Goes on from a checkpoint, if there is one of the same training."""
        found = load_state(path, key, self.parameters, self.optimiser)
        if found is None:
            return
        facts, values = found
        self.done, self.total = facts["done"], facts["total"]
        self.seconds = facts["seconds"]
        if self.pressure is not None:
            self.pressure.weight = facts["pressure"]
        if values is not None:
            now = [parameter.detach().clone() for parameter in self.parameters]
            self._set(values)
            self.best, self.least, self.values = self.treated(), facts["least"], values
            self._set(now)

    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data.copy_(value)

    def treated(self) -> dict[str, Treated]:
        """The layers as they stand."""
        return {name: layer.treated() for name, layer in self.layers.items()}

    def _rate(self) -> float:
        """Share of the learning rate: a rise, a plateau while the size falls, half a cosine."""
        progress = self._turn % 1 if self.blocks else self.done / self.total
        flat = self.squeeze.shrinking if self.squeeze and self.recipe.free else WARM_UP
        if progress < WARM_UP:
            return (progress + 1 / self.total) / (WARM_UP + 1 / self.total)
        if progress < flat:
            return 1.0
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (progress - flat) / (1 - flat)))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Another number of threads inside an operator, for a while; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _outputs(model: nn.Module, inputs: Inputs, end: str = "") -> Tensor:
    try:
        outputs = reach(model, end, inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise TaskError(
            f"training(): the model does not take a batch of shape {shapes}: {error}"
        ) from error
    return outputs
