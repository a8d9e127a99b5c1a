"""The page's style sheet: one column on a phone, several on a wide screen, dark where the reader's device is."""

STYLE = """
:root { --ink: #1c1e21; --soft: #5f6670; --line: #d8dce1; --paper: #ffffff; --band: #f4f6f8; --mark: #1f6feb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a0a7b0; --line: #3a4048; --paper: #16181b; --band: #1f2327; --mark: #6ea8fe; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5rem; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 32px 0 8px; border-bottom: 1px solid var(--line); padding-bottom: 4px; }
p, figcaption { color: var(--soft); max-width: 75ch; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--paper); }
table.facts td { text-align: left; overflow-wrap: anywhere; }
td.best { font-weight: 700; }
tr:last-child td, tr:last-child th { border-bottom: 0; }
table.confusion td { padding: 3px 6px; font-size: 0.8rem; border: 1px solid var(--paper); color: #111; }
.numbers { display: flex; flex-wrap: wrap; gap: 12px; padding: 0; margin: 12px 0; list-style: none; }
.numbers li { background: var(--band); border-radius: 8px; padding: 8px 14px; }
.numbers b { display: block; font-size: 1.3rem; }
.charts { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
figure { margin: 0; }
svg { width: 100%; height: auto; display: block; background: var(--band); border-radius: 8px; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .name { fill: var(--ink); font-weight: 600; font-size: 12px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .stage { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; }
.panels { display: grid; gap: 6px; margin: 8px 0; }
.panels { grid-template-columns: repeat(auto-fill, minmax(min(240px, 48%), 1fr)); }
.panels img { width: 100%; height: auto; display: block; image-rendering: auto; border-radius: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 14px; padding: 0; list-style: none; font-size: 0.9rem; }
.legend i { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 6px; }
.legend i { vertical-align: -2px; border: 1px solid var(--line); }
summary { cursor: pointer; color: var(--mark); padding: 6px 0; }
"""
