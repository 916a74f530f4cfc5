"""Reports on many runs of one data set: Markdown, one self-contained HTML page, CSV and pictures. What each one asks is
in `STUDIES`.
"""

from __future__ import annotations

import base64
import html
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kit import figures
from kit.config import Config
from kit.errors import KitError
from kit.lab import sweep
from kit.methods import METHODS, PRESETS
from kit.run import store
from kit.run.run import Run
from kit.studies import summaries
from kit.studies.compare import compare as compare
from kit.studies.summaries import Record
from kit.studies.tables import REFERENCE, findings, latex_table, markdown_table, per_run, summarize


@dataclass(frozen=True)
class Study:
    """title: of the report, and in part, where some of its rows are left out; methods: its rows; shown: those whose run
    of the first seed is
    shown in detail; budget: a sentence on what the methods have in common, with the configuration's fields in
    braces."""

    title: str
    in_part: str
    methods: tuple[str, ...]
    shown: tuple[str, ...]
    budget: str

    def titled(self, runs: Sequence[Run | Record]) -> str:
        return self.title if {run.config.method for run in runs}.issuperset(self.methods) else self.in_part


STUDIES: Mapping[str, Study] = {
    # DHA's Table 3, and the rows every ablation needs beside it
    "ablation": Study(
        "Joint against sequential search",
        "Joint search beside other methods",
        ("dha", "seq-dha", "nas+da", "seq-nas+da", "nas+hpo", "seq-nas+hpo", "ista", "random", "plain"),
        ("dha",),
        "a sequential method searches for {search_epochs} of them and trains what it found from scratch in the others; a joint one searches "
        "for at most {search_epochs} and goes on with the same weights.",
    ),
    "methods": Study(
        "Four systems side by side",
        "Methods side by side",
        (
            "dha",
            "diffautoml",
            "daas",
            "autohas",
            "ista",
            "dsnas",
            "gdas",
            "darts",
            "snas",
            "daas-independent",
            "autohas-phase",
            "autohas-hpo",
            "autohas-diff",
            "random-search",
            "bayesian",
            "hgd",
            "ift",
            "random",
            "plain",
        ),
        ("dha", "diffautoml", "daas", "autohas"),
        "a method that retrains searches for {search_epochs} of them and trains what it found from scratch in the others; the others search for at "
        "most {search_epochs} and go on with the same weights; trials share those {search_epochs}. An epoch's cost differs: two-level steps "
        "pass over {children} children and probe {arch_samples} architecture(s), which the seconds show. Cells, choice blocks and "
        "MobileNetV2 blocks differ in size, which the parameters and multiply-adds show.",
    ),
}

# reports of another form: the module whose `rewrite` makes them again
OTHERS: Mapping[str, str] = {"limits": "kit.studies.tradeoff", "landscape": "kit.studies.landscape.report"}


def write(
    study: str, runs: Sequence[Run], folder: str | Path = "reports", name: str | None = None, note: str = ""
) -> Path:
    """Write <study>-<dataset>.md, .html, .csv, .tex, pictures and .json (what `rewrite` needs) from finished runs of
    one data set; returns the
    Markdown's path.

    name: of the files, without an ending, in place of <study>-<dataset>, so that a data set may have several. note: a
    sentence about the
    circumstances (what else the machine did, say) that stands with the hardware.
    """
    if not runs:
        raise KitError("no finished runs, so there is nothing to report: see the failures that the sweep listed")
    datasets = {run.config.dataset for run in runs}
    if len(datasets) > 1:
        raise KitError(f"a report is about one data set, these runs have {sorted(datasets)}: report them one by one")
    path = Path(folder) / (name or _stem(study, runs))
    folder, stem = path.parent, path.name
    summary, table = summarize(runs), per_run(runs)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(STUDIES[study], runs, summary, table, folder, stem)
    summaries.write(folder / f"{stem}.json", study, runs, note, pictures)
    return rewrite(folder / f"{stem}.json")


def rewrite(path: str | Path) -> Path:
    """The text and tables of a report once more, from the summary of its runs and the pictures that lie beside it: the
    same bytes wherever it
    is done. Returns the Markdown's path; raises KitError for what is no such summary."""
    path = Path(path)
    kept = summaries.read(path)
    if kept.study in OTHERS:
        return importlib.import_module(OTHERS[kept.study]).rewrite(path)
    summary, table = summarize(kept.runs), per_run(kept.runs)
    dataset = kept.runs[0].config.dataset
    name = "" if path.stem == _stem(kept.study, kept.runs) else path.stem
    text = _text(kept.study, kept.runs, summary, dataset, kept.pictures, kept.note, name)
    store.atomically(path.with_suffix(".md"), lambda p: p.write_text(text))
    store.atomically(path.with_suffix(".html"), lambda p: p.write_text(_page(text, path.parent)))
    columns = [c for c in table.columns if c != "path"]
    store.atomically(path.with_suffix(".csv"), lambda p: table[columns].to_csv(p, index=False))
    store.atomically(path.with_suffix(".tex"), lambda p: p.write_text(latex_table(summary, Path(dataset).name)))
    return path.with_suffix(".md")


def ablation(runs: Sequence[Run], folder: str | Path = "reports", name: str | None = None, note: str = "") -> Path:
    """`write` for the ablation of joint against sequential search."""
    return write("ablation", runs, folder, name, note)


def grid(study: str, methods: str, seeds: int | str, values: dict[str, Any]) -> list[Config]:
    """The configurations of a study, checked: methods "all" (the study's) or names with commas; seeds a number of them
    (from 0) or a
    list with commas; values: fields of `Config` for all runs."""
    rows = (
        list(STUDIES[study].methods)
        if methods == "all"
        else [name.strip() for name in methods.split(",") if name.strip()]
    )
    try:
        chosen = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in str(seeds).split(",")]
    except ValueError:
        raise KitError(
            f"seeds={seeds!r} is neither a number of seeds nor a list of them: -p seeds 5, or -p seeds 0,3,7"
        ) from None
    if not chosen:
        raise KitError(f"seeds={seeds!r} makes no runs: give 1 or more")
    return sweep.grid(seed=chosen, method=rows, **values)


def ablation_grid(methods: str, seeds: int | str, values: dict[str, Any]) -> list[Config]:
    """`grid` of the ablation of joint against sequential search."""
    return grid("ablation", methods, seeds, values)


def _stem(study: str, runs: Sequence[Run | Record]) -> str:
    return f"{study}-{Path(runs[0].config.dataset).name}"


def _pictures(
    study: Study, runs: Sequence[Run], summary: pd.DataFrame, table: pd.DataFrame, folder: Path, stem: str
) -> list[tuple[str, str]]:
    name = Path(runs[0].config.dataset).name
    shown: list[tuple[str, str, object]] = [
        (
            "accuracy",
            "Test accuracy: mean with 95% interval; faint dots are the seeds",
            figures.ablation(summary, table, title=f"{name}: {study.titled(runs).lower()}"),
        ),
        (
            "time",
            "Test accuracy against the time of a run",
            figures.accuracy_against_time(summary, title=f"{name}: accuracy against time"),
        ),
        (
            "loss",
            "Training loss (on augmented images, so not comparable between policies)",
            figures.overlay(list(runs), "loss"),
        ),
    ]
    for method in study.shown:
        example = next((run for run in runs if run.config.method == method), None)
        if example is not None:
            shown += _details(example, "" if len(study.shown) == 1 else f"{method}-")
    pictures = []
    for key, caption, figure in shown:
        path = folder / f"{stem}-{key}.png"
        if figures.save(figure, path, width=1200):
            pictures.append((path.name, caption))
    return pictures


def _details(run: Run, prefix: str) -> list[tuple[str, str, object]]:
    title = f"one run of {METHODS[run.config.method].title.partition(':')[0]} (seed {run.config.seed})"
    found: list[tuple[str, str, object]] = [(f"{prefix}curves", f"α, τ and η of {title}", figures.curves(run))]
    if "probabilities" in run.policy:
        found.append((f"{prefix}policy", f"τ at the end of {title}", figures.policy(run)))
    return [*found, (f"{prefix}cell", f"The architecture that {title} found", figures.cell(run.genotype))]


def _text(
    study: str,
    runs: Sequence[Record],
    summary: pd.DataFrame,
    dataset: str,
    pictures: list[tuple[str, str]],
    note: str,
    name: str,
) -> str:
    config, where = runs[0].config, runs[0].provenance
    seeds = sorted({run.config.seed for run in runs})
    accuracy_step = 100 / runs[0].metrics["test_images"]
    resized = f" resized to {config.image_size}×{config.image_size} pixels" if config.image_size else ""
    parts = [
        f"# {STUDIES[study].titled(runs)}: {dataset}",
        f"{len(runs)} runs: {summary['method'].nunique()} methods, seeds {', '.join(map(str, seeds))}, preset `{config.preset}`. Every "
        f"method gets the same budget, {config.epochs} epochs{_images(runs)}{resized} in batches of {config.batch_size}: "
        + STUDIES[study].budget.format(**config.model_dump()),
        f"{_trained_on(runs)} Test accuracy is measured once, at the end, on {runs[0].metrics['test_images']:,} images "
        f"(one image is {accuracy_step:.2f} points). Split: {where['split']}.",
        "## Result",
        markdown_table(summary, dataset),
        "Interval: Student's t over seeds. Differences are paired by seed; p is of the paired t-test, adjusted by Holm over the table's comparisons "
        f"with `{REFERENCE}`. The seconds are of one run with "
        f"{where['threads']} thread(s), while others ran beside it; memory is the process's peak, libraries included. The paper's figures are "
        "from other data at thousands of times the compute: they are here for the order of the methods, not for the numbers.",
        "### What it says",
        "\n".join(f"- {sentence}" for sentence in findings(summary)) or "- only one method was run",
        "## Pictures",
        *(f"### {caption}\n\n![{caption}]({file})" for file, caption in pictures),
        "## Where it comes from",
        _origin(study, runs, name) + (f"\n- note: {note}" if note else ""),
    ]
    return "\n\n".join(parts) + "\n"


def _images(runs: Sequence[Record]) -> str:
    counts = sorted({run.metrics["train_images"] for run in runs})
    return f" of {' or '.join(f'{n:,}' for n in counts)} images"


def _trained_on(runs: Sequence[Record]) -> str:
    """One sentence per way of using the data, with the methods that do."""
    ways: dict[str, list[str]] = {}
    for run in runs:
        ways.setdefault(run.provenance["trained_on"], []).append(run.config.method)
    if len(ways) == 1:
        return f"Trained on {next(iter(ways))}."
    return " ".join(
        f"Trained on {way}: {', '.join(f'`{m}`' for m in dict.fromkeys(methods))}." for way, methods in ways.items()
    )


def _origin(study: str, runs: Sequence[Record], name: str) -> str:
    places = [run.provenance for run in runs]

    def each(key: str) -> str:
        return ", ".join(sorted({str(p[key]) for p in places}))

    torch_versions = ", ".join(sorted({p["versions"]["torch"] or "?" for p in places}))
    parameters = _parameters(study, runs) | ({"name": name} if name else {})
    command = " ".join(
        [f"papermill notebooks/{study}.ipynb out.ipynb", *(f"-p {key} {value}" for key, value in parameters.items())]
    )
    return "\n".join(
        [
            f"- command: `{command}`",
            f"- code: commit {each('commit')} (a + marks uncommitted changes)",
            f"- hardware: {each('device')}; {each('processor')}, {each('cores')} cores",
            f"- versions: Python {each('python')}, torch {torch_versions}",
        ]
    )


def _parameters(study: str, runs: Sequence[Record]) -> dict[str, Any]:
    """The notebook's parameters that give these runs: what differs from the preset, and the methods and seeds."""
    config = runs[0].config
    seeds = sorted({run.config.seed for run in runs})
    methods = list(dict.fromkeys(run.config.method for run in runs))
    usual = Config(dataset="digits", method=config.method, preset=config.preset).model_dump()
    chosen = {"dataset", "method", "preset", "seed", "out", "root", "device"}
    changed = {
        name: value for name, value in config.model_dump().items() if name not in chosen and value != usual[name]
    }
    if config.search_epochs == round(PRESETS[config.preset]["search_share"] * config.epochs):
        changed.pop("search_epochs", None)
    return {
        "dataset": config.dataset,
        "preset": config.preset,
        "seeds": len(seeds) if seeds == list(range(len(seeds))) else ",".join(map(str, seeds)),
        **({} if methods == list(STUDIES[study].methods) else {"methods": ",".join(methods)}),
        **changed,
    }


def _page(markdown: str, folder: Path) -> str:
    """The Markdown report as one HTML page with its pictures inside; it needs no network."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(markdown)
    for path in folder.glob("*.png"):
        data = base64.b64encode(path.read_bytes()).decode() if f'src="{path.name}"' in body else ""
        body = body.replace(f'src="{path.name}"', f'src="data:image/png;base64,{data}"')
    title = html.escape(markdown.splitlines()[0].lstrip("# "))
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:1240px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
        "table{border-collapse:collapse;font-size:14px}td,th{border:1px solid #999;padding:.3rem .5rem;text-align:left}"
        "img{max-width:100%;background:#fff}code{background:#8882;padding:0 .2em}"
        "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8bf}}"
    )
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{style}</style><body>{body}</body></html>\n"


def index(folder: str | Path) -> Path:
    """Write README.md of a folder of reports: every Markdown report with its title, and whether `python -m kit.studies.report`
    makes it again.
    """
    folder = Path(folder)
    lines = []
    for path in sorted(folder.glob("*.md")):
        if path.name != "README.md":
            title = path.read_text().partition("\n")[0].lstrip("# ").replace("|", "\\|")
            beside = [
                f"[{ext}]({path.stem}.{ext})"
                for ext in ("html", "csv", "tex")
                if (folder / f"{path.stem}.{ext}").is_file()
            ]
            kept = f"[{path.stem}.json]({path.stem}.json)" if path.with_suffix(".json").is_file() else "–"
            lines.append(f"| [{title}]({path.name}) | {', '.join(beside) or '–'} | {kept} |")
    text = "\n".join(
        [
            "# Reports",
            "",
            "Those with a summary of their runs are made again from it, text and tables, by `make reports`: the same bytes everywhere. A summary that is",
            "missing is made by running what it is of. The others are measurements; each says by which command.",
            "",
            "| report | also as | runs |",
            "|---|---|---|",
            *lines,
            "",
        ]
    )
    store.atomically(folder / "README.md", lambda p: p.write_text(text))
    return folder / "README.md"


def main() -> None:
    """python -m kit.studies.report reports: every report in a folder once more, from the summaries that lie there, and their
    index.
    """
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "reports")
    found = [path for path in sorted(folder.glob("*.json")) if "study" in store.read_object(path)]
    if not found:
        raise SystemExit(f"{folder} holds no summaries of reports: make one, as in make ablation")
    for path in [*map(rewrite, found), index(folder)]:
        print(path)


if __name__ == "__main__":
    main()
