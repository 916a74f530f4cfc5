"""Text of every format: Jinja templates, one table writer and one escape function for Markdown and LaTeX each, and
figures inside HTML pages that need no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from markdown_it import MarkdownIt
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from kit import figures
from kit.errors import KitError
from kit.run import store

FIGURES_LIMIT = 5_000_000  # characters of interactive figures on one page; plotly.js takes another 4.6 MB
LATEX = str.maketrans({c: rf"\{c}" for c in "%&_#${}"} | {"±": r"$\pm$", "…": r"\ldots{}", "<": "$<$", "–": "--"})


def markdown_escape(text: Any) -> str:
    """One line that fits a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def latex_escape(text: Any) -> str:
    return str(text).translate(LATEX)


def markdown_table(table: pd.DataFrame) -> str:
    """A table of strings in Markdown, without its index."""
    head, *rows = ("| " + " | ".join(map(markdown_escape, row)) + " |" for row in [table.columns, *table.values])
    return "\n".join([head, "|" + "---|" * table.shape[1], *rows])


def latex_table(table: pd.DataFrame, caption: str, label: str) -> str:
    r"""A table of strings for a paper, ready for \input; needs the package booktabs."""
    style = table.rename(columns=latex_escape).style.hide(axis="index").format(latex_escape)
    alignment = "l" + "r" * (table.shape[1] - 1)
    return style.to_latex(column_format=alignment, hrules=True, caption=latex_escape(caption), label=label)


def number(value: Any) -> str:
    """Any value as text, numbers with few digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {of}" for name, of in value.items())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("kit.studies"),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    undefined=jinja2.ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters |= {
    "table": markdown_table,
    "cell": markdown_escape,
    "each": lambda runs, name: ", ".join(sorted({str(run.provenance.get(name, "?")) for run in runs})),
    "name": lambda path: Path(path).name,
    "thousands": lambda n: f"{n:,}",
    "number": number,
}
ENVIRONMENT.tests["search"] = lambda text, pattern: re.search(pattern, str(text)) is not None


def render(template: str, **values: Any) -> str:
    """A template of kit/studies/templates; what is put into an .html.j2 is escaped unless it is Markup."""
    return ENVIRONMENT.get_template(template).render(values)


def write_text(path: Path, text: str, **mend: str) -> Path:
    store.atomically(path, lambda p: p.write_text(text, encoding="utf-8"), **mend)
    return path


def html_report(markdown: str, folder: Path) -> str:
    """A Markdown report as one HTML page with the pictures of `folder` inside."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    for path in folder.glob("*.png"):
        if f'src="{path.name}"' in body:
            body = body.replace(f'src="{path.name}"', f'src="{_data_uri(path.read_bytes())}"')
    return render("report.html.j2", title=markdown.splitlines()[0].lstrip("# "), body=Markup(body))


# ---- figures -------------------------------------------------------------------------------------


def save_all(shown: Sequence[tuple[str, str, go.Figure]], folder: Path, stem: str) -> list[tuple[str, str]]:
    """Write <stem>-<key>.png of each (key, caption, figure); returns (file, caption); none without a browser."""
    paths = {folder / f"{stem}{key and f'-{key}'}.png": (caption, figure) for key, caption, figure in shown}
    drawn = figures.save_all({path: figure for path, (_, figure) in paths.items()}, width=1200)
    return [(path.name, caption) for path, (caption, _) in paths.items()] if drawn else []


def interactive(shown: Sequence[go.Figure]) -> list[Markup]:
    """Figures for one page, in order: interactive while they fit FIGURES_LIMIT, with a picture for readers without
    JavaScript; those that do not fit as a picture alone. The template base.html.j2 brings plotly.js."""
    found, left = [], FIGURES_LIMIT
    for i, figure in enumerate(shown):
        html = plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, validate=False, div_id=f"figure-{i}")
        try:
            uri = _data_uri(figures.png(figure))
            picture = Markup('<img alt="{}" src="{}">').format(figure.layout.title.text or "figure", uri)
        except KitError as error:
            picture = Markup("<p class=note>{}</p>").format(error)
        if len(html) <= left:
            left -= len(html)
            found.append(Markup(html) + Markup("<noscript>{}</noscript>").format(picture))
        else:
            found.append(picture + Markup("<p class=note>Too large to be interactive here.</p>"))
    return found


def document(template: str, **values: Any) -> str:
    """`render` for a page that holds figures."""
    return render(template, plotlyjs=Markup(get_plotlyjs()), **values)


def _data_uri(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()
