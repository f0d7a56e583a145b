"""Style of the report pages: light, dark and print in one sheet, no outside request."""

from __future__ import annotations

# Blocks every request, so that a report opened years later or behind a firewall looks the same.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d2733; --soft: #5a6775;
  --line: #d9dfe6; --grid: #e8ecf0; --panel: #f6f8fa; --accent: #1f66b5; --good: #1c7a4f;
  --good-ground: #e6f4ec; --bad: #b3263a; --bad-ground: #fbe9eb; --warn: #8a5a00;
  --warn-ground: #fdf3df; }
@media (prefers-color-scheme: dark) { :root { --ground: #14191f; --ink: #e3e8ee; --soft: #9aa7b5;
  --line: #323c47; --grid: #28313b; --panel: #1b222a; --accent: #6fb0f5; --good: #6fd0a0;
  --good-ground: #17332a; --bad: #ff8d9b; --bad-ground: #3b1d23; --warn: #f0c36b;
  --warn-ground: #382c14; } }
@media print { :root { color-scheme: light; --ground: #ffffff; --ink: #111111; --soft: #444444;
  --line: #bbbbbb; --grid: #dddddd; --panel: #ffffff; --accent: #1f4f8a; --good: #1c5f40;
  --good-ground: #ffffff; --bad: #8f1d2d; --bad-ground: #ffffff; --warn: #6b4600;
  --warn-ground: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 10px; padding-bottom: 6px; border-bottom:
  1px solid var(--line); }
h3 { font-size: 15px; margin: 22px 0 2px; } figure h3 { margin-top: 0; }
p { margin: 6px 0; } .soft, figcaption { color: var(--soft); font-size: 13.5px; }
nav { margin: 12px 0 0; font-size: 13.5px; } nav a { color: var(--accent); margin-right: 14px; }
.verdict { margin: 18px 0 14px; padding: 12px 16px; border-radius: 8px; border-left: 5px solid;
  font-size: 17px; font-weight: 600; }
.met { background: var(--good-ground); border-color: var(--good); color: var(--good); }
.missed { background: var(--bad-ground); border-color: var(--bad); color: var(--bad); }
.open, .unfinished { background: var(--warn-ground); border-color: var(--warn);
  color: var(--warn); }
ul.plain { margin: 10px 0; padding-left: 20px; } ul.plain li { margin: 4px 0; }
.note { background: var(--warn-ground); border-left: 4px solid var(--warn); border-radius: 6px;
  padding: 8px 14px; margin: 12px 0; } .note ul { margin: 4px 0; padding-left: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px;
  margin: 14px 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile .figure { font-size: 24px; font-weight: 650; line-height: 1.3; }
.story { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 4px 32px; }
.story h3 { margin: 16px 0 4px; } .steps p { margin: 8px 0 0; }
.key span { margin-right: 10px; white-space: nowrap; } .key span span { margin: 0; }
ul.bare { list-style: none; margin: 0; padding: 0; }
dl.words { columns: 2; column-gap: 32px; } dl.words div { break-inside: avoid; margin: 0 0 8px; }
dl.words dt { font-weight: 600; } dl.words dd { margin: 0; color: var(--soft); }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); }
.plot { overflow-x: auto; overflow-y: hidden; }
.picked { border: 1px solid var(--line); border-radius: 8px; padding: 4px 14px; margin: 8px 0; }
.picked p { margin: 6px 0; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 24px; }
figure { margin: 14px 0 0; min-width: 0; break-inside: avoid; }
figure.wide { grid-column: 1 / -1; }
.empty { color: var(--soft); border: 1px dashed var(--line); border-radius: 8px; padding: 18px; }
.scroll { overflow: auto; max-height: 460px; border: 1px solid var(--line); border-radius: 8px;
  margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 8px; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
thead th { position: sticky; top: 0; background: var(--panel); color: var(--soft);
  font-weight: 600; white-space: nowrap; z-index: 1; }
td.n, th.n { text-align: right; white-space: nowrap; } td.id { white-space: nowrap; }
td.name { min-width: 9em; } td.text { min-width: 12em; overflow-wrap: break-word; }
td.screen { white-space: nowrap; } td .soft { font-size: inherit; }
tbody th { min-width: 9em; }
tbody tr:last-child :is(th, td) { border-bottom: 0; }
tr.best td { background: var(--good-ground); } .yes { color: var(--good); font-weight: 600; }
.no { color: var(--bad); font-weight: 600; }
code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
.command { display: flex; align-items: center; gap: 10px; background: var(--panel);
  border: 1px solid var(--line); border-radius: 6px; padding: 6px 6px 6px 12px; margin: 8px 0; }
.command code { flex: 1; overflow-wrap: anywhere; }
button { font: inherit; font-size: 12.5px; padding: 2px 10px; color: var(--accent);
  cursor: pointer; background: transparent; border: 1px solid var(--line); border-radius: 5px;
  white-space: nowrap; }
button:focus-visible, a:focus-visible { outline: 2px solid var(--accent); }
.js-plotly-plot :is(.xtick, .ytick, .textpoint, .cbaxis, .g-xtitle, .g-ytitle, .legend,
  .infolayer .annotation, .colorbar)
  text, .js-plotly-plot .heatmap-label text { fill: var(--ink) !important; }
.js-plotly-plot .gridlayer path { stroke: var(--grid) !important; }
.js-plotly-plot :is(.xlines-above, .ylines-above, path.xtick, path.ytick) {
  stroke: var(--soft) !important; }
.plot .modebar { opacity: 0; } .plot:is(:hover, :focus-within) .modebar { opacity: 1; }
.js-plotly-plot .legend .bg, .js-plotly-plot .annotation .bg { fill: transparent !important; }
@media (max-width: 760px) { .grid, .story { grid-template-columns: minmax(0, 1fr); }
  dl.words { columns: 1; } main { padding: 18px 14px 48px; } nav a { display: inline-block; } }
@media print { body { font-size: 11px; } main { max-width: none; padding: 0; }
  nav, button, .screen, .modebar-container { display: none !important; }
  .scroll { max-height: none; overflow: visible; border: 0; } .plot { overflow: visible; }
  table { font-size: 9px; } th, td { padding: 3px 5px; min-width: 0 !important; }
  td.id:not(:first-child) { white-space: normal; } thead th { position: static; }
  tr, .verdict, .tile { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .grid { grid-template-columns: minmax(0, 1fr); }
  code { font-size: 9px; } .tile .figure { font-size: 16px; } h2 { margin-top: 24px; } }
"""
