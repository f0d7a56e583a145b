"""Groups of a convolution share a second moment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from channel_parts import parts
from torch import Tensor, nn

from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import collect
from autocompress.compression.resolve import resolve
from autocompress.compression.treated import build_module
from autocompress.model.matrix import rows_of
from autocompress.model.trace import trace
from autocompress.search_space.option import Option


def test_the_fit_of_grouped_layers_restores_the_mean_of_each_channel() -> None:
    made = parts()
    layer, module = made.layers["depthwise"], made.model.depthwise
    option = Option(2)
    ((_, entry, _),) = compress_layer(layer, module, made.statistics["depthwise"], [option])
    choices = {"depthwise": option}
    fitted = resolve(
        made.model, tuple(made.layers.values()), {"depthwise": entry}, choices, (made.inputs,)
    )["depthwise"]
    assert torch.equal(fitted.matrix(), entry.matrix())
    y = nn.functional.relu6(made.model.up(made.model.stem(made.inputs).relu()))
    wanted = module(y).mean((0, 2, 3))
    errors = [
        (build_module(module, treated)(y).mean((0, 2, 3)) - wanted).abs().max()
        for treated in (entry, fitted)
    ]
    assert float(errors[1]) < 2e-3 < float(errors[0])


def depthwise_inputs(proportional: bool) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A depthwise convolution whose channels see the same image, each at its own scale."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.1, 1.0, 4.0, 0.5, 2.0, 8.0])
    images = torch.randn(40, 1 if proportional else 6, 9, 9, generator=generator)
    images = nn.functional.avg_pool2d(images, 3, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6, bias=False)).eval()
    return net.requires_grad_(False), images * scales[:, None, None], scales


def own_errors(net: nn.Sequential, x: Tensor, matrix: Tensor) -> Tensor:
    """What a changed weight costs each output channel: the mean square on its own inputs."""
    module = net[0]
    rows = rows_of(module, x).double().reshape(-1, 6, 9)
    change = matrix.double() - module.weight.flatten(1).double()
    return torch.einsum("ngi,gi->ng", rows, change).square().mean(0)


def test_proportional_groups_share_a_moment_without_loss() -> None:
    net, x, scales = depthwise_inputs(proportional=True)
    layers = trace(net, (x[:1],))
    found = collect(net, layers, (x,), batch=16)["0"]
    rows = rows_of(net[0], x).double().reshape(-1, 6, 9)
    for group in range(6):
        own = rows[:, group].T @ rows[:, group] / len(rows)
        torch.testing.assert_close(
            found.row_weights[group] * found.second_moment, own, rtol=1e-4, atol=1e-7
        )
    ratios = found.row_weights / found.row_weights[1]
    torch.testing.assert_close(ratios, scales.double().square(), rtol=1e-4, atol=0)
    assert float(found.second_moment.diagonal().mean()) == pytest.approx(1)
    # So the error that is reported is the real one, each channel by its own inputs.
    undamped = replace(found, damping=1e-12)
    options = [Option(3), Option(32, 0.5), Option(4, 0.3)]
    for _, treated, error in compress_layer(layers[0], net[0], undamped, options):
        whole = own_errors(net, x, torch.zeros(6, 9)).sum()
        assert error == pytest.approx(float(own_errors(net, x, treated.matrix()).sum() / whole))


def test_weights_of_weak_channels_go_first() -> None:
    net, x, scales = depthwise_inputs(proportional=True)
    layers = trace(net, (x[:1],))
    statistics = collect(net, layers, (x,))["0"]
    plain = replace(statistics, row_weights=None)
    options = [Option(32, 0.5)]
    ((_, weighted, _),) = compress_layer(layers[0], net[0], statistics, options)
    ((_, unweighted, _),) = compress_layer(layers[0], net[0], plain, options)
    left = (weighted.matrix() != 0).sum(1)
    assert int(left[scales.argmin()]) < int(left[scales.argmax()])
    assert float(own_errors(net, x, weighted.matrix()).sum()) < 0.5 * float(
        own_errors(net, x, unweighted.matrix()).sum()
    )


@pytest.mark.parametrize("multiple", [1, 2])
def test_groups_that_differ_share_the_mean_shape(multiple: int) -> None:
    _, x, _ = depthwise_inputs(proportional=False)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 6 * multiple, 3, groups=6)).eval().requires_grad_(False)
    found = collect(net, trace(net, (x[:1],)), (x,), batch=7)["0"]
    rows = rows_of(net[0], x).double().reshape(-1, 6, 9)
    moments = torch.einsum("ngi,ngj->gij", rows, rows) / len(rows)
    scale = moments.diagonal(dim1=1, dim2=2).mean(1)
    torch.testing.assert_close(
        found.second_moment, (moments / scale[:, None, None]).mean(0), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        found.row_weights, scale.repeat_interleave(multiple), rtol=1e-4, atol=1e-9
    )
    assert collect(net, trace(net, (x[:1],)), (0 * x,))["0"].row_weights.isfinite().all()
