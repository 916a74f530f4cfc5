"""Text of others in documents of ours: Jinja's templates, and one way of escaping for each format."""

import re
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}


def markdown(text: Any) -> str:
    """One line without markup of HTML, links, pictures and cells of a table; emphasis and `code` stay."""
    line = " ".join(str(text).splitlines()).replace("|", "\\|").replace("](", "]\\(")
    return re.sub(r"<(?=[\w/!?])", "&lt;", re.sub(r"&(?=[#\w])", "&amp;", line))


def latex(text: Any) -> str:
    return "".join(LATEX.get(letter, letter) for letter in str(text))


def csv(table: pd.DataFrame) -> str:
    """A table as CSV in which no text is a formula to a spreadsheet."""
    plain = lambda cell: f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell
    return table.map(plain).to_csv(index=False)


def markdown_table(table: pd.DataFrame) -> str:
    """A table in Markdown, without its index; every cell is one line."""
    line = lambda cells: "| " + " | ".join(map(markdown, cells)) + " |"
    return "\n".join([line(table.columns), "|" + "---|" * table.shape[1], *map(line, table.values)])


def render(package: str, template: str, **values: Any) -> str:
    """A template of the package. All values are escaped for its format, HTML or Markdown, unless they are Markup."""
    way = escape if template.endswith(".html.j2") else markdown
    looks = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined, "autoescape": True}
    escaped = lambda value: value if isinstance(value, Markup) else Markup(way(value))
    environment = jinja2.Environment(loader=jinja2.PackageLoader(package), finalize=escaped, **looks)
    environment.filters["table"] = lambda table: Markup(markdown_table(table))
    return environment.get_template(template).render(values) + "\n"
