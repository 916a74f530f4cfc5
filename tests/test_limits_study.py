"""Accuracy under limits: the bounds of a study, its table, and the figure."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

import kit
from kit import KitError, Run, figures, space
from kit.run import store
from kit.search.progress import Silent
from kit.space.limits import Limits
from kit.studies import limits, page, report

RECIPE = Path(__file__).resolve().parent.parent / "docs/recipes/space.py"
SMALL = {
    "epochs": 2,
    "search_epochs": 1,
    "channels": 4,
    "cells": 3,
    "search_channels": 4,
    "search_cells": 3,
    "batch_size": 60,
    "device": "cpu",
    "precision": "float32",
}


def test_bounds_are_shares_of_what_the_space_reaches(micro: str):
    values = {"dataset": micro, **SMALL}
    configs = limits.configs("macs", "1,0,0.5", "dha,random", 2, values)
    low, high = Limits(space.build("cell", 10, (1, 8, 8), channels=4, cells=3)).reach("max_macs")
    by_seed = [c.max_macs for c in configs if c.method == "dha" and c.seed == 1]
    assert by_seed == [low, low + (high - low) // 2, None] and len(configs) == 2 * 2 * 3
    assert {c.max_params for c in configs} == {None} and {c.method for c in configs} == {"dha", "random"}
    assert (
        configs[2].name == kit.Config(**values, method="dha", seed=0).name
    )  # share 1 is the run without a limit, found if it is there


def test_what_a_space_reaches_follows_from_its_own_options(micro: str):
    values = {"dataset": micro, "plugins": str(RECIPE), "space": "small-cells"}
    few, more = (limits.configs("params", "0.5", "dsnas", 1, values | {"cell_nodes": n})[0] for n in (2, 5))
    assert more.max_params > few.max_params


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cost": "flops"}, "unknown cost 'flops'. .*Valid: params, macs, latency_ms"),
        ({"shares": "half"}, "shares='half': give numbers from 0 to 1"),
        ({"shares": "0.5,1.5"}, "give numbers"),
        ({"shares": "nan"}, "give numbers"),
        (
            {"methods": "plain", "values": {"space": "wrn-16-2"}},
            "is one fixed network: a limit leaves nothing to choose",
        ),
    ],
)
def test_words_that_mean_nothing_are_refused(given: dict, message: str, micro: str):
    usual = {"cost": "params", "shares": "0.5", "methods": "dha", "seeds": 1, "values": {}}
    given = {**usual, **given, "values": {"dataset": micro, **given.get("values", {})}}
    with pytest.raises(KitError, match=message):
        limits.configs(**given)


@pytest.fixture(scope="module")
def runs(finished: Run, micro: str, tmp_path_factory) -> list[Run]:
    (tight,) = limits.configs("params", "0.1", "dha", 1, {"dataset": micro, **SMALL})
    return [kit.search(tight, out=tmp_path_factory.mktemp("tight"), progress=Silent()), finished]


def test_the_table_tells_who_kept_to_the_limit(runs: list[Run]):
    rows = limits.table(runs, "params")
    assert rows["kept"].all() and rows["cost"].tolist() == [run.metrics["params"] for run in runs]
    assert rows["bound"][0] == runs[0].config.max_params >= rows["cost"][0] and math.isnan(rows["bound"][1])
    assert not limits.table([breaking(runs[0])], "params")["kept"].any()


class breaking(Run):
    """The run as if it had found something larger."""

    metrics = {}

    def __init__(self, run: Run):
        super().__init__(run.path)
        self.metrics = run.metrics | {"params": run.config.max_params + 1}


def test_a_latency_is_the_one_that_the_limit_was_kept_by(runs: list[Run], tmp_path):
    shutil.copytree(runs[0].path, tmp_path / runs[0].path.name)
    run = Run.load(tmp_path / runs[0].path.name)
    assert limits.run_latency(run) > 0  # no table: taken now
    rows = [[1.0] * len(slot.candidates) for slot in space.cell.cell_slots()]
    about = {"batch": 1, "hardware": "a clock", "threads": 3}
    store.write_json(run.path / "latency.json", {**about, "fixed_ms": -3.5, "candidates_ms": rows})
    assert limits.run_latency(run) == 12.5
    assert limits.table([run], "latency_ms")["cost"][0] == 12.5
    store.write_json(run.path / "latency.json", {"batch": 3})
    with pytest.raises(KitError, match="is not a latency table"):
        limits.run_latency(run)


ROWS = pd.DataFrame(
    {
        "method": ["dha"] * 5 + ["random"],
        "title": ["DHA"] * 5 + ["Random child"],
        "seed": [0, 1, 0, 1, 0, 0],
        "path": "",
        "kept": True,
        "bound": [2e4, 2e4, 3e4, 3e4, math.nan, 2e4],
        "cost": [1.9e4, 1.95e4, 2.7e4, 2.9e4, 6.1e4, 1.2e4],
        "test_accuracy": [0.90, 0.92, 0.94, 0.95, 0.97, 0.88],
    }
)


def test_the_summary_is_by_method_and_limit():
    summary = limits.summarize(ROWS)
    assert summary[["method", "n"]].values.tolist() == [["dha", 2], ["dha", 2], ["dha", 1], ["random", 1]]
    assert summary["bound"].tolist()[:2] == [2e4, 3e4] and math.isnan(summary["bound"][2])
    assert (
        summary["accuracy_mean"][0] == pytest.approx(0.91)
        and summary["cost_max"][1] == 2.9e4
        and summary["accuracy_low"].isna().all()  # of two seeds, and of one
    )
    text = page.markdown_table(limits.formatted(summary, "params"))
    assert "| DHA | 20,000 | 2 | 91.00 | " in text and "| DHA | none | 1 | 97.00 | – | 61,000 | 61,000 |" in text
    assert summary["relative"][0] == pytest.approx(0.02 / 0.88) and summary["relative"][1:].isna().all()
    assert "| latency, ms (mean) |" in page.markdown_table(limits.formatted(summary, "latency_ms"))


def test_the_figure_shows_every_limit_and_run():
    figure = figures.under_limits(limits.summarize(ROWS), ROWS, "params", title="limits")
    assert sorted(shape.x0 for shape in figure.layout.shapes) == [20_000, 30_000]
    assert {"≤ 20,000", "≤ 30,000"} <= {note.text for note in figure.layout.annotations}
    points = [trace for trace in figure.data if trace.error_y.array is not None]
    assert list(points[0].x) == [19_250, 28_000, 61_000]


def test_a_report_names_where_its_numbers_come_from(runs: list[Run], tmp_path):
    path = report.write("limits", runs, tmp_path / "reports", cost="params")
    text = path.read_text()
    assert path.name == "limits-micro_digits-params.md" and "No result breaks its limit" in text
    assert f"Commit {runs[0].provenance['commit']}" in text and "seeds 0;" in text
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG" and f"]({path.stem}.png)" in text
    path.unlink()
    assert report.rewrite(path.with_suffix(".json")) == path and path.read_text() == text  # from the summary alone
    broken = report.write("limits", [breaking(runs[0])], tmp_path, cost="params")
    assert "NOT EVERY result keeps its limit" in broken.read_text()
