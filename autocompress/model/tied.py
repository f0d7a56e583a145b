"""An embedding that reads the weight of another layer, as language models tie it to their head."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from autocompress.model.swap import swap


class TiedEmbedding(nn.Module):
    """An embedding without a weight of its own: whatever stands in its owner's place gives it.

    Args:
        dense: The original, whose weight is that of its owner.
        home: The module that holds the owner.
        child: The owner's name there.
    """

    def __init__(self, dense: nn.Embedding, home: nn.Module, child: str) -> None:
        super().__init__()
        self.padding_idx = dense.padding_idx
        # In a list, or the owner's weights would become this module's as well.
        self._home = [home]
        self._child = child

    @property
    def owner(self) -> nn.Module:
        """The layer that is there now."""
        owner = self._home[0]._modules[self._child]
        assert owner is not None
        return owner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.bound(self.owner)(tokens)

    def bound(self, owner: nn.Module) -> Callable[[Tensor], Tensor]:
        """What this computes with another layer in its owner's place."""

        def read(tokens: Tensor) -> Tensor:
            # Gradients with regard to the padding are of no use here: it is not passed on.
            return nn.functional.embedding(tokens, built_matrix(owner))

        return read


def built_matrix(module: nn.Module) -> Tensor:
    """The weight `(out, in)` of a `Linear`, or of what is built in its place."""
    own = getattr(module, "matrix", None)
    if callable(own):  # such as a layer that is being trained
        matrix: Tensor = own()
        return matrix
    first, *others = (step.weight for step in module.modules() if isinstance(step, nn.Linear))
    product: Tensor = first
    for other in others:
        product = other @ product
    return product


def tie(model: nn.Module) -> int:
    """Makes every embedding that shares its weight with a `Linear` a `TiedEmbedding`, in place.

    Returns:
        How many there were.
    """
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        if type(module) is nn.Linear and name:
            owners.setdefault(id(module.weight), name)
    count = 0
    for name, module in list(model.named_modules()):
        plain = type(module) is nn.Embedding and module.max_norm is None
        owner = owners.get(id(module.weight)) if plain else None
        if owner is None or not name:
            continue
        home, _, child = owner.rpartition(".")
        assert isinstance(module, nn.Embedding)
        swap(model, name, TiedEmbedding(module, model.get_submodule(home), child))
        count += 1
    return count


def ties_of(model: nn.Module) -> dict[str, str]:
    """Name of every tied embedding to that of its owner."""
    names = {id(module): name for name, module in model.named_modules()}
    return {
        name: names[id(module.owner)]
        for name, module in model.named_modules()
        if isinstance(module, TiedEmbedding)
    }
