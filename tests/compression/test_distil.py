"""What the original teaches: known distances, and which layers are watched."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autocompress.compression.distil import (
    Lesson,
    Watch,
    attention_distance,
    distance,
    feature_distance,
    soft_targets,
    stages,
)
from autocompress.model.trace import trace


def test_soft_targets_are_the_divergence_at_a_temperature() -> None:
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = 1 / (1 + math.exp(-1.0))  # at a temperature of 2
    wanted = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert float(soft_targets(student, teacher, 2.0)) == pytest.approx(wanted, rel=1e-5)
    assert float(soft_targets(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-7)


def test_outputs_that_are_no_classes_are_compared_by_their_error() -> None:
    teacher = torch.tensor([[1.0], [3.0]])
    assert float(soft_targets(teacher + 1, teacher, 2.0)) == pytest.approx(1 / 2)


def test_feature_distance_is_relative() -> None:
    teacher = torch.full((2, 3, 4, 4), 2.0)
    assert float(feature_distance(teacher * 1.5, teacher)) == pytest.approx(0.25)
    assert float(feature_distance(teacher * 15, teacher * 10)) == pytest.approx(0.25)


def test_attention_looks_at_where_not_at_how_much() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 3, 4, 4, generator=generator)
    assert float(attention_distance(3 * teacher, teacher)) == pytest.approx(0, abs=1e-6)
    here, there = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    here[..., 0, 0], there[..., 1, 1] = 1, 1
    assert float(attention_distance(here, there)) == pytest.approx(2)
    tokens = torch.randn(2, 5, 8, generator=generator)
    assert float(attention_distance(-tokens, tokens)) == pytest.approx(0, abs=1e-6)
    assert float(attention_distance(torch.ones(2, 5), torch.zeros(2, 5))) == 0


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).eval()


def test_the_last_layer_of_each_resolution_is_watched() -> None:
    model = network()
    assert stages(trace(model, (torch.zeros(1, 1, 8, 8),))) == ("2", "5")


def test_a_watch_keeps_maps_and_leaves_no_hook() -> None:
    model = network()
    x = torch.randn(2, 1, 8, 8)
    with Watch(model, ["0", "5"]) as watch:
        model(x)
    assert torch.equal(watch.maps["0"], model[0](x))  # before the rectifier worked in place
    assert watch.maps["5"].shape == (2, 6, 4, 4)
    assert not model[0]._forward_hooks


def test_a_lesson_adds_its_parts() -> None:
    lesson = Lesson(temperature=1.0, features=0.5, attention=2.0)
    outputs, taught = torch.randn(4, 3), torch.randn(4, 3)
    maps, wanted = {"a": torch.randn(4, 2, 3, 3)}, {"a": torch.randn(4, 2, 3, 3)}
    total = distance(lesson, outputs, taught, maps, wanted)
    parts = (
        soft_targets(outputs, taught, 1.0)
        + 0.5 * feature_distance(maps["a"], wanted["a"])
        + 2.0 * attention_distance(maps["a"], wanted["a"])
    )
    assert float(total) == pytest.approx(float(parts), rel=1e-6)
    assert Lesson().looks_inside is False
