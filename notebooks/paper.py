"""The logic of paper.ipynb: every table of the four papers beside one's own runs. Its data are paper.csv, a line for
each row of a table: cells, "column=value as printed" with semicolons, where a column is a data set or data set/network;
config, the fields of kit.Config that make the row, or needs, what it would take. Accuracies are top-1 (/ top-5) in
percent, DAAS's Tables 2 and 4 to 7 errors; in brackets GPU hours (h) or days (d), and parameters (M)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

import kit
from kit import KitError, data, errors, files
from kit.lab import notebook

ERRORS = ("daas-2", "daas-4", "daas-5", "daas-6", "daas-7")  # tables of errors, not of accuracies


def read(table: str) -> pd.DataFrame:
    """The rows of a table such as "dha-3". Raises KitError for another name."""
    every = pd.read_csv(Path(__file__).with_suffix(".csv"), dtype=str, keep_default_na=False)
    if table not in set(every["table"]):
        raise errors.unknown("table", table, list(dict.fromkeys(every["table"])))
    return every[every["table"] == table]


def cells(table: str, dataset: str, seeds: list[int], values: dict[str, Any]) -> pd.DataFrame:
    """A line for each row and column of the table: row, column, paper (as printed), needs (why it does not run, or "")
    and runs, by run directory a configuration for each seed. Columns of other data sets are the paper's alone; where no
    column is about `dataset`, there is one more for each of the table's networks."""
    found, rows, problem = [], read(table), ""
    printed = [dict(cell.split("=", 1) for cell in text.split("; ")) for text in rows["cells"]]
    columns = list(dict.fromkeys(column for row in printed for column in row))
    if dataset not in {column.partition("/")[0] for column in columns}:
        columns += list(dict.fromkeys("/".join([dataset, *column.split("/")[1:]]) for column in columns))
    try:  # once for all: it may have to be fetched
        sets = kit.Config(**values | {"dataset": dataset, "method": "plain"}).sets()
        known = sets.name, data.digest(sets)
    except KitError as error:
        problem = str(error)
    for (_, row), paper in zip(rows.iterrows(), printed):
        for column in columns:
            about, _, space = column.partition("/")
            # on one's own data a row has the networks that it has in the paper
            mine = about == dataset and space in {printed_at.partition("/")[2] for printed_at in paper}
            needs, runs = (row["needs"] or problem) if mine else "", {}
            try:
                if mine and not needs:
                    given = ({"space": space} if space else {}) | notebook.assigned(row["config"].split())
                    configs = [kit.Config(**given | values | {"dataset": dataset, "seed": seed}) for seed in seeds]
                    runs = {files.place(config.out) / config.named(*known): config for config in configs}
            except KitError as error:  # a network that is not built, a budget that is too short
                needs = str(error).partition(". Valid")[0]
            found.append((row["row"], column, paper.get(column, "–"), needs, runs))
    return pd.DataFrame(found, columns=["row", "column", "paper", "needs", "runs"])


def asked(lines: pd.DataFrame, rows: str) -> list[kit.Config]:
    """The configurations of the rows asked for: "" none, "all", or their names with semicolons between them. Raises
    KitError for a row that the table does not have, or that does not run here."""
    names = [name.strip() for name in rows.split(";") if name.strip() and rows != "all"]
    for name in names:
        if name not in set(lines["row"]):
            raise errors.unknown("row", name, list(dict.fromkeys(lines["row"])))
        own = lines[lines["row"] == name]
        if not own["runs"].map(len).any():
            raise KitError(
                f"row {name!r} does not run here, it needs: {'; '.join(filter(None, dict.fromkeys(own['needs'])))}"
            )
    chosen = lines if rows == "all" else lines[lines["row"].isin(names)]
    return list({folder: config for runs in chosen["runs"] for folder, config in runs.items()}.values())


def layout(lines: pd.DataFrame, table: str) -> pd.DataFrame:
    """The paper's rows and columns: what it prints, beside it what has been run here, mean ± standard deviation (n) in
    percent of the runs that have finished, and last what a row needs that does not run."""
    found = []
    for runs in lines["runs"]:
        done = [kit.Run.load(folder) for folder in runs if (folder / "metrics.json").is_file()]
        scores = 100 * pd.Series([run.metrics["test_accuracy"] for run in done], dtype=float)
        scores = 100 - scores if table in ERRORS else scores
        spread = f" ± {scores.std():.2f}" if len(scores) > 1 else ""
        found.append(f"{scores.mean():.2f}{spread} (n={len(scores)})" if done else "not run" if runs else "")
    wide = lines.assign(here=found).pivot(index="row", columns="column", values=["paper", "here"]).swaplevel(axis=1)
    order = [(column, what) for column in dict.fromkeys(lines["column"]) for what in ("paper", "here")]
    wide = wide.reindex(index=list(dict.fromkeys(lines["row"])), columns=pd.MultiIndex.from_tuples(order))
    wide = wide.loc[:, [column for column in order if not wide[column].isin(["", "–"]).all()]]
    wide.columns = [column if what == "paper" else f"{column}, here" for column, what in wide.columns]
    needs = {row: "; ".join(dict.fromkeys(filter(None, part["needs"]))) for row, part in lines.groupby("row")}
    return wide.assign(needs=[needs[row] for row in wide.index])
