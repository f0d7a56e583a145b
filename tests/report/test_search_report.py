"""What the report says of the search and of the audit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fabricated_run import NAMES, details, fabricate, figure, page, result

from autocompress.errors import StorageError
from autocompress.report.data import load_run
from autocompress.report.html import write_report


def searched(folder: Path) -> Path:
    """A finished run whose search counted passes and moves."""
    run = fabricate(folder)
    content = details(NAMES)
    for row, candidate, passes in zip(
        content["history"], ("a001", "c3f9"), (1.0, 1.25), strict=True
    ):
        row |= {"candidate": candidate, "passes": passes, "complete": True}
    content |= {
        "moves": [
            {
                "move": "level <switch>",
                "asked": 1200,
                "complete": 300,
                "improved": 21,
                "earned": 0.125,
                "passes": 50.0,
                "share": 0.62,
            },
            {"move": "relinearise", "asked": 0, "passes": 0.0},
        ],
        "price": {
            "candidates": 1200,
            "passes": 264.0,
            "mean": 0.22,
            "full_pass_ms": 90.0,
            "engine_ms": 1.1,
            "pricing_passes": 83.0,
        },
        "knee": "c3f9",
        "stopped": "the front has not grown for 120 passes",
    }
    (run / "details.json").write_text(json.dumps(content))
    return run


def test_the_search_shows_moves_price_knee_and_its_end(tmp_path: Path) -> None:
    text = page(searched(tmp_path / "run"))
    for shown in (
        "level &lt;switch&gt;",
        "1 200",
        "62 %",
        "0.0025",  # earned a pass
        "the front has not grown for 120 passes",
        "c3f9: loss 0.0312, 50.0 kB, 0.600 ms",
        "0.22",
        "1.10 ms",
        "5.3 %",  # engine: 1.1 of 1.1 + 0.22 * 90 ms
    ):
        assert shown in text, shown


def test_what_the_race_dropped_is_drawn_apart(tmp_path: Path) -> None:
    run = searched(tmp_path / "run")
    content = json.loads((run / "details.json").read_text())
    content["history"][0]["complete"] = False
    (run / "details.json").write_text(json.dumps(content))
    drawn = figure(page(run), "progress")["data"]
    points = {trace["name"]: trace["y"] for trace in drawn}
    assert points == {"dropped by the race": [0.5], "seed": [0.0312], "best so far": [0.0312]}


def test_hypervolume_is_drawn_over_passes_with_the_knee_named(tmp_path: Path) -> None:
    run = searched(tmp_path / "run")
    drawn = figure(page(run), "hypervolume")
    line, knee = drawn["data"]
    assert line["x"] == [1.0, 1.25]
    assert (knee["x"], knee["y"], knee["text"]) == ([1.25], [0.4], ["knee c3f9"])
    assert "passes" in drawn["layout"]["xaxis"]["title"]["text"]
    names = [trace.get("name") for trace in figure(page(run), "front")["data"]]
    assert "knee c3f9" in names


def test_a_run_that_counted_no_passes_is_drawn_over_evaluations(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    text = page(run)
    drawn = figure(text, "hypervolume")
    assert [trace["x"] for trace in drawn["data"]] == [[1, 2]]
    assert drawn["layout"]["xaxis"]["title"]["text"] == "evaluation"
    assert "Price of a candidate" not in text


def test_what_the_search_left_out_is_left_out(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    bare = {"moves": [{}], "price": {"mean": 0.3}, "knee": "gone", "history": [{}]}
    (run / "details.json").write_text(json.dumps(bare))
    text = page(run)
    assert "Price of a candidate, full passes" in text
    assert "Engine" not in text
    (run / "details.json").write_text('{"moves": {"a": 1}}')
    with pytest.raises(StorageError, match=re.escape("moves must be a list of objects")):
        load_run(run)


def test_the_audit_shows_promotions_and_its_warning_above_all(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    warned = result()
    warned["audit"] |= {"promotions": 10, "warning": "The proxy misleads: <b>regret</b> 0.4 pt."}
    (run / "result.json").write_text(json.dumps(warned))
    text = page(run)
    section = text[text.index('<section id="audit">') :]
    assert "Candidates promoted to confirmation" in section
    warning = "The proxy misleads: &lt;b&gt;regret&lt;/b&gt; 0.4 pt."
    assert section.count(warning) == 1
    assert section.index(warning) < section.index("<figure")


def test_a_deep_network_and_a_long_search_still_make_a_small_page(tmp_path: Path) -> None:
    """300 layers with 20 options each, 3 000 candidates of which 600 are on the front."""
    names = [f"model.layers.{index}.attention.projection" for index in range(300)]
    folder = tmp_path / "run"
    folder.mkdir()
    content = details(NAMES)
    layer, step = content["layers"][2], content["history"][1]
    content["layers"] = [{**layer, "name": name, "option": "w4-s90-r50"} for name in names]
    content["history"] = [{**step, "evaluation": index + 1} for index in range(3000)]
    (folder / "details.json").write_text(json.dumps(content))
    (folder / "result.json").write_text(json.dumps(result()))
    menu = [f"w{bits}-s{share}" for bits in (2, 3, 4, 6, 8) for share in (20, 50, 70, 90)]
    prices = {
        "menus": {name: menu for name in names},
        "bytes": {name: dict.fromkeys(menu, 1234) for name in names},
        "losses": {"swap": {name: [0.001234 * (i + 1) for i in range(20)] for name in names}},
    }
    (folder / "prices.json").write_text(json.dumps(prices))
    rows = [f"candidate,loss,size_bytes,latency_ms,quality,{','.join(names)}"]
    for index in range(600):
        options = ",".join(["w4-s90-r50"] * 300)
        rows.append(f"{index:010x},{0.01 + index * 1e-5},{50000 + index},{0.7 + index},,{options}")
    (folder / "front.csv").write_text("\n".join(rows) + "\n")
    target = write_report(folder)
    assert target.stat().st_size < 6_000_000
    assert "600 of 3000 candidates are drawn." in target.read_text(encoding="utf-8")
