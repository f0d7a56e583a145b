"""The stray line of HiGHS stays off standard output, everything else gets there."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest

from autocompress.search.integer import closest
from autocompress.search.problem import Problem
from autocompress.search.quiet import STRAY, without_stray_lines
from autocompress.search.resource import Edge, Resource


def test_only_the_stray_line_vanishes(capfd: pytest.CaptureFixture[str]) -> None:
    with without_stray_lines():
        os.write(1, b"one\n" + STRAY + b" tmpSolver.run();\ntwo\n")
        ctypes.CDLL(None).printf(STRAY + b" tmpSolver.run();\n")
    os.write(1, b"three\n")
    assert capfd.readouterr().out == "one\ntwo\nthree\n"


def test_standard_output_is_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), without_stray_lines():
        raise ZeroDivisionError
    os.write(1, b"back\n")
    assert capfd.readouterr().out == "back\n"


def test_a_solver_that_repairs_its_solution_prints_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    # One in thirty such problems makes HiGHS 1.12 print its line; this is one.
    rng = np.random.default_rng(203)
    units, options = range(25), int(rng.integers(8, 24))
    losses = tuple(np.sort(rng.lognormal(-6, 2, options)) for _ in units)
    sizes = tuple(np.sort(rng.lognormal(6, 1.5, options))[::-1].copy() for _ in units)
    labels = tuple(rng.integers(0, 2, options) for _ in units)
    times = tuple(
        rng.uniform(0.1, 1) * np.where(label == 1, 0.5, 1) * rng.uniform(0.8, 1.2, options)
        for label in labels
    )
    edges = tuple(Edge(unit, unit + 1, *rng.uniform(0, 0.1, 2)) for unit in units[:-1])
    problem = Problem(
        units=tuple(f"unit{unit}" for unit in units),
        losses={"swap": losses},
        resources={
            "size_bytes": Resource(100.0, sizes),
            "latency_ms": Resource(0.1, times, edges),
        },
        labels=labels,
    )
    least, most = (sum(f(values) for values in sizes) for f in (np.min, np.max))
    low, high = (sum(f(values) for values in times) for f in (np.min, np.max))
    limits = {
        "size_bytes": 0.6 * (100 + least + 0.15 * (most - least)),
        "latency_ms": 0.1 + low - 0.05 * (high - low),
    }
    closest(problem, losses, limits)
    assert capfd.readouterr().out == ""
