"""What is shown of a sweep: the state of its runs while it goes on, and what came of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from scipy import stats

from kit.run.run import Run

if TYPE_CHECKING:
    from kit.lab.sweep import Job

EVERY = 60.0  # seconds at most without a line
NO_RESULT = ["seed", "out", "root", "device"]  # fields that a summary does not tell apart


class Table:
    """The state of every run: in JupyterLab one table that is replaced in place (plain HTML, which a saved notebook
    keeps), anywhere else a line per run that ended, and one about the running ones every minute.
    """

    def __init__(self, todo: list[Job], known: int, quiet: bool):
        self.quiet, self.began, self.said, self.handle = quiet, time.monotonic(), time.monotonic(), None
        self.rows = {job.folder.name: ["queued", "", job] for job in todo}
        if todo and not quiet and "JPY_SESSION_NAME" in os.environ:
            from IPython.display import HTML, display

            self.markup, self.handle = HTML, display(HTML(""), display_id=True)
        self._show(f"{known} runs, {known - len(todo)} of them finished before")

    def now(self, job: Job, state: str, text: str = "") -> None:
        self.rows[job.folder.name][:2] = state, text
        if state != "running":
            self._show(f"{self._counts()} · {job.folder.name}: {state}: {text}")

    def tick(self) -> None:
        running = {name: row for name, row in self.rows.items() if row[0] == "running"}
        for row in running.values():
            row[1] = f"epoch {_epochs_done(row[2].folder)} of {row[2].config.epochs}"
        if self.handle or time.monotonic() - self.said > EVERY:
            self._show(f"{self._counts()} · " + ", ".join(f"{name}: {text}" for name, (_, text, _) in running.items()))

    def close(self) -> None:
        for row in self.rows.values():
            row[0] = "queued" if row[0] == "running" else row[0]  # it was stopped, and goes on next time
        self._show(self._counts())

    def _counts(self) -> str:
        states, minutes = [row[0] for row in self.rows.values()], (time.monotonic() - self.began) / 60
        done, failed = states.count("done"), states.count("failed")
        left = minutes / (done + failed or 1) * (len(states) - done - failed)
        expected = f", about {left:.1f} min left" if left and done + failed else ""
        return f"{done} of {len(states)} runs done, {failed} failed, in {minutes:.1f} min{expected}"

    def _show(self, line: str) -> None:
        self.said = time.monotonic()
        if self.handle:
            rows = [(name, state, text) for name, (state, text, _) in self.rows.items()]
            with pd.option_context("display.max_colwidth", 300):
                table = pd.DataFrame(rows, columns=["run", "state", "result or cause"]).to_html(index=False, border=0)
            self.handle.update(
                self.markup(f"{self._counts()}<div style='max-height: 24em; overflow: auto'>{table}</div>")
            )
        elif not self.quiet:
            print(line, flush=True)


def _epochs_done(folder: Path) -> int:
    names = [path.stem for path in (folder / "checkpoints").glob("epoch-*.safetensors")]
    return max((int(name.removeprefix("epoch-")) for name in names), default=0)


def summary(runs: Sequence[Run], estimated: pd.Series | None = None) -> pd.DataFrame:
    """A row per data set, method and override: test accuracy (mean over n seeds, 95% interval by Student's t) and
    seconds of a run, beside those that were estimated.
    """
    fields = pd.DataFrame([run.config.model_dump() for run in runs]).drop(columns=NO_RESULT, errors="ignore")
    if fields.empty:
        return pd.DataFrame(columns=["dataset", "method", "n", "test accuracy", "low", "high", "seconds"])
    fields = fields.astype(str)
    # what a method sets is told by its name; a field is worth a column where it differs between runs of one method
    differs = fields.groupby("method").nunique().gt(1).any()
    shown = ["dataset", "method", *(name for name in differs.index[differs] if name != "dataset")]
    numbers = pd.DataFrame(
        [
            {**run.metrics, "estimated": (estimated if estimated is not None else {}).get(run.config.name)}
            for run in runs
        ]
    )
    groups = (
        fields[shown].join(numbers[["test_accuracy", "seconds", "estimated"]].astype(float)).groupby(shown, sort=False)
    )
    n, mean, deviation = (groups["test_accuracy"].agg(what) for what in ("count", "mean", "std"))
    half = stats.t.ppf(0.975, n - 1) * deviation / n**0.5
    table = pd.DataFrame({"n": n, "test accuracy": mean, "low": mean - half, "high": mean + half})
    table["seconds"] = groups["seconds"].mean()
    return (table.assign(estimated=groups["estimated"].mean()) if estimated is not None else table).reset_index()
