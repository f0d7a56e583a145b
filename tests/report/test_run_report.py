"""The report on a small fabricated run directory: complete, partial, damaged and hostile."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import StorageError
from autocompress.report.data import load_run
from autocompress.report.figures import FIGURES
from autocompress.report.html import write_report
from autocompress.report.summary import sentences, verdict

NAMES = ["features.0", "features.3", "classifier.0", "embed"]
OPTIONS = ["w8-a8", "w3-s80", "w4-s90-r50", "dense"]


def result() -> dict[str, Any]:
    measured = {"quality": 0.9887, "size_bytes": 50890, "latency_ms": 0.651}
    predicted = {"loss": 0.0312, "size_bytes": 50871, "latency_ms": 0.633}
    return {
        "schema": 1,
        "study": "lenet5_mnist",
        "seed": 7,
        "versions": {"torch": "2.9.1"},
        "device": {"name": "onnxruntime-cpu", "runtime": "onnxruntime"},
        "budget": {
            "size": {"text": "3%", "limit": 51729, "unit": "B"},
            "latency": {"text": "70%", "limit": 0.6986, "unit": "ms"},
            "quality": {"text": "-0.5pt", "limit": 0.9862, "unit": "pt"},
        },
        "original": {"quality": 0.9912, "size_bytes": 1724320, "latency_ms": 0.998},
        "best": {"candidate": "c3f9", **measured, "predicted": predicted, "measured": measured},
        "budget_met": True,
        "binding": "size",
        "audit": {"proxy_spearman": -0.93, "proxy_regret": 0.0006, "latency_mape": 3.1},
        "seconds": {"trace": 0.4, "search": 61.0},
        "evaluations": 2,
        "files": {"onnx": "model.onnx"},
    }


def details(names: list[str]) -> dict[str, Any]:
    layers = [
        {
            "name": name,
            "kind": "Conv2d",
            "weight_shape": [20, 10, 5, 5],
            "parameters": 5020,
            "macs": 1_234_567,
            "treated": option != "dense",
            "reason": "" if option != "dense" else "an Embedding is not treated",
            "option": option,
            "bits": 8,
            "sparsity": 0.8,
            "rank": 0.5,
            "activations": "int8",
            "bytes_before": 20080,
            "bytes_after": 1234,
            "latency_before_ms": 0.4,
            "latency_after_ms": 0.3,
            "local_error": 0.02,
            "loss_alone": 0.00123,
        }
        for name, option in zip(names, OPTIONS, strict=True)
    ]
    finalist = {
        "candidate": "c3f9",
        "predicted": {"loss": 0.0312, "size_bytes": 50871, "latency_ms": 0.633},
        "measured": {
            "quality": 0.9891,
            "size_bytes": 50890,
            "latency_ms": 0.651,
            "latency_low_ms": 0.64,
            "latency_high_ms": 0.66,
        },
        "met": True,
        "chosen": True,
        "reason": "best quality within the limits",
    }
    evaluation = {"origin": "seed", "size_bytes": 50000, "latency_ms": 0.6, "seconds": 0.5}
    return {
        "layers": layers,
        "budget": [],
        "finalists": [finalist],
        "history": [
            {"evaluation": 1, "loss": 0.5, "feasible": False, "hypervolume": 0.1, **evaluation},
            {
                "evaluation": 2,
                "loss": 0.0312,
                "feasible": True,
                "best_loss": 0.0312,
                "hypervolume": 0.4,
                **evaluation,
            },
        ],
        "audit": {
            "proxy": [{"candidate": "c3f9", "loss": 0.0312, "quality": 0.9891}],
            "latency": {
                "points": [{"predicted_ms": 0.7, "measured_ms": 0.72, "held_out": True}],
                "mape_percent": 3.14,
                "spearman": 0.971,
                "noise_floor_percent": 1.9,
                "flops_spearman": 0.22,
            },
        },
        "notes": ["36 options were removed."],
        "provenance": {"metric": "accuracy", "machine": "x86_64"},
    }


def fabricate(folder: Path, names: list[str] = NAMES) -> Path:
    """Writes a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result()))
    (folder / "details.json").write_text(json.dumps(details(names)))
    (folder / "plan.json").write_text("{}")
    (folder / "trials.parquet").write_bytes(b"")
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    rows = [
        f"candidate,loss,size_bytes,latency_ms,quality,{quoted}",
        f"0012,0.004,100400,0.75,,{','.join(OPTIONS)}",
        f"c3f9,0.0312,50871,0.633,0.9891,{','.join(OPTIONS)}",
    ]
    (folder / "front.csv").write_text("\n".join(rows) + "\n")
    return folder


class Loads(HTMLParser):
    """Collects what a browser would fetch, and the scripts' types."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.scripts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.fetched += [str(found[key]) for key in ("src", "srcset", "data") if key in found]
        if tag in ("link", "iframe", "object", "embed", "img"):
            self.fetched.append(tag)
        if tag == "a" and not str(found.get("href")).startswith("#"):
            self.fetched.append(str(found.get("href")))
        if tag == "script":
            self.scripts.append(found.get("type"))


def page(folder: Path) -> str:
    text = write_report(folder).read_text(encoding="utf-8")
    # The library is not ours to search.
    start = text.index("<script>")
    return text[:start] + text[text.index("</script>", start) :]


def test_report_is_one_small_offline_file(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    target = write_report(run)
    assert target == run / "report.html"
    assert target.stat().st_size < 6_000_000
    assert not [file for file in run.iterdir() if file.name.startswith(".")]
    parser = Loads()
    parser.feed(target.read_text(encoding="utf-8"))
    assert parser.fetched == []
    assert "default-src 'none'" in page(run)
    assert not re.findall(r"https?://", page(run))


def test_report_shows_the_values_of_every_table(tmp_path: Path) -> None:
    text = page(fabricate(tmp_path / "run"))
    for shown in (
        "Budget met: all 3 limits are kept, as measured.",
        "98.87 %",
        "at most 51.7 kB",
        "50.9 kB",
        "33.9 times smaller",
        "size (binds)",
        "0012",
        "w4-s90-r50",
        "20.1 kB → 1.23 kB",
        "an Embedding is not treated",
        "best quality within the limits",
        "36 options were removed.",
        "3.14 %",
        "x86_64",
        "--candidate c3f9 -o model.onnx",
    ):
        assert shown in text, shown
    assert all(f'id="figure-{key}-data"' in text for key in FIGURES)
    assert "Nothing to draw" not in text


def test_figures_are_json_that_a_page_can_hold(tmp_path: Path) -> None:
    text = page(fabricate(tmp_path / "run"))
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert len(blocks) == len(FIGURES)
    for block in blocks:
        assert set(json.loads(block)) == {"data", "layout"}


def test_hostile_layer_names_stay_text(tmp_path: Path) -> None:
    names = [
        "<script>alert(1)</script>",
        "a\"b'&<img src=x onerror=alert(2)>",
        "[bold]c",
        "d\x1b[2J",
    ]
    parser = Loads()
    text = page(fabricate(tmp_path / "run & <b>", names))
    parser.feed(text)
    assert parser.fetched == []
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\x1b" not in text
    assert len(parser.scripts) == len(FIGURES) + 1  # the page's own; the library is cut away


@pytest.mark.parametrize(
    "absent",
    [
        ["result.json"],
        ["details.json"],
        ["front.csv"],
        ["result.json", "details.json", "front.csv"],
    ],
)
def test_missing_files_are_named_and_survived(tmp_path: Path, absent: list[str]) -> None:
    run = fabricate(tmp_path / "run")
    for name in absent:
        (run / name).unlink()
    text = page(run)
    assert f"Not there (yet): {', '.join(absent)}" in text
    assert ("has not finished" in text) is ("result.json" in absent)


def test_missing_keys_are_survived(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    (run / "result.json").write_text('{"best": {"candidate": "c1"}, "original": null}')
    bare = {"layers": [{"name": "a"}, {}], "finalists": [{}], "history": [{}], "audit": {}}
    (run / "details.json").write_text(json.dumps(bare))
    (run / "front.csv").write_text("candidate,loss,size_bytes,latency_ms\nc1,0,10,\n")
    assert "No limits were asked for." in page(run)


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    (run / "result.json").unlink()
    loaded = load_run(run)
    assert verdict(loaded).state == "unfinished"
    expected = "So far: 2 evaluations, 1 within the limits; best loss 0.0312 at 50.0 kB."
    assert expected in sentences(loaded)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("result.json", '{"best": ', "damaged, not JSON"),
        ("details.json", "[1, 2]", "expected an object, got list"),
        ("details.json", '{"layers": {"a": 1}}', "layers must be a list of objects"),
        ("details.json", '{"audit": 3}', "audit must be an object"),
        ("plan.json", "\udcff", "damaged, not JSON"),
        ("front.csv", "", "not a readable table"),
        ("front.csv", "candidate,loss\nc,1\n", "lacks the column size_bytes, latency_ms"),
        ("front.csv", "candidate,loss,size_bytes,latency_ms\nc,x,1,1\n", "column loss"),
    ],
)
def test_damage_is_an_error_that_names_the_file(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    run = fabricate(tmp_path / "run")
    (run / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(StorageError, match=re.escape(complaint)) as caught:
        write_report(run)
    assert name in str(caught.value)
    assert not (run / "report.html").exists()


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such run directory"):
        load_run(tmp_path / "nowhere")


def test_ids_of_digits_stay_text_and_the_front_is_sorted(tmp_path: Path) -> None:
    run = load_run(fabricate(tmp_path / "run"))
    assert list(run.front["candidate"]) == ["c3f9", "0012"]
    assert run.layer_columns == NAMES
    assert run.front["quality"].isna().tolist() == [False, True]


def test_a_missed_budget_is_said_first_and_by_how_much(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    missed = result()
    missed["best"]["measured"]["latency_ms"] = 0.76846
    missed |= {"budget_met": False, "binding": "latency"}
    (run / "result.json").write_text(json.dumps(missed))
    loaded = load_run(run)
    assert verdict(loaded).headline == "Budget not met: latency stays beyond its limit."
    latency = next(text for text in sentences(loaded) if text.startswith("Latency"))
    assert "10.0 % beyond its limit" in latency
    assert "Predicted 0.633 ms, measured 21.4 % above that" in latency


def test_a_missed_soft_limit_does_not_miss_the_budget(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    missed = result()
    missed["best"]["measured"]["latency_ms"] = 0.76846
    missed["budget"]["latency"]["soft"] = True
    missed |= {"budget_met": True, "binding": "latency"}
    (run / "result.json").write_text(json.dumps(missed))
    (run / "details.json").unlink()
    found = verdict(load_run(run))
    assert found.state == "met"
    assert found.headline == "Budget met; latency stays beyond what was aimed at (soft)."


def test_writing_again_gives_the_same_page(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


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


def figure(text: str, key: str) -> dict[str, Any]:
    """The plotly figure of a page."""
    found = re.search(rf'id="figure-{key}-data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


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
