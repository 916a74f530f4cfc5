"""A report of what searches found in a space whose every architecture has a published accuracy."""

from pathlib import Path

import pandas as pd

from kit import files
from kit.methods import METHODS
from kit.run import text
from kit.studies import tables


def summarize(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """By method of `kit.zoo.tables.judged`, and of a hundred cells of it by chance: title, n, accuracy_mean, _low
    and _high (95%), mean rank and regret; relative, _low and _high: (accuracy − mean) ÷ mean, to the mean of all."""
    drawn = table.sample(100, random_state=0).assign(method="drawn by chance")
    rows = pd.concat([rows, drawn]).rename(columns={"accuracy": "test_accuracy"})
    rows["title"] = [METHODS[name].title if name in METHODS else name for name in rows["method"]]
    found = tables.grouped(rows, ["method"], rank=("rank", "mean"), regret=("regret", "mean"))
    relative = found[list(tables.ACCURACY)] / table["accuracy"].mean() - 1
    return found.join(relative.set_axis(tables.RELATIVE, axis=1))


def report(rows: pd.DataFrame, table: pd.DataFrame, path: str | Path, note: str = "") -> Path:
    """Write what `summarize` says to the Markdown file `path`, and every run to a CSV file beside it; returns path."""
    found, path = summarize(rows, table), Path(path)
    shown = {"method": found["title"], "n": found["n"], "accuracy, % [95%]": tables.bounded(found, tables.ACCURACY)}
    shown |= {"mean rank": found["rank"].map("{:,.0f}".format)}
    shown |= {"relative to the average cell, % [95%]": tables.bounded(found, tables.RELATIVE, "+.2f")}
    above = ", ".join(f"`{name}`" for name in found["method"][found["relative_low"] > 0]) or "none"
    best, median, mean = (f"{table['accuracy'].agg(what):.2%}" for what in ("max", "median", "mean"))
    about = f"Of all {len(table):,} cells the best has {best}, the median {median}, the mean {mean}. {note}"
    says = f"Above the average cell, by their intervals: {above}."
    parts = ["# What the cells found are worth (NAS-Bench-201)", about, text.markdown_table(pd.DataFrame(shown)), says]
    files.write(path.with_suffix(".csv"), text.csv(rows))
    files.write(path, "\n\n".join(parts) + "\n")
    return path
