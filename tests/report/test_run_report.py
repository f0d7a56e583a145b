"""The report of a run: one small page that says what there is, whatever is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fabricated_run import NAMES, fabricate, page, result

from autocompress.errors import StorageError
from autocompress.report.data import load_run
from autocompress.report.figures import FIGURES
from autocompress.report.html import write_report
from autocompress.report.summary import sentences, verdict


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
