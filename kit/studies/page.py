"""HTML pages that need no network, and the page of a run: `write`, or `python -m kit.studies.page RUN [OUT]`."""

import base64
import re
import sys
from pathlib import Path

import plotly.graph_objects as go
import plotly.io
from markdown_it import MarkdownIt
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from kit import figures, files
from kit.errors import KitError
from kit.run.run import Run
from kit.run.text import markdown, markdown_table, render

FIGURES = (figures.evolution, figures.policy, figures.architecture, figures.cells)


def html(markdown: str, folder: Path | None = None) -> Markup:
    """Markdown as HTML with the pictures of `folder` inside, none by default; what is markup is shown as text."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    if folder is None:
        return Markup(parser.disable("image").render(markdown))
    data_uri = lambda source: f'src="{_data_uri(files.read(folder / source[1]))}"'
    return Markup(re.sub(r'src="([\w.+-]+\.png)"', data_uri, parser.render(markdown)))


def assemble(title: str, *parts: Markup | go.Figure) -> str:
    """One self-contained HTML page; figures are interactive, with a picture for readers without JavaScript."""
    body, how = list(parts), {"full_html": False, "include_plotlyjs": False, "validate": False}
    for i, part in enumerate(parts):
        if isinstance(part, go.Figure):
            drawn = Markup(plotly.io.to_html(part, **how, config={"responsive": True}, div_id=f"figure-{i}"))
            try:
                alt, uri = part.layout.title.text or "figure", _data_uri(figures.png(part))
                picture = Markup('<img alt="{}" src="{}">').format(alt, uri)
            except KitError as error:  # no browser
                picture = error
            body[i] = Markup("<div class=figure>{}<noscript>{}</noscript></div>").format(drawn, picture)
    plotlyjs = "" if body == list(parts) else Markup(get_plotlyjs())
    return render("kit.studies", "page.html.j2", title=title, body=body, plotlyjs=plotlyjs)


def _data_uri(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def of_run(run: Run) -> str:
    """The page of a run: its model card, or how far it is where it has none yet, and its figures."""
    title = f"{Path(run.config.dataset).name}: {run.config.method}, seed {run.config.seed}"
    newest = run.history.drop_duplicates("name", keep="last")[["name", "epoch", "value"]]
    text = f"# {markdown(title)}\n\n{figures.standing(run)}\n\n{markdown_table(newest)}"
    text = run.card() if run.finished else text
    parts = []
    for draw in FIGURES:
        try:
            parts.append(draw(run))
        except KitError as error:  # nothing is recorded yet
            parts.append(html(str(error)))
    return assemble(title, html(text), *parts)


def write(run: Run | str | Path, path: str | Path = "") -> Path:
    """Write the page of a run, or of the run directory at a path, to `path` (default: report.html in the run
    directory); return where. Raises KitError when there is no run, and when the page cannot be written."""
    run = run if isinstance(run, Run) else Run.load(run)
    path, text = files.place(path or run.path / "report.html"), of_run(run)
    files.write(path, text, "name another file, as in make report OUT=…")
    return path


if __name__ == "__main__":
    try:
        print(write(*sys.argv[1:3]))
    except (KitError, TypeError) as error:
        sys.exit(f"{error}\nusage: make report RUN=runs/… [OUT=page.html]")
