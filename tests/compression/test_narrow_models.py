"""Models with fewer channels compute what the masked ones do, and are fitted in sequence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from channel_parts import Parts, banked, kept_pieces, options_at, parts

from autocompress.compression.bank import Bank
from autocompress.compression.narrow import weight_columns
from autocompress.compression.narrowed import narrowed
from autocompress.compression.resolve import resolve
from autocompress.compression.stitch import Stitcher, stitched
from autocompress.compression.treated import Treated
from autocompress.model.shrink import shrink
from autocompress.objective.quality import Proxy
from autocompress.search_space.option import Option


def shipped(made: Parts, bank: Bank, choices: dict[str, Option]) -> dict[str, Treated]:
    return {
        name: bank.stored(made.layers[name], made.model.get_submodule(name), option)
        for name, option in choices.items()
        if not option.is_identity
    }


def halves(made: Parts) -> dict[str, int]:
    return {width.name: width.levels // 2 for width in made.widths}


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_masked_model_is_the_smaller_model(level: int, tmp_path: Path) -> None:
    """Float entries in full width, with zeros for what is gone, against modules with less."""
    made = parts()
    levels = {width.name: min(level, width.levels - 1) for width in made.widths}
    choices = options_at(made, levels)
    bank = banked(made, tmp_path, choices)
    stored = shipped(made, bank, choices)
    small = shrink(made.model, kept_pieces(made, levels))
    for name, treated in stored.items():
        module = small.get_submodule(name)
        assert treated.weights[0].codes.numel() == module.weight.numel()
        module.weight.copy_(treated.weights[0].dense().reshape(module.weight.shape))
        if treated.bias is not None:
            assert module.bias.shape == treated.bias.shape
            module.bias.copy_(treated.bias)
    masked = stitched(made.model, stored)
    torch.testing.assert_close(masked(made.fresh), small(made.fresh), rtol=1e-4, atol=1e-5)
    own = narrowed(made.model, stored)
    torch.testing.assert_close(own(made.fresh), small(made.fresh), rtol=1e-4, atol=1e-5)
    shapes = [[p.numel() for p in model.parameters()] for model in (own, small)]
    assert shapes[0] == shapes[1]
    # Outputs that nothing reads may stay: the search measures candidates with all of them.
    stitcher = Stitcher(made.model, lambda name, option: bank[name, option].treated)
    torch.testing.assert_close(
        stitcher.stitch(choices)(made.fresh), masked(made.fresh), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(masked(made.fresh), made.model(made.fresh), atol=1e-3)


@pytest.mark.parametrize(
    "base",
    [Option(8), Option(3, 0.5), Option(8, 0.0, 0.5), Option(8, activations="int8")],
    ids=lambda option: option.id,
)
def test_outputs_that_nothing_reads_change_nothing(base: Option, tmp_path: Path) -> None:
    made = parts()
    choices = options_at(made, halves(made), base)
    bank = banked(made, tmp_path, choices)
    stitcher = Stitcher(made.model, lambda name, option: bank[name, option].treated)
    cut = stitched(made.model, shipped(made, bank, choices))(made.fresh)
    # Sums over more zeros are rounded in another order, and may fall on another step of a grid.
    difference = (stitcher.stitch(choices)(made.fresh) - cut).abs()
    assert float((difference > 1e-4).float().mean()) < 0.02
    assert float(difference.max()) < 0.1 * float(cut.abs().max())


@pytest.mark.parametrize(
    "base",
    [Option(), Option(4, 0.3), Option(8, 0.0, 0.5), Option(8, activations="int8")],
    ids=lambda option: option.id,
)
def test_fitting_in_sequence_lowers_the_loss_of_narrow_models(
    base: Option, tmp_path: Path
) -> None:
    plain = sequential = torch.zeros(2)
    for seed in range(2):
        made = parts(seed)
        choices = options_at(made, halves(made), base)
        computed = {name: option.computed for name, option in choices.items()}
        bank = banked(made, tmp_path / str(seed), choices)
        entries = {
            name: bank[name, option].treated
            for name, option in computed.items()
            if not option.is_identity
        }
        fitted = resolve(
            made.model, tuple(made.layers.values()), entries, computed, (made.inputs,)
        )
        assert fitted.keys() == entries.keys()
        for name, treated in fitted.items():
            before, after = entries[name].narrow, treated.narrow
            assert (before is None) == (after is None)
            assert treated.shape == entries[name].shape
            assert treated.matrix().isfinite().all()
            if before is not None:
                assert torch.equal(before.inputs, after.inputs)
                module = made.model.get_submodule(name)
                mask = torch.ones(module.weight[0].numel(), dtype=torch.bool)
                mask[weight_columns(module, before.inputs)] = False
                assert not treated.matrix()[:, mask].any()
        proxies = [Proxy(made.model, (x,)) for x in (made.inputs, made.fresh)]
        for losses, stored in ((0, entries), (1, fitted)):
            found = torch.tensor([proxy(stitched(made.model, stored)).value for proxy in proxies])
            assert found.isfinite().all()
            if losses:
                sequential = sequential + found
            else:
                plain = plain + found
    assert bool((sequential < plain).all())
