"""Signs, shared steps, zero points, runs and codebooks in ONNX: the file computes what the torch
twin computes, on integer kernels where the option says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from autocompress.compression.stored import StoredTensor
from autocompress.compression.treated import Treated
from autocompress.errors import DeviceError
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_fused import check_fused
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.onnx_session import open_session

UNIFORM = ("signs", "tensor", "affine")


@pytest.fixture(scope="module")
def graph(mixed) -> FloatGraph:
    return export_float(mixed.model, mixed.layers, mixed.example)


def recoded(stored: StoredTensor, kind: str) -> StoredTensor:
    """About the same weights in codes of another kind."""
    weight, peak = stored.dense(), float(stored.dense().abs().max())
    if kind == "signs":
        step = weight.abs().mean(1).clamp_min(1e-6).half()
        return StoredTensor(1, weight.sign().to(torch.int8), step)
    if kind == "tensor":
        step = torch.tensor([peak / 63]).half()
        return StoredTensor(7, (weight / step.float()).round().to(torch.int8), step)
    if kind == "affine":
        step = torch.tensor([2 * peak / 62]).half()
        codes = (weight / step.float()).round().clamp(-31, 32).to(torch.int8)
        return StoredTensor(6, codes, step, zero=torch.tensor([31], dtype=torch.uint8))
    if kind == "runs":
        runs = weight.abs().split(5, dim=1)
        step = torch.stack([run.amax(1) for run in runs], 1).clamp_min(1e-6).div(7).half()
        empty = StoredTensor(4, stored.codes, step, group=5)
        codes = (weight / empty.steps()).round().clamp(-7, 7).to(torch.int8)
        return replace(empty, codes=codes)
    values = torch.linspace(-peak, peak, 15).half()
    nearest = (weight[..., None] - values.float()).abs().argmin(-1)
    return StoredTensor(4, (nearest + 1).to(torch.uint8), None, codebook=values)


def of_kind(mixed, kind: str, int8: bool) -> dict[str, Treated]:
    found = {}
    for name in mixed.names:
        treated = mixed.treat(name, 7, int8=int8)
        found[name] = replace(
            treated, weights=tuple(recoded(stored, kind) for stored in treated.weights)
        )
    return found


def run(proto, inputs: Tensor) -> np.ndarray:
    session = open_session(proto)
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return output


@pytest.mark.parametrize("kind", [*UNIFORM, "runs", "book"])
def test_float_layers_equal_their_twin(mixed, graph, kind: str) -> None:
    treated = of_kind(mixed, kind, int8=False)
    output = run(assemble(graph, treated), mixed.inputs)
    np.testing.assert_allclose(output, mixed.twin(treated).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", UNIFORM)
def test_int8_layers_are_fused_and_within_two_steps_of_their_twin(mixed, graph, kind: str) -> None:
    treated = of_kind(mixed, kind, int8=True)
    proto = assemble(graph, treated)
    assert set(check_fused(proto, treated).values()) == {"QLinearConv", "QGemm"}
    step = treated["head"].grids[-1].scale
    difference = np.abs(run(proto, mixed.inputs) - mixed.twin(treated).numpy())
    assert difference.max() <= 2.01 * step
    assert (difference > 0.5 * step).mean() < 0.05


@pytest.mark.parametrize("kind", ["runs", "book"])
def test_what_integer_kernels_do_not_take_is_refused(mixed, graph, kind: str) -> None:
    with pytest.raises(DeviceError, match="one step for each row or for all"):
        assemble(graph, of_kind(mixed, kind, int8=True))


@pytest.mark.parametrize("kind", ["affine", "runs", "book"])
def test_what_an_onnx_file_does_not_hold_is_refused(mixed, graph, kind: str) -> None:
    with pytest.raises(DeviceError, match="codebooks, zero points and runs"):
        assemble(graph, of_kind(mixed, kind, int8=False), "onnx")


def test_one_step_for_all_is_held_by_an_onnx_file(mixed, graph) -> None:
    treated = of_kind(mixed, "tensor", int8=False)
    output = run(assemble(graph, treated, "onnx"), mixed.inputs)
    np.testing.assert_allclose(output, mixed.twin(treated).numpy(), rtol=1e-4, atol=1e-5)
