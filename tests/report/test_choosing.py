"""What the report says of what to choose, what was done and what to do next."""

from __future__ import annotations

import json
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autocompress.report.choose_tables import choose_text
from autocompress.report.commands import begun_with, export_text, outputs, retarget_text, run_text
from autocompress.report.data import RunData
from autocompress.report.figures import FIGURES
from autocompress.report.front_figures import front_figure, front_points, speed_figure
from autocompress.report.heat_figures import COLUMNS, NONE, treatments
from autocompress.report.notes import sorted_notes
from autocompress.report.picks import keeps, picks, points
from autocompress.report.prices import read_prices
from autocompress.report.sensitivity_figures import singles
from autocompress.report.story import done_lines, next_steps
from autocompress.report.words import option_words, telling

BUDGET = {
    "size": {"text": "50%", "limit": 500.0, "unit": "B", "direction": "at most"},
    "latency": {"text": "50%", "limit": 5.0, "unit": "ms", "direction": "at most"},
    "quality": {"text": "-1pt", "limit": 98.0, "unit": "%", "direction": "at least"},
}
FRONT = [
    ("small", 0.05, 200, 4.0, None),
    ("fast", 0.015, 450, 2.0, None),
    ("best", 0.02, 300, 3.0, 99.5),
    ("near", 0.01, 480, 4.5, 99.6),
    ("big", 0.001, 900, 9.0, 99.9),
]


def finalist(candidate: str, latency: float, quality: float, **more: Any) -> dict[str, Any]:
    predicted = {"loss": 0.02, "size_bytes": 300, "latency_ms": 3.0}
    measured = {"quality": quality, "size_bytes": 301, "latency_ms": latency}
    return {"candidate": candidate, "predicted": predicted, "measured": measured, **more}


def run(**more: Any) -> RunData:
    rows = [
        {"candidate": id, "loss": loss, "size_bytes": size, "latency_ms": ms, "quality": quality}
        for id, loss, size, ms, quality in FRONT
    ]
    measured = {"quality": 98.6, "size_bytes": 301, "latency_ms": 3.1}
    result = {
        "study": "s",
        "budget": BUDGET,
        "budget_met": True,
        "binding": "size",
        "original": {"quality": 99.0, "size_bytes": 1000, "latency_ms": 10.0},
        "best": {"candidate": "best", "predicted": {"loss": 0.02}, "measured": measured},
        "evaluations": 40,
        "seconds": {"search": 12.0, "confirm": 8.0},
    }
    known: dict[str, Any] = {
        "path": Path("runs/my run"),
        "result": result,
        "plan": {},
        "front": pd.DataFrame(rows),
        "finalists": (finalist("best", 3.1, 99.5, met=True, chosen=True),),
        "knee": "fast",
        "selection_original": 100.0,
        "asked": {"study": "studies/s", "overrides": {"space": "wide"}, "budget": ["size=50%"]},
        "files": {"model.acz": 301, "model.onnx": 700},
    }
    return RunData(**{**known, **more})


def test_picks_are_the_best_by_each_wish_with_their_reasons() -> None:
    found = {pick.point.candidate: pick.reasons for pick in picks(run())}
    assert next(iter(found)) == "best"
    assert found["best"][0].startswith("chosen: the best of the finalists")
    # The smallest of all has more loss than any that is known to keep the quality.
    assert "small" not in found
    assert found["best"][1] == "the smallest within the limits"
    assert found["fast"][0] == "the fastest within the limits (its quality was not measured)"
    assert found["fast"][1].startswith("the knee")
    assert found["near"] == ["the closest to the original within the limits"]
    assert "big" not in found


def test_a_limit_on_quality_is_judged_where_the_quality_was_measured() -> None:
    point = next(p for p in points(run()) if p.candidate == "near")
    # 98 of the test split, where the original has 99, is 99 of the selection split.
    assert keeps(run(), point) is True
    assert keeps(run(), replace(point, quality=98.5)) is False
    assert keeps(run(), replace(point, quality=None)) is None
    assert keeps(run(selection_original=None), replace(point, quality=98.5)) is True


def test_what_the_clock_said_of_the_finalists_counts_for_the_others() -> None:
    slow = run(finalists=(finalist("best", 4.5, 99.5, met=False, chosen=True),))
    point = next(p for p in points(slow) if p.candidate == "near")
    assert keeps(slow, point) is False  # 4.5 ms predicted, half as much again on the clock
    assert "the finalists took 50 % more than predicted" in choose_text(slow)
    assert "than predicted" not in choose_text(run())


def test_where_nothing_keeps_the_limits_the_picks_leave_them_aside() -> None:
    missed = run(finalists=(finalist("best", 30.0, 99.5, met=False, chosen=True),))
    missed = replace(missed, result={**missed.result, "budget_met": False})
    found = {pick.point.candidate: pick.reasons for pick in picks(missed)}
    assert found["best"][0] == "chosen: the closest to the limits, none keeps them all"
    assert "limits aside" in found["small"][0]


def test_a_winner_beside_the_front_can_be_chosen_and_is_drawn() -> None:
    off = run(finalists=(finalist("other", 3.1, 99.5, met=True, chosen=True),))
    off = replace(off, result={**off.result, "best": {**off.best, "candidate": "other"}})
    assert picks(off)[0].point.candidate == "other"
    assert "other" in [point.candidate for point in front_points(off)]
    names = [trace.name for trace in front_figure(off).data]
    assert "chosen" in names


def test_points_know_how_they_are_written() -> None:
    drawn = front_figure(run())
    data = drawn.data[0].customdata[0]
    assert data[0] == "small"
    assert data[1] == "autocompress export 'runs/my run' --candidate small -o model.acz"
    assert data[2].endswith("-o model.onnx")
    same = run(front=run().front.assign(latency_ms=3.0))
    assert speed_figure(same) is None
    assert FIGURES["speed"].is_optional


def test_what_cannot_be_exported_is_not_offered() -> None:
    assert outputs(run()) == ("model.acz", "model.onnx")
    assert outputs(run(files={"model.acz": 1})) == ("model.acz",)
    shipped = {"study": "s", "fingerprint": {"storage format": "onnx"}}
    assert outputs(run(asked=shipped)) == ("model.onnx", "model.acz")


def test_a_run_from_python_is_told_what_python_can_do() -> None:
    begun = run(asked={"study": "", "overrides": {}, "budget": []})
    assert export_text(begun, "a1", "model.acz") == "result.candidate('a1').export('model.acz')"
    assert run_text(begun) == ""
    expected = "budget={'quality': '-1pt', 'size': '5%', 'latency': '50%'})"
    assert retarget_text(begun, "size", "5%").endswith(expected)
    lines = [step.line for step in next_steps(begun)]
    assert "result = autocompress.compress(..., out='runs/my run')" in lines
    assert not any(line.startswith("autocompress ") for line in lines)


def test_the_call_of_the_run_can_be_repeated() -> None:
    expected = "autocompress run studies/s --space wide --budget size=50% --out 'runs/my run'"
    assert run_text(run()) == expected


def test_a_run_that_goes_on_says_how_it_was_begun() -> None:
    begun = run(result={})
    assert begun_with(begun) == ["size=50%"]
    assert [step.line for step in next_steps(begun)] == [run_text(begun)]


def test_next_steps_after_a_missed_limit_name_what_was_reached() -> None:
    result = run().result
    best = {**result["best"], "measured": {**result["best"]["measured"], "latency_ms": 6.12}}
    missed = run(result={**result, "best": best, "budget_met": False, "binding": "latency"})
    lines = [step.line for step in next_steps(missed)]
    assert lines[0] == "autocompress retarget 'runs/my run' --budget latency=63%"
    assert lines[1] == "autocompress retarget 'runs/my run' --budget quality=-2pt"
    assert "--evaluations 80" in lines[2]
    met = [step.line for step in next_steps(run())]
    assert met[0].startswith("model = autocompress.load_archive(")
    assert met[-1] == "autocompress retarget 'runs/my run' --budget size=65%"


def test_what_was_done_is_said_in_words() -> None:
    layers = (
        {"name": "a", "option": "w4-a8", "bits": 4, "activations": "int8", "parameters": 1000},
        {"name": "b", "option": "w8-s50", "bits": 8, "sparsity": 0.5, "parameters": 234},
        {"name": "c", "option": "dense", "bits": 32, "parameters": 10},
    )
    text = " ".join(done_lines(run(layers=layers)))
    assert "2 of the model's 3 layers with 1 244 parameters were compressed" in text
    assert "weights in 4 to 8 bits (2 layers); 50 % of the weights zero (1 layer)" in text
    assert "int8 arithmetic (1 layer)" in text
    assert "The search tried 40 candidates in 12.0 s; the best 1 were measured" in text


def test_the_heat_map_shows_channels_and_what_is_left() -> None:
    layer = {
        "name": "a",
        "bits": 4,
        "inputs": 0.75,
        "outputs": 1.0,
        "bytes_before": 1000,
        "bytes_after": 50,
        "latency_before_ms": 0.0,
        "latency_after_ms": 0.0,
    }
    row = treatments([layer])[0]
    shown = dict(zip(COLUMNS, row.texts, strict=True))
    assert shown["inputs"] == "75 %"
    assert shown["outputs"] == NONE
    assert shown["bytes left"] == "5.0 %"
    assert shown["time left"] == NONE
    assert dict(zip(COLUMNS, row.strengths, strict=True))["bytes left"] == pytest.approx(0.95)


def test_sensitivity_is_that_of_the_price_table(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    record = {
        "menus": {"a": ["dense", "w4", "w2"]},
        "losses": {"swap": {"a": [0.0, 0.01, 0.5]}},
        "bytes": {"a": {"dense": 100, "w4": 20}},
    }
    path.write_text(json.dumps(record))
    layers = ({"name": "a", "bytes_before": 100}, {"name": "unknown"})
    found = singles(run(layers=layers, prices=read_prices(path)))
    assert [(p.option, p.loss, p.left) for p in found] == [("w4", 0.01, 0.2), ("w2", 0.5, None)]
    for damaged in ("{", "[]", '{"menus": {"a": ["w4"]}, "losses": {"swap": {}}, "bytes": {}}'):
        path.write_text(damaged)
        assert read_prices(path) == {}
    assert read_prices(tmp_path / "none.json") == {}


def test_notes_are_said_once_and_the_long_list_is_folded() -> None:
    said = (
        "a: lower ranks are not offered, they make nothing faster here",
        "not offered: a: lower ranks are not offered, they make nothing faster here",
        "search: all is tried",
        "no gain in latency",
    )
    notes = sorted_notes(run(notes=said, stopped="all is tried"))
    assert notes.telling == ("no gain in latency",)
    assert notes.left_out == (said[0],)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("dense", "as it was"),
        ("w4", "4-bit weights"),
        ("w4-s49.6-r50-a8", "4-bit weights, 49.6 % zeros, 50 % rank, int8 arithmetic"),
        ("w3-n2m4-i75-o50", "3-bit weights, 2 of 4 weights kept, 75 % of the inputs, 50 % of the"),
        ("k16-l1e-05", "a codebook of 16 values, rounded for few bytes (1e-05)"),
        ("something-else", "something-else"),
    ],
)
def test_options_are_put_into_words(option: str, words: str) -> None:
    assert option_words(option).startswith(words)


def test_few_options_show_every_part() -> None:
    found = telling(["w4", "w8", "w4-s50", "w4-s50-r50", "dense", "w6-s80"])
    assert "w4-s50-r50" in found
    assert len(found) <= 4


@pytest.mark.parametrize("is_there", [True, False])
def test_open_shows_the_file_and_serves_nothing(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    begun = {"schema": 1, "study": "", "overrides": {}, "budget": [], "finished": True}
    (folder / "run.json").write_text(json.dumps(begun))
    opened: list[str] = []

    def show(url: str) -> bool:
        opened.append(url)
        return is_there

    monkeypatch.setattr(webbrowser, "open", show)
    code, out, err = cli("report", folder, "--open")
    assert code == 0, err
    assert opened == [(folder / "report.html").resolve().as_uri()]
    assert opened[0].startswith("file://")
    assert ("no browser was found" in out) is not is_there
    cli("report", folder)
    assert len(opened) == 1
