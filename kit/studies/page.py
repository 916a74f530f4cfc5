"""One self-contained HTML page of a run: `page.write(run)`, or `python -m kit.studies.page RUN [OUT]`."""

import sys
from pathlib import Path

from kit import figures
from kit.errors import KitError
from kit.run.run import Run
from kit.studies import render

FIGURES = (figures.curves, figures.evolution, figures.policy, figures.architecture, figures.cells)


def write(run: Run | str | Path, path: str | Path = "") -> Path:
    """Write the page of a run, or of the run directory at a path, to `path` (default: report.html in the run
    directory); return where. Raises KitError when there is no run, and when the page cannot be written."""
    run = run if isinstance(run, Run) else Run.load(run)
    mend = f"name another file, as in make report RUN={run.path} OUT=report.html"
    return render.write_text(Path(path or run.path / "report.html").expanduser(), page(run), mend=mend)


def page(run: Run) -> str:
    """The page as text: the model card, or how far the run is that has none yet, and the run's figures."""
    title = f"{Path(run.config.dataset).name}: {run.config.method}, seed {run.config.seed}"
    if run.finished:
        text = run.card()
    else:
        newest = run.history.drop_duplicates("name", keep="last")[["name", "epoch", "value"]]
        goes_on = f"`kit.search(kit.Run.load({str(run.path)!r}).config)` goes on with it."
        text = f"# {title}\n\n{figures.standing(run)}\n\n{goes_on}\n\n{render.markdown_table(newest)}"
    parts = []
    for draw in FIGURES:
        try:
            parts.append(draw(run))
        except KitError as error:  # nothing is recorded yet
            parts.append(render.html(str(error)))
    return render.page(title, render.html(text), *parts)


if __name__ == "__main__":
    try:
        print(write(*sys.argv[1:3]))
    except (KitError, TypeError) as error:
        sys.exit(f"{error}\nusage: make report RUN=runs/… [OUT=page.html]")
