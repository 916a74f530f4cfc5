"""HTML that needs no network: a document with plotly.js inside, figures with a picture for readers without JavaScript,
tables that sort.

Whatever comes from a run's files is escaped here: a class called <script> is text.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from kit.errors import KitError
from kit.figures.show import png

LIMIT = 10_000_000  # bytes of a page
CONFIG = {"displaylogo": False, "responsive": True}


class Raw(str):
    """Text that is HTML already."""


def text(value: Any) -> str:
    return value if isinstance(value, Raw) else html.escape(str(value))


# ---- tables --------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[Any]], head: Sequence[Any] = ()) -> Raw:
    """A plain table; without `head`, the first column names the rows."""
    top = "<thead><tr>" + "".join(f"<th scope=col>{text(cell)}</th>" for cell in head) + "</tr></thead>" if head else ""
    body = ""
    for row in rows:
        first = f"<td>{text(row[0])}</td>" if head else f"<th scope=row>{text(row[0])}</th>"
        body += f"<tr>{first}{''.join(f'<td>{text(cell)}</td>' for cell in row[1:])}</tr>"
    return Raw(f"<div class=wide><table>{top}<tbody>{body}</tbody></table></div>")


@dataclass(frozen=True)
class Cell:
    """A cell that shows `shown` and sorts by `value`; both None where nothing is known."""

    shown: str | None
    value: float | None = None


def sortable(rows: Sequence[Sequence[Cell]], head: Sequence[str]) -> Raw:
    """A table that sorts at a click on a column's head and filters below it: words, or a number after < <= > >= =; !
    for not.

    Without JavaScript (a viewer, an untrusted notebook) it is a plain table. It takes its colours from where it stands.
    """
    body = "".join("<tr>" + "".join(_sortable_cell(cell) for cell in row) + "</tr>" for row in rows)
    top = "".join(f"<th scope=col>{text(name)}</th>" for name in head)
    return Raw(
        f"<style>{TABLE_STYLE}</style><div class=wide><table class=kit-sortable><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
        f"</div><script>{TABLE_SCRIPT}</script>"
    )


def _sortable_cell(cell: Cell) -> str:
    if cell.shown is None:
        return "<td>–</td>"
    number = cell.value is not None and math.isfinite(cell.value)
    return (f"<td class=n data-v={cell.value:.12g}>" if number else "<td>") + f"{text(cell.shown)}</td>"


# The class is doubled to outweigh a notebook's own styles of tables.
TABLE_STYLE = """
.wide{overflow-x:auto}
.kit-sortable.kit-sortable{border-collapse:collapse;font-size:13px}
.kit-sortable.kit-sortable th,.kit-sortable.kit-sortable td{border:1px solid rgba(128,128,128,.35);padding:.25rem .5rem;text-align:left}
.kit-sortable.kit-sortable tbody td:first-child{white-space:nowrap}
.kit-sortable.kit-sortable td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.kit-sortable.kit-sortable thead th{background:rgba(128,128,128,.14);vertical-align:bottom}
.kit-sortable.kit-sortable thead button{all:unset;cursor:pointer;font-weight:600}
.kit-sortable.kit-sortable thead button:focus-visible,.kit-sortable.kit-sortable thead input:focus-visible{outline:2px solid #56b4e9}
.kit-sortable.kit-sortable thead button::after{content:" \\2195";opacity:.45}
.kit-sortable.kit-sortable th[aria-sort=ascending] button::after{content:" \\2191";opacity:1}
.kit-sortable.kit-sortable th[aria-sort=descending] button::after{content:" \\2193";opacity:1}
.kit-sortable.kit-sortable thead input{box-sizing:border-box;width:100%;min-width:3.5em;font:inherit;color:inherit;background:transparent;
border:1px solid rgba(128,128,128,.35)}
.kit-sortable.kit-sortable caption{caption-side:bottom;text-align:left;opacity:.75;padding-top:.3rem}
"""

# Empty cells come last in both directions. The script may run more than once on a page (two tables of a notebook): each
# table once.
TABLE_SCRIPT = """
for (const table of document.querySelectorAll("table.kit-sortable:not([data-ready])")) {
  table.dataset.ready = "1";
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, c) => row.cells[c].dataset.v !== undefined ? Number(row.cells[c].dataset.v)
    : row.cells[c].textContent === "–" ? null : row.cells[c].textContent.toLowerCase();
  const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const inputs = heads.map((head, c) => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = head.textContent; button.title = "sort";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const known = rows.filter(row => value(row, c) !== null), rest = rows.filter(row => value(row, c) === null);
      known.sort((a, b) => order(value(a, c), value(b, c)) * (down ? -1 : 1));
      body.append(...known, ...rest);
    });
    return Object.assign(document.createElement("input"), {type: "search", ariaLabel: "filter " + button.textContent,
      placeholder: rows.some(row => row.cells[c].dataset.v !== undefined) ? "> 0" : "filter"});
  });
  const fits = (row, c, asked) => {
    const number = asked.match(/^(<=|>=|<|>|=)\\s*(-?[\\d.,]+(?:e-?\\d+)?)$/i), has = value(row, c);
    if (number) {
      const limit = Number(number[2].replaceAll(",", ""));
      return typeof has === "number" && {"<": has < limit, "<=": has <= limit, ">": has > limit, ">=": has >= limit, "=": has === limit}[number[1]];
    }
    if (/^[<>=]/.test(asked)) return true;  // still being typed
    const inside = row.cells[c].textContent.toLowerCase();
    return asked.startsWith("!") ? asked.length < 2 || !inside.includes(asked.slice(1)) : inside.includes(asked);
  };
  const caption = table.createCaption(), line = table.tHead.insertRow();
  const filter = () => {
    const asked = inputs.map(input => input.value.trim().toLowerCase());
    for (const row of rows) row.hidden = !asked.every((words, c) => !words || fits(row, c, words));
    caption.textContent = rows.filter(row => !row.hidden).length + " of " + rows.length + " shown. A head sorts; below it: words, "
      + "!words, or a number after < <= > >= =";
  };
  for (const input of inputs) {
    line.insertCell().append(input);
    input.addEventListener("input", filter);
    input.addEventListener("keydown", event => event.stopPropagation());  // not JupyterLab's shortcuts
  }
  filter();
}
"""


# ---- figures -------------------------------------------------------------------------------------


class Picture:
    """A figure on a page: interactive, with its PNG where no JavaScript runs; or, where that would make the page too
    large, the PNG alone.
    """

    def __init__(self, figure: go.Figure, width: int = 1160):
        self.height = int(figure.layout.height or 450)
        self.name = figure.layout.title.text or "figure"
        self.json = figure.to_json(validate=False)  # plotly writes < as \\u003c, so there is no </script> in it
        try:
            data = base64.b64encode(png(figure, width=width)).decode()
            self.image = f'<img alt="{html.escape(self.name)}" src="data:image/png;base64,{data}">'
        except KitError as error:
            self.image = f"<p class=note>No static picture of this figure: {text(error)}</p>"

    @property
    def interactive(self) -> str:
        return (
            f'<div class=figure><div class=plot style="height:{self.height}px"><noscript>{self.image}</noscript></div>'
            f'<script type="application/json">{self.json}</script></div>'
        )

    @property
    def still(self) -> str:
        size = len(self.json) / 1e6
        why = f"A picture only: the interactive figure ({size:.1f} MB) would make the page too large."
        return f"<div class=figure>{self.image}</div><p class=note>{why}</p>"


def document(title: str, blocks: Sequence[Raw | Picture], limit: int = LIMIT) -> str:
    """One self-contained page of at most `limit` bytes. The largest figures give up their interactive form first.

    Raises KitError when even their pictures are too much.
    """
    shown = [block.interactive if isinstance(block, Picture) else text(block) for block in blocks]
    largest = sorted((i for i, block in enumerate(blocks) if isinstance(block, Picture)), key=lambda i: -len(shown[i]))
    page = _assembled(title, shown)
    for i in largest:
        if len(page.encode()) <= limit:
            break
        shown[i] = blocks[i].still
        page = _assembled(title, shown)
    if len(page.encode()) > limit:
        raise KitError(
            f"the page has {len(page.encode()) / 1e6:.1f} MB even with pictures alone, more than {limit / 1e6:.0f} MB: show fewer figures"
        )
    return page


def _assembled(title: str, shown: Sequence[str]) -> str:
    scripts = (
        f"<script>{get_plotlyjs()}</script><script>{DRAW}</script>"
        if any("<div class=plot" in block for block in shown)
        else ""
    )
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(shown)
        + f"\n{scripts}</body></html>\n"
    )


DRAW = """
for (const holder of document.querySelectorAll(".figure")) {
  const plot = holder.querySelector(".plot"), spec = holder.querySelector("script");
  if (!plot || !spec) continue;
  plot.replaceChildren();
  Plotly.newPlot(plot, {...JSON.parse(spec.textContent), config: %s});
}
""" % json.dumps(CONFIG)

# Figures keep their white paper in the dark theme, as in a dark JupyterLab: their colours were chosen on white.
STYLE = """
:root{color-scheme:light dark;--ink:#222;--paper:#fff;--soft:#f3f4f6;--rule:#d5d8dc;--link:#005a9c;--bad:#b3261e;--badsoft:#fdecea;--wait:#8a5a00;
--waitsoft:#fff4dc}
@media (prefers-color-scheme:dark){:root{--ink:#e6e6e6;--paper:#16181c;--soft:#23262b;--rule:#3b4047;--link:#7cc4ff;--bad:#ff9d94;--badsoft:#3a1f1d;
--wait:#ffcf70;--waitsoft:#362a12}}
body{font:16px/1.5 system-ui,sans-serif;max-width:1180px;margin:1.5rem auto;padding:0 10px;color:var(--ink);background:var(--paper)}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--rule);padding-bottom:.2rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem}a{color:var(--link)}
table{border-collapse:collapse;font-size:14px}td,th{border:1px solid var(--rule);padding:.25rem .6rem;text-align:left;vertical-align:top}
th{background:var(--soft);font-weight:600}.wide{overflow-x:auto}
code,pre{font-family:ui-monospace,DejaVu Sans Mono,monospace;font-size:.92em}code{background:var(--soft);padding:0 .2em;overflow-wrap:anywhere}
pre{background:var(--soft);padding:.7rem .9rem;overflow-x:auto;border-radius:6px}pre code{padding:0}
.note{opacity:.8;font-size:14px}.banner{padding:.6rem .9rem;border-radius:6px;border:1px solid}.banner p{margin:.2rem 0}
.failed{color:var(--bad);background:var(--badsoft)}.unfinished{color:var(--wait);background:var(--waitsoft)}
.figure{background:#fff;color:#222;border-radius:8px;padding:4px;margin:.6rem 0;border:1px solid var(--rule)}.figure img{display:block;max-width:100%}
.columns{display:flex;flex-wrap:wrap;gap:1.5rem;align-items:flex-start}details>summary{cursor:pointer}
"""
