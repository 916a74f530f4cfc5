"""Tables from many runs, with intervals, and the ablation report: Markdown, one self-contained HTML page, CSV and pictures."""

from __future__ import annotations

import base64
import html
import math
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from kit import figures, store, sweep
from kit.compare import compare as compare
from kit.config import Config
from kit.errors import KitError
from kit.methods import METHODS, PRESETS
from kit.run import Run

REFERENCE = "dha"  # the method that the others are compared with
# DHA's Table 3, and the rows every ablation needs beside it.
ABLATION = ("dha", "seq-dha", "nas+da", "seq-nas+da", "nas+hpo", "seq-nas+hpo", "ista", "random", "plain")

# Top-1 accuracy in percent and GPU hours (V100) as DHA's Tables 1 and 3 report them, n unstated.
PAPER = {
    "dha": {"cifar10": "98.11 ± 0.26 (76.6 h)", "cifar100": "83.93 ± 0.23 (76.6 h)"},
    "seq-dha": {"cifar10": "97.77 ± 0.14 (101.9 h)", "cifar100": "83.51 ± 0.12 (101.9 h)"},
    "nas+da": {"cifar10": "97.78 ± 0.13 (64.0 h)", "cifar100": "83.55 ± 0.03 (64.0 h)"},
    "seq-nas+da": {"cifar10": "97.74 ± 0.12 (57.5 h)", "cifar100": "83.45 ± 0.03 (57.5 h)"},
    "nas+hpo": {"cifar10": "97.75 ± 0.20 (70.8 h)", "cifar100": "83.23 ± 0.05 (70.8 h)"},
    "seq-nas+hpo": {"cifar10": "97.54 ± 0.18 (63.6 h)", "cifar100": "83.13 ± 0.05 (63.6 h)"},
    "ista": {"cifar10": "97.64 ± 0.20 (55.2 h)", "cifar100": "83.10 ± 0.11 (55.2 h)"},
}


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean; (nan, nan) for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def per_run(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per finished run: method, title, seed, test_accuracy, val_accuracy, seconds, memory_mb, params, macs, path."""
    rows = []
    for run in runs:
        m = run.metrics
        if not m:
            raise KitError(f"{run.path} is not finished ({run.status}): kit.search with its configuration goes on with it")
        rows.append({
            "dataset": run.config.dataset, "method": run.config.method, "title": METHODS[run.config.method].title, "seed": run.config.seed,
            "test_accuracy": m["test_accuracy"], "val_accuracy": m["val_accuracy"], "seconds": m["seconds"],
            "memory_mb": m["peak_memory_mb"], "params": m["params"], "macs": m["macs"], "path": str(run.path),
        })  # fmt: skip
    return pd.DataFrame(rows)


def summarize(runs: Sequence[Run], reference: str = REFERENCE) -> pd.DataFrame:
    """One row per method, in the order in which the runs name them: n, accuracy_mean, _std, _low, _high (95% interval of the mean),
    seconds, memory_mb, params and macs (means), and, paired by seed, difference to `reference` with its interval and p-value."""
    table = per_run(runs)
    base = table[table["method"] == reference].set_index("seed")["test_accuracy"]
    rows = []
    for method, group in table.groupby("method", sort=False):
        accuracy = group["test_accuracy"].to_numpy()
        low, high = interval(accuracy)
        row = {
            "method": method, "title": group["title"].iloc[0], "n": len(group), "accuracy_mean": accuracy.mean(),
            "accuracy_std": accuracy.std(ddof=1) if len(group) > 1 else math.nan, "accuracy_low": low, "accuracy_high": high,
            **{name: group[name].mean() for name in ("seconds", "memory_mb", "params", "macs")},
        }  # fmt: skip
        paired = (group.set_index("seed")["test_accuracy"] - base).dropna().to_numpy()
        if method != reference and len(paired):
            row["difference"], (row["difference_low"], row["difference_high"]) = paired.mean(), interval(paired)
            row["pairs"] = len(paired)
            if len(paired) > 1 and paired.std() > 0:
                row["p"] = float(stats.ttest_1samp(paired, 0.0).pvalue)
        rows.append(row)
    return pd.DataFrame(rows)


def markdown_table(summary: pd.DataFrame, dataset: str) -> str:
    """The ablation table: accuracy in percent with std and interval, paired difference, cost, and the papers' figures."""
    lines = [
        "| method | n | test accuracy, % (mean ± std) | 95% interval | difference to DHA, points (paired, 95%) | seconds | memory, MB | "
        "parameters | multiply-adds | paper, CIFAR-10 (V100) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    column = dataset if dataset in ("cifar10", "cifar100") else "cifar10"
    for row in summary.to_dict("records"):
        paper = PAPER.get(row["method"], {}).get(column, "–")
        lines.append(
            f"| {row['title']} (`{row['method']}`) | {row['n']} | {_pm(row['accuracy_mean'], row['accuracy_std'])} | "
            f"{_range(row['accuracy_low'], row['accuracy_high'])} | {_difference(row)} | {row['seconds']:.0f} | {row['memory_mb']:.0f} | "
            f"{row['params']:,.0f} | {row['macs']:,.0f} | {paper} |"
        )
    text = "\n".join(lines)
    return text.replace("paper, CIFAR-10", "paper, CIFAR-100") if column == "cifar100" else text


def _pm(mean: float, std: float) -> str:
    return f"{100 * mean:.2f}" + ("" if math.isnan(std) else f" ± {100 * std:.2f}")


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{100 * low:.2f} … {100 * high:.2f}"


def _difference(row: dict) -> str:
    if math.isnan(row.get("difference", math.nan)):
        return "–"
    text = f"{100 * row['difference']:+.2f}"
    return text if math.isnan(row["difference_low"]) else f"{text} [{100 * row['difference_low']:+.2f}, {100 * row['difference_high']:+.2f}]"


def findings(summary: pd.DataFrame, reference: str = REFERENCE) -> list[str]:
    """What the paired differences say, in words, also when they say nothing."""
    if reference not in set(summary["method"]):
        return []
    sentences = []
    for row in summary.to_dict("records"):
        if row["method"] == reference or math.isnan(row.get("difference", math.nan)):
            continue
        shown = f"`{row['method']}` − `{reference}` = {_difference(row)} points over {int(row['pairs'])} seeds"
        if math.isnan(row["difference_low"]):
            verdict = "one seed says nothing about the difference"
        elif row["difference_low"] > 0:
            verdict = f"`{row['method']}` is better"
        elif row["difference_high"] < 0:
            verdict = f"`{reference}` is better"
        else:
            verdict = "not distinguishable"
        sentences.append(f"{shown}: {verdict}.")
    return sentences


def ablation(runs: Sequence[Run], folder: str | Path = "reports", name: str | None = None, note: str = "") -> Path:
    """Write reports/ablation-<dataset>.md, .html, .csv and pictures from finished runs of one data set; returns the Markdown's path.

    note: a sentence about the circumstances (what else the machine did, say) that stands with the hardware.
    """
    if not runs:
        raise KitError("no finished runs, so there is nothing to report: see the failures that the sweep listed")
    datasets = {run.config.dataset for run in runs}
    if len(datasets) > 1:
        raise KitError(f"an ablation report is about one data set, these runs have {sorted(datasets)}: report them one by one")
    dataset = datasets.pop()
    folder, stem = Path(folder), name or f"ablation-{Path(dataset).name}"
    summary, table = summarize(runs), per_run(runs)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(runs, summary, table, folder, stem)
    text = _text(runs, summary, dataset, pictures, note)
    store.atomically(folder / f"{stem}.md", lambda p: p.write_text(text))
    store.atomically(folder / f"{stem}.html", lambda p: p.write_text(_page(text, folder)))
    columns = [c for c in table.columns if c != "path"]
    store.atomically(folder / f"{stem}.csv", lambda p: table[columns].to_csv(p, index=False))
    return folder / f"{stem}.md"


def ablation_grid(methods: str, seeds: int | str, values: dict[str, Any]) -> list[Config]:
    """The configurations of an ablation, checked: methods "all" (`ABLATION`) or names with commas; seeds a number of them (from 0) or a
    list with commas; values: fields of `Config` for all runs."""
    rows = list(ABLATION) if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    try:
        chosen = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in str(seeds).split(",")]
    except ValueError:
        raise KitError(f"seeds={seeds!r} is neither a number of seeds nor a list of them: -p seeds 5, or -p seeds 0,3,7") from None
    if not chosen:
        raise KitError(f"seeds={seeds!r} makes no runs: give 1 or more")
    return sweep.grid(seed=chosen, method=rows, **values)


def _pictures(runs: Sequence[Run], summary: pd.DataFrame, table: pd.DataFrame, folder: Path, stem: str) -> list[tuple[str, str]]:
    name = Path(runs[0].config.dataset).name
    shown: list[tuple[str, str, object]] = [
        ("accuracy", "Test accuracy: mean with 95% interval; faint dots are the seeds", figures.ablation(summary, table, title=f"{name}: joint against sequential search")),
        ("time", "Test accuracy against the time of a run", figures.accuracy_against_time(summary, title=f"{name}: accuracy against time")),
        ("loss", "Training loss (on augmented images, so not comparable between policies)", figures.overlay(list(runs), "loss")),
    ]
    example = next((run for run in runs if run.config.method == REFERENCE), None)
    if example is not None:
        title = f"one DHA run (seed {example.config.seed})"
        shown += [("curves", f"α, τ and η of {title}", figures.curves(example)), ("policy", f"τ at the end of {title}", figures.policy(example)),
                  ("cell", f"The cells that {title} found", figures.cell(example.genotype))]  # fmt: skip
    pictures = []
    for key, caption, figure in shown:
        path = folder / f"{stem}-{key}.png"
        store.atomically(path, lambda p, figure=figure: p.write_bytes(figures.png(figure)))
        pictures.append((path.name, caption))
    return pictures


def _text(runs: Sequence[Run], summary: pd.DataFrame, dataset: str, pictures: list[tuple[str, str]], note: str) -> str:
    config, where = runs[0].config, runs[0].provenance
    seeds = sorted({run.config.seed for run in runs})
    accuracy_step = 100 / runs[0].metrics["test_images"]
    resized = f" resized to {config.image_size}×{config.image_size} pixels" if config.image_size else ""
    parts = [
        f"# Joint against sequential search: {dataset}",
        f"{len(runs)} runs: {summary['method'].nunique()} methods, seeds {', '.join(map(str, seeds))}, preset `{config.preset}`. Every "
        f"method gets the same budget, {config.epochs} epochs of {runs[0].metrics['train_images']:,} images{resized} in batches of "
        f"{config.batch_size}: a sequential method searches for {config.search_epochs} of them and trains what it found from scratch in the "
        f"others; a joint one searches for at most {config.search_epochs} and goes on with the same weights.",
        f"Trained on {where['trained_on']}. Test accuracy is measured once, at the end, on {runs[0].metrics['test_images']:,} images "
        f"(one image is {accuracy_step:.2f} points). Split: {where['split']}.",
        "## Result",
        markdown_table(summary, dataset),
        "Interval: Student's t over seeds. Differences are paired by seed. The seconds are of one run with "
        f"{where['threads']} thread(s), while others ran beside it; memory is the process's peak, libraries included. The paper's figures are "
        "from other data at thousands of times the compute: they are here for the order of the methods, not for the numbers.",
        "### What it says",
        "\n".join(f"- {sentence}" for sentence in findings(summary)) or "- only one method was run",
        "## Pictures",
        *(f"### {caption}\n\n![{caption}]({file})" for file, caption in pictures),
        "## Where it comes from",
        _origin(runs) + (f"\n- note: {note}" if note else ""),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(runs: Sequence[Run]) -> str:
    places = [run.provenance for run in runs]

    def each(key: str) -> str:
        return ", ".join(sorted({str(p[key]) for p in places}))

    torch_versions = ", ".join(sorted({p["versions"]["torch"] or "?" for p in places}))
    command = " ".join(["papermill notebooks/ablation.ipynb out.ipynb", *(f"-p {name} {value}" for name, value in _parameters(runs).items())])
    return "\n".join([
        f"- command: `{command}`",
        f"- code: commit {each('commit')} (a + marks uncommitted changes)",
        f"- hardware: {each('device')}; {each('processor')}, {each('cores')} cores",
        f"- versions: Python {each('python')}, torch {torch_versions}",
    ])  # fmt: skip


def _parameters(runs: Sequence[Run]) -> dict[str, Any]:
    """The notebook's parameters that give these runs: what differs from the preset, and the methods and seeds."""
    config = runs[0].config
    seeds = sorted({run.config.seed for run in runs})
    methods = list(dict.fromkeys(run.config.method for run in runs))
    usual = Config(dataset="digits", method=config.method, preset=config.preset).model_dump()
    chosen = {"dataset", "method", "preset", "seed", "out", "root", "device"}
    changed = {name: value for name, value in config.model_dump().items() if name not in chosen and value != usual[name]}
    if config.search_epochs == round(PRESETS[config.preset]["search_share"] * config.epochs):
        changed.pop("search_epochs", None)
    return {
        "dataset": config.dataset, "preset": config.preset,
        "seeds": len(seeds) if seeds == list(range(len(seeds))) else ",".join(map(str, seeds)),
        **({} if methods == list(ABLATION) else {"methods": ",".join(methods)}), **changed,
    }  # fmt: skip


def _page(markdown: str, folder: Path) -> str:
    """The Markdown report as one HTML page with its pictures inside; it needs no network."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(markdown)
    for path in folder.glob("*.png"):
        data = base64.b64encode(path.read_bytes()).decode() if f'src="{path.name}"' in body else ""
        body = body.replace(f'src="{path.name}"', f'src="data:image/png;base64,{data}"')
    title = html.escape(markdown.splitlines()[0].lstrip("# "))
    style = ("body{font:16px/1.5 system-ui,sans-serif;max-width:1240px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
             "table{border-collapse:collapse;font-size:14px}td,th{border:1px solid #ccc;padding:.3rem .5rem;text-align:left}"
             "img{max-width:100%}code{background:#f2f2f2;padding:0 .2em}")  # fmt: skip
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{style}</style><body>{body}</body></html>\n"
