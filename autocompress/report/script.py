"""Script of the report pages: draws the figures, copies lines, prepares for paper."""

from __future__ import annotations

SCRIPT = """
(function () {
  "use strict";
  // Named one by one: the default bar of plotly.js offers to send the data away.
  var config = { displaylogo: false, responsive: true, displayModeBar: "hover",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };
  // Every figure with the width that the page gave it.
  var drawn = [];
  document.querySelectorAll("[data-figure]").forEach(function (place) {
    var source = document.getElementById(place.id + "-data");
    var figure = JSON.parse(source.textContent);
    Plotly.newPlot(place, figure.data, figure.layout, config);
    drawn.push(place);
  });
  // A point that is clicked says how to write it as a file: its first datum is its name.
  var panel = document.getElementById("picked");
  function picked(data) {
    panel.querySelector("p").textContent = "Candidate " + data[0] + ": copy a line to write it.";
    panel.querySelectorAll("[data-line]").forEach(function (line, index) {
      line.querySelector("code").textContent = data[index + 1];
      line.querySelector("button").dataset.copy = data[index + 1];
    });
    panel.querySelector("div").hidden = false;
  }
  drawn.forEach(function (place) {
    place.on("plotly_click", function (event) {
      var data = event.points[0].customdata;
      if (panel && place.closest("#front") && data) { picked(data); }
    });
  });
  // Paper is narrower than most windows: redraw at a page's width, then at the window's again.
  var folded = [];
  window.addEventListener("beforeprint", function () {
    folded = Array.from(document.querySelectorAll("details:not([open])"));
    folded.forEach(function (part) { part.open = true; });
    drawn.forEach(function (place) {
      var layout = Object.assign({}, place.layout, { width: 680, autosize: false });
      Plotly.newPlot(place, place.data, layout, { staticPlot: true });
    });
  });
  window.addEventListener("afterprint", function () {
    folded.forEach(function (part) { part.open = false; });
    drawn.forEach(function (place) {
      var layout = Object.assign({}, place.layout, { width: undefined, autosize: true });
      Plotly.newPlot(place, place.data, layout, config);
    });
  });
  function say(button, text) {
    var before = button.dataset.label || button.textContent;
    button.dataset.label = before;
    button.textContent = text;
    setTimeout(function () { button.textContent = before; }, 1400);
  }
  function copyOld(text) {
    var area = document.createElement("textarea");
    area.value = text;
    document.body.appendChild(area);
    area.select();
    var done = document.execCommand("copy");
    area.remove();
    return done;
  }
  document.addEventListener("click", function (event) {
    var button = event.target.closest("button[data-copy]");
    if (!button) { return; }
    var text = button.dataset.copy;
    var old = function () { say(button, copyOld(text) ? "copied" : "select and copy"); };
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(text).then(function () { say(button, "copied"); }, old);
    } else { old(); }
  });
})();
"""
