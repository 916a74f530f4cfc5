"""Runs side by side: fronts against brute force, nothing mixed that is not comparable, and every run accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tests_pages import write_run
from tests_recorded import write_run as recorded

import kit
from kit import figures
from kit.errors import KitError
from kit.studies import browse as browsing
from kit.studies.browse import browse

BETTER = {"params": 1, "macs": 1, "seconds": 1.0}


def on_front(table: pd.DataFrame, cost: str) -> set:
    rows = table[table[f"front_{cost}"]]
    return set(zip(rows["method"], rows["seed"]))


@pytest.fixture
def folder(tmp_path):
    """Four finished runs on the same digits: method, seed, accuracy, parameters, seconds."""
    for method, seed, accuracy, params, seconds in (
        ("dha", 0, 0.98, 900, 50.0),
        ("dha", 1, 0.97, 500, 80.0),
        ("plain", 0, 0.95, 700, 20.0),
        ("plain", 1, 0.96, 600, 90.0),
    ):
        metrics = {"params": params, "macs": params * 10, "seconds": seconds}
        write_run(tmp_path, accuracy, method=method, seed=seed, metrics=metrics)
    return tmp_path


def test_the_front_is_that_of_brute_force():
    for seed in range(60):
        draw = np.random.default_rng(seed)
        cost, gain = draw.integers(0, 6, seed % 12), draw.integers(0, 6, seed % 12)  # many ties
        beaten = [any(c <= x and g >= y and (c < x or g > y) for c, g in zip(cost, gain)) for x, y in zip(cost, gain)]
        front = browsing.pareto(pd.DataFrame({"params": cost, "test_accuracy": gain}), "params")
        assert front.tolist() == [not b for b in beaten], (cost, gain)


def test_the_table_marks_a_front_for_each_cost(folder):
    found, notes = browse(folder)
    assert on_front(found, "params") == on_front(found, "macs") == {("dha", 0), ("dha", 1)}
    assert on_front(found, "seconds") == {("dha", 0), ("plain", 0)}
    assert notes[0].startswith("The same in all runs: data: digits 8×8, 449 test images")


@pytest.mark.parametrize(
    "changes, cost, says",
    [
        ({"image_size": 16, "image": 16}, "seconds", "digits 8×8, 449 test images (4 runs); digits 16×16"),
        ({"place": {"split": "another"}}, "params", "Different split: the same (4 runs); another (1 runs)"),
        ({"epochs": 99}, "params", "Different budget: 25 epochs (4 runs); 99 epochs (1 runs)"),
        ({"train_images": 500}, "seconds", "25 epochs of 500 images (1 runs)"),
        ({"place": {"processor": "b"}}, "seconds", "seconds on one machine as well: no front spans two"),
    ],
)
def test_no_front_spans_what_is_not_comparable_and_the_notes_say_so(folder, changes, cost, says):
    before = on_front(browse(folder)[0], cost)
    write_run(folder, 0.99, method="dha", seed=7, metrics=BETTER, **changes)  # better than all
    both, notes = browse(folder)
    assert any(says in note for note in notes), notes
    assert on_front(both, cost) == before | {("dha", 7)}


def test_on_other_machines_the_front_of_parameters_is_one(folder):
    write_run(folder, 0.99, method="ista", metrics=BETTER, place={"processor": "b"})
    assert on_front(browse(folder)[0], "params") == {("ista", 0)}


def test_runs_are_found_by_folder_path_list_and_commas(folder, finished):
    names = [p.name for p in sorted(folder.iterdir())]
    first = folder / names[0]
    assert sorted(browse(str(folder))[0]["run"]) == names
    assert browse(f"{first}, {finished.path}")[0]["run"].tolist() == [names[0], finished.path.name]
    assert len(browse([folder, first, kit.Run.load(first)])[0]) == 4  # each once
    assert set(browse([folder, finished], dataset="digits")[0]["dataset"]) == {"digits"}
    with pytest.raises(KitError, match="no runs to browse.*dataset='mnist'"):
        browse(folder, dataset="mnist")


def test_what_is_unfinished_has_a_row_and_what_is_damaged_or_no_run_is_named(folder, interrupted):
    (folder / "torn").mkdir()
    (folder / "torn" / "config.json").write_text('{"dataset": ')
    both, notes = browse([folder, interrupted])
    assert both["status"].tolist() == ["finished"] * 4 + ["interrupted"] and both["test_accuracy"].isna().sum() == 1
    assert not both.iloc[-1][["front_params", "front_seconds"]].any()
    assert any(note.startswith("Left out") and "torn" in note for note in notes)
    with pytest.raises(KitError, match=r"no runs to browse.*kit\.search.*nope is not a run directory"):
        browse([folder / "nope"])
    assert browse([interrupted])[1] == []


def test_fields_that_differ_are_columns_and_the_best_run_comes_first(folder):
    write_run(folder, 0.999, method="dha", seed=3, lr=0.05, out="elsewhere")
    table, _ = browse(folder)
    assert table.attrs["fields"] == ["method", "seed", "lr"]
    assert table["test_accuracy"].is_monotonic_decreasing and table["lr"].tolist() == [0.05] + [0.1] * 4
    assert "batch_size" not in table and table.columns.is_unique


def test_a_run_is_pooled_with_its_like_alone(folder, interrupted):
    write_run(folder, 0.99, method="dha", seed=3, lr=0.05)
    rows = browsing.pooled(browse([folder, interrupted])[0]).set_index(["method", "lr"])
    assert rows.loc[("dha", "0.1"), "n"] == 2 and rows.loc[("dha", "0.05"), "n"] == 1
    assert rows.loc[("plain", "0.1"), "accuracy_mean"] == pytest.approx(0.955) and rows["n"].sum() == 5
    assert rows["accuracy_low"].isna().all()  # two seeds make no interval


def test_importance_is_that_of_the_field_that_decides(tmp_path):
    for seed in range(4):
        for lr in (0.05, 0.1, 0.2):
            write_run(tmp_path, 0.9 + lr / 10 + seed / 10_000, method="plain", seed=seed, lr=lr)
    table, _ = browse(tmp_path)
    found = browsing.importance(table)
    assert list(found.index) == ["lr", "seed"] and found["lr"] > 0.9 and found.sum() == pytest.approx(1)
    with pytest.raises(KitError, match="importance needs four finished runs that differ in a field, got 3"):
        browsing.importance(table.head(3))


def test_parallel_coordinates_have_an_axis_for_each_field_and_a_line_for_each_run(folder, interrupted):
    table, _ = browse([folder, interrupted])
    (lines,) = figures.parallel(table, ["method", "seed"]).data
    assert [axis.label for axis in lines.dimensions] == ["method", "seed", "test accuracy [%]"]
    assert list(lines.dimensions[0].ticktext) == ["dha", "plain"] and len(lines.line.color) == 4


def test_the_confusion_counts_every_image_once():
    names = ["a", "b", "a", "c"]
    prediction = SimpleNamespace(names=["a", "a", "b", "c"])
    (heat,) = figures.confusion(names, prediction, ["a", "b", "c", "d"]).data
    assert heat.text.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert heat.z[0].tolist() == [0.5, 0.5, 0, 0] and heat.z[3].tolist() == [0, 0, 0, 0]


def test_a_click_in_the_table_draws_the_chosen_runs_in_the_place_of_the_others(tmp_path, monkeypatch):
    for method in ("dha", "seq-dha", "joint"):
        recorded(tmp_path / method, 6, method=method, finished=False)
    shown, said, places = [], [], [f"beside-{k}" for k in range(5)]
    monkeypatch.setenv("JPY_SESSION_NAME", "a person's")  # or there are no widgets
    monkeypatch.setattr(figures, "show", lambda figure, place="", again=False: shown.append((place, again)))
    monkeypatch.setattr("IPython.display.display", lambda thing, **how: said.append((thing, how)))
    page, book = {}, json.loads((Path(__file__).parents[1] / "notebooks" / "runs.ipynb").read_text())
    for cell in book["cells"]:
        if cell["cell_type"] == "code" and "opened" not in page:
            exec("".join(cell["source"]), page)
            if cell["metadata"].get("tags") == ["parameters"]:
                page |= {"runs": str(tmp_path), "selected": "dha"}
    assert shown[-5:] == [(place, False) for place in places]
    rows = [list(page["_shown"].index).index(name) for name in ("seq-dha", "joint")]
    page["picker"].selected_rows = rows
    assert shown[-5:] == [(place, True) for place in places]
    (table, how) = next(item for item in reversed(said) if item[1].get("display_id") == "fields")
    assert (
        how["update"] and list(table) == ["seq-dha", "joint"] and table.loc["method"].tolist() == ["seq-dha", "joint"]
    )
    (tmp_path / "joint" / "history.parquet").write_bytes(b"no table")
    page["picker"].selected_rows = rows[1:]
    assert "holds no table" in said[-1][0]["text/plain"] and said[-1][1]["display_id"] == "standing"
