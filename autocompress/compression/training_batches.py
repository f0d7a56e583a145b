"""Training inputs as recovery takes them: batches without an end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from autocompress.errors import TaskError
from autocompress.model.task import Inputs, as_inputs


class Batches:
    """The training inputs in batches, which can be gone through again and again.

    Args:
        source: Has a length; gives batches, each a tensor or a tuple of tensors.
        origin: Where it came from, for messages.
    """

    def __init__(self, source: Iterable[Any], origin: str) -> None:
        self._source, self._origin = source, origin
        try:
            self.count = len(source)  # type: ignore[arg-type]
        except TypeError:
            self.count = 0
        if not self.count:
            raise TaskError(
                f"{origin}: training() must give batches that have a length and can be gone"
                " through again, such as a DataLoader or a list; got"
                f" {type(source).__name__}"
            )

    def __iter__(self) -> Iterator[Inputs]:
        """Batches without an end, epoch after epoch.

        Raises:
            TaskError: If an epoch gives nothing: a generator that is used up.
        """
        while True:
            empty = True
            for batch in self._source:
                empty = False
                yield as_inputs(batch, f"{self._origin}: training()")
            if empty:
                raise TaskError(f"{self._origin}: training() gave no batches")


class Shuffled:
    """Calibration inputs as training batches: in another order each time.

    Args:
        inputs: `(n, ...)` for each input of the model.
        batch: Examples in a batch.
        seed: Of the orders.
    """

    def __init__(self, inputs: Inputs, batch: int = 64, seed: int = 0) -> None:
        self._inputs, self._batch = inputs, batch
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._inputs[0]) // self._batch)

    def __iter__(self) -> Iterator[Inputs]:
        order = torch.randperm(len(self._inputs[0]), generator=self._generator)
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            yield tuple(tensor[part] for tensor in self._inputs)
