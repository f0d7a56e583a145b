"""The report and the trend page as a browser shows them: `make test-slow` where chromium is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autocompress.report.html import write_report
from autocompress.report.trend import trend_html

pytestmark = pytest.mark.slow

# Ids of figures without a drawing, or with one that has no mark in it.
EMPTY = """
Array.from(document.querySelectorAll("[data-figure]")).filter(place => {
  const drawing = place.querySelector("svg.main-svg");
  const box = drawing && drawing.getBoundingClientRect();
  const marks = place.querySelectorAll(
    ".points path, .lines path, .bars path, .heatmaplayer image, .js-line");
  return !drawing || box.width < 100 || box.height < 80 || !marks.length;
}).map(place => place.id)
"""
FIGURES = 'document.querySelectorAll("[data-figure]").length'
# How far the page is wider than the window.
OVERHANG = "document.documentElement.scrollWidth - innerWidth"


def night(name: str, verdict: str, quality: float, *, accepted: bool = True) -> dict[str, Any]:
    measured = {
        "quality": quality,
        "metric_unit": "%",
        "size_bytes": 3600,
        "latency_ms": 0.01,
        "latency_ratio": 0.36,
        "hypervolume": 0.47,
    }
    return {
        "study": "tiny",
        "night": name,
        "verdict": verdict,
        "accepted": accepted,
        "measured": measured,
        "error": "",
        "causes": [],
        "figures": [],
        "changed": [],
    }


@pytest.fixture(scope="module")
def report(finished: tuple[Path, Any]) -> Path:
    return write_report(finished[0])


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_drawn_without_a_word_to_the_network(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    browser.open(report, width, scheme)
    assert browser.run(FIGURES) >= 10
    assert browser.run(EMPTY) == []
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("file://")] == []
    assert browser.run(OVERHANG) <= 0
    assert report.stat().st_size < 6_000_000


def test_colours_follow_the_scheme(browser: Any, report: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        browser.open(report, scheme=scheme)
        found[scheme] = browser.run(
            "[getComputedStyle(document.body).backgroundColor,"
            ' getComputedStyle(document.querySelector(".xtick text")).fill]'
        )
    assert found["light"][0] == "rgb(255, 255, 255)"
    assert found["dark"][0] != found["light"][0]
    assert found["dark"][1] != found["light"][1]


def test_a_button_copies_and_says_so(browser: Any, report: Path) -> None:
    browser.open(report)
    # What the old way of copying would put into the clipboard.
    said = browser.run("""
    (() => {
      const button = document.querySelector("#front button[data-copy]");
      let copied = "";
      document.addEventListener("copy", () => { copied = document.activeElement.value; });
      Object.defineProperty(navigator, "clipboard", { value: undefined });
      button.click();
      return [copied, button.dataset.copy, button.textContent];
    })()
    """)
    assert said[0] == said[1]
    assert said[0].startswith("autocompress export ")
    assert said[2] == "copied"


def test_a_click_on_a_point_shows_how_to_write_it(browser: Any, report: Path) -> None:
    browser.open(report)
    point = browser.run("""
    (() => {
      const place = document.getElementById("figure-front");
      place.scrollIntoView();
      const box = place.querySelector(".points path").getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    })()
    """)
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        browser.call("Input.dispatchMouseEvent", type=kind, x=point[0], y=point[1], **button)
        browser.run("new Promise(done => setTimeout(done, 150))")
    text = browser.run('document.getElementById("picked").innerText')
    assert "--candidate" in text
    assert "-o model.acz" in text


def test_paper_holds_every_figure_and_opens_what_is_folded(browser: Any, report: Path) -> None:
    browser.open(report)
    browser.run('window.dispatchEvent(new Event("beforeprint"))')
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.run("new Promise(done => setTimeout(done, 300))")
    assert browser.run(EMPTY) == []
    assert browser.run('document.querySelectorAll("details:not([open])").length') == 0
    browser.run('window.dispatchEvent(new Event("afterprint"))')
    browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.complaints() == []
    assert len(browser.call("Page.printToPDF", printBackground=True)["data"]) > 100_000


def test_the_trend_page_is_drawn_too(browser: Any, tmp_path: Path) -> None:
    nights = [
        night("2026-11-01_020000", "baseline", 88.0),
        night("2026-11-02_020000", "better", 89.0),
        night("2026-11-03_020000", "worse", 61.0, accepted=False),
    ]
    page = tmp_path / "trend.html"
    page.write_text(trend_html(nights))
    browser.open(page)
    assert browser.run(FIGURES) == 4
    assert browser.run(EMPTY) == []
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("file://")] == []
