"""Reports of many runs on one data set: Markdown, one self-contained HTML page, CSV, LaTeX, pictures and a summary of
the runs, from which `python -m kit.studies.report FOLDER` writes all reports of a folder once more."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kit import figures, files
from kit.config import Config
from kit.errors import KitError, unknown
from kit.run import store
from kit.run.run import Run
from kit.run.text import csv, latex, render
from kit.search.progress import say
from kit.studies import landscape, limits, page, study, tables

# `gather`: a report's pictures (ending of the file's name, caption, figure), and what it keeps besides the runs;
# `contents`: what fills TEMPLATE, and the rows for the CSV file
KINDS = {"ablation": study, "methods": study, "limits": limits, "landscape": landscape}


def write(kind: str, runs: Sequence[Run], folder="reports", name="", note="", formats=(), **options: Any) -> Path:
    """Write a report from finished runs of one data set; returns the Markdown's path. kind: one of KINDS. name: of the
    files, without an ending. note: a sentence about the circumstances. formats: of pictures beside PNG. options: `cost`
    for limits, `measured` for landscape. Raises KitError where there is nothing to report, or several data sets."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown("report", kind, KINDS)
    runs = [run if isinstance(run, Run) else Run.load(run) for run in runs]
    once = {run.metrics.get("run", run.path): run for run in runs}
    if len(once) < len(runs):
        say(f"{len(runs) - len(once)} of {len(runs)} runs are given twice: each counts once")
    runs, datasets = list(once.values()), {run.config.dataset for run in runs}
    if len(datasets) != 1:
        found = ", ".join(sorted(datasets)) or "no finished runs: see the failures that the sweep listed"
        raise KitError(f"a report is about one data set; there are {found}")
    drawn, more = KINDS[kind].gather(kind, runs, **options)
    usual = "-".join([kind, Path(*datasets).name, *([more["cost"]] if "cost" in more else [])])
    usual = re.sub(r"[^\w.+-]+", "_", usual)  # a data set's folder may have any name
    path = files.place(folder) / f"{name or usual}.json"
    pictures = {path.with_name(f"{path.stem}{ending}.png"): figure for ending, _, figure in drawn}
    saved = figures.save_all(pictures, also=formats)
    captions = [(picture.name, text) for picture, (_, text, _) in zip(pictures, drawn)] if saved else []
    elsewhere = {"root": None, "out": Config.model_fields["out"].default, "plugins": None}  # no paths of this machine
    named = lambda config: {k: Path(v).name for k in ("dataset", "genotype", "policy") if (v := getattr(config, k))}
    configs = [run.config.model_dump() | elsewhere | named(run.config) for run in runs]
    metrics = [run.metrics | tables.moved(run) for run in runs]
    about = [{"provenance": run.provenance, "warnings": list(run.warnings)} for run in runs]
    rows = [{"config": c, "metrics": m, **kept} for c, m, kept in zip(configs, metrics, about)]
    store.write_json(path, {"study": kind, "note": note, "pictures": captions, **more, "runs": rows})
    return rewrite(path)


def rewrite(path: str | Path) -> Path:
    """The text and tables of a report once more, from the summary of its runs and the pictures that lie beside it: the
    same bytes wherever it is done. Returns the Markdown's path; raises KitError for what is no such summary."""
    path = files.place(path)
    kept = store.read_json(path)
    with files.reading(path, f"is no summary of a report's runs, of study {', '.join(KINDS)}"):
        kind, rows = KINDS[kept["study"]], kept["runs"]
        for row in rows:
            row["config"] = Config.model_construct(**row["config"])  # not validated: the data may lie elsewhere
        runs = [SimpleNamespace(**row) for row in rows]
        found, config = kind.contents(kept, runs), runs[0].config
        found |= {"kept": kept, "runs": runs, "config": config, "changes": changes(config)}
        text = render("kit.studies", kind.TEMPLATE, **found)
    words = {"caption": latex(f"{found['title']}."), "label": f"tab:{path.stem}"}
    files.write(path.with_suffix(".tex"), found["table"].to_latex(index=False, escape=True, **words))
    files.write(path.with_suffix(".csv"), csv(found["rows"]))
    files.write(path.with_suffix(".html"), page.assemble(found["title"], page.html(text, path.parent)))
    files.write(path.with_suffix(".md"), text)
    return path.with_suffix(".md")


def changes(config: Config) -> dict[str, Any]:
    """The fields whose values differ from what the configuration's preset and method fill in."""
    usual = Config(dataset="digits", method=config.method, preset=config.preset).model_dump()
    apart = {"dataset", "method", "preset", "seed", "out", "root", "device"}
    return {name: value for name, value in config.model_dump().items() if name not in apart and value != usual[name]}


if __name__ == "__main__":
    for summary in sorted(Path(sys.argv[1]).glob("*.json")):
        print(rewrite(summary))
