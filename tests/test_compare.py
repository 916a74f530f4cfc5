"""Runs side by side: fronts against brute force, nothing mixed that is not comparable, and every run listed with what
it has.
"""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tests_pages import GENOTYPE, Fetched, browser, write_run

import kit
from kit import figures
from kit.errors import KitError
from kit.space.cell import cell_slots
from kit.studies import compare as module
from kit.studies.compare import Comparison, compare


def rows(comparison: Comparison) -> dict:
    return {(row["method"], row["seed"]): row for row in comparison.table.to_dict("records")}


@pytest.fixture
def folder(tmp_path):
    """Four finished runs on the same digits: (method, seed) → accuracy, parameters, seconds."""
    for method, seed, accuracy, params, seconds in (
        ("dha", 0, 0.98, 900, 50.0),
        ("dha", 1, 0.97, 500, 80.0),
        ("plain", 0, 0.95, 700, 20.0),
        ("plain", 1, 0.96, 600, 90.0),
    ):
        write_run(
            tmp_path,
            accuracy,
            method=method,
            seed=seed,
            metrics={"params": params, "macs": params * 10, "seconds": seconds},
        )
    return tmp_path


# ---- fronts --------------------------------------------------------------------------------------


def test_the_front_is_that_of_brute_force():
    for seed in range(60):
        draw = np.random.default_rng(seed)
        n = seed % 12
        cost, gain = draw.integers(0, 6, n).astype(float), draw.integers(0, 6, n).astype(float)  # many ties
        cost[draw.random(n) < 0.1] = np.nan
        beaten = [
            any(c <= cost[i] and g >= gain[i] and (c < cost[i] or g > gain[i]) for c, g in zip(cost, gain))
            for i in range(n)
        ]
        expected = [not beaten[i] and not np.isnan(cost[i] + gain[i]) for i in range(n)]
        assert module.pareto(cost, gain).tolist() == expected, (cost, gain)


def test_the_table_marks_a_front_for_each_cost(folder):
    found = rows(compare(folder))
    marked = {
        key: row["fronts"]
        for key, row in found.items()
        if row["front_seconds"] or row["front_params"] or row["front_macs"]
    }
    assert marked == {("dha", 0): "seconds, params, macs", ("dha", 1): "params, macs", ("plain", 0): "seconds"}


@pytest.mark.parametrize(
    "changes, cost, says",
    [
        ({"image_size": 16, "image": 16}, "seconds", "Different data: digits 8×8 (4 runs); digits 16×16 (1 run)"),
        (
            {"place": {"split": "another"}},
            "params",
            "Different data: digits 8×8 (split 1) (4 runs); digits 8×8 (split 2) (1 run)",
        ),
        ({"dataset": "fashion_mnist", "image": 28}, "macs", "accuracy is not comparable between them"),
        ({"epochs": 99}, "params", "Different budget: 25 epochs (4 runs); 99 epochs (1 run)"),
        ({"train_images": 500}, "seconds", "25 epochs of 500 images (1 run)"),
        ({"place": {"processor": "b"}}, "seconds", "no front over seconds spans two"),
    ],
)
def test_no_front_spans_what_is_not_comparable_and_the_notes_say_so(folder, changes, cost, says):
    before = rows(compare(folder))
    run = write_run(
        folder, 0.99, method="dha", seed=7, metrics={"params": 1, "macs": 1, "seconds": 1.0}, **changes
    )  # better than all
    both = compare([*sorted(p for p in folder.iterdir() if p != run.path), run])
    after = rows(both)
    assert any(says in note for note in both.notes), both.notes
    assert after["dha", 7][f"front_{cost}"]
    for key, row in before.items():
        assert after[key][f"front_{cost}"] == row[f"front_{cost}"]
    panels = {note.text for note in figures.tradeoffs(both.table).layout.annotations} & set(both.table["data"])
    assert len(panels) == (2 if "data" in says or "accuracy is not" in says else 1)


def test_on_other_machines_the_front_of_parameters_is_one(folder):
    write_run(folder, 0.99, method="ista", metrics={"params": 1, "macs": 1}, place={"processor": "b"})
    assert [k for k, row in rows(compare(folder)).items() if row["front_params"]] == [("ista", 0)]


def test_what_is_the_same_is_said(folder):
    first = compare(folder).notes[0]
    assert first.startswith(
        "The same in all 4 finished runs: data: digits 8×8; budget: 25 epochs; machine: cpu, a, 1 thread(s)"
    )


def test_different_spaces_share_accuracy_but_no_architectures(folder):
    write_run(folder, 0.99, method="plain", seed=5, space="wrn-16-2", genotype={"network": "wrn-16-2"})
    write_run(folder, 0.99, method="dha", seed=6, genotype={"blocks": ["a", "b"]})
    both = compare(folder)
    assert any(note.startswith("Different search space: cell (5 runs); wrn-16-2 (1 run)") for note in both.notes)
    assert len(both.agreement) == 6 and set(both.agreement["space"]) == {
        "cell"
    }  # the four with cells; none with other places


# ---- architectures -------------------------------------------------------------------------------


def test_agreement_counts_choices_and_inputs_node_by_node(tmp_path):
    other = json.loads(json.dumps(GENOTYPE))
    other["normal"][0] = [["sep_conv_3x3", 1], ["sep_conv_5x5", 0]]  # one choice kept (in another order), both inputs
    other["reduce"][3] = [["skip_connect", 1], ["skip_connect", 3]]  # nothing kept
    runs = [write_run(tmp_path, 0.9, method="dha", seed=s, genotype=g) for s, g in enumerate((GENOTYPE, other))]
    runs.append(write_run(tmp_path, 0.9, method="plain", genotype=GENOTYPE))
    agreement = compare(runs).agreement
    assert agreement[["shared", "shared_inputs", "of", "found"]].values.tolist() == [
        [13, 14, 16, True],
        [16, 16, 16, False],
        [13, 14, 16, False],
    ]
    note = next(note for note in compare(runs).notes if note.startswith("Architectures"))
    assert "share 13.0 on average (two random architectures: 1.5)" in note  # the given one is not counted


def test_blocks_are_choices_without_inputs():
    a, inputs = module.choices({"blocks": ["shuffle_3x3", "xception", "xception"]})
    b, _ = module.choices({"blocks": ["shuffle_3x3", "xception", "shuffle_5x5"]})
    assert (a & b).total() == 2 and a.total() == 3 and not inputs
    assert module.choices({"network": "wrn-16-2"})[0].total() == module.choices(None)[0].total() == 0


def test_chance_is_that_of_all_pairs_of_picks():
    expected = 0.0
    for slot in cell_slots():
        picks = [set(pick) for pick in itertools.combinations(range(len(slot.candidates)), 2)]
        expected += float(np.mean([len(a & picks[0]) for a in picks]))  # by symmetry, one of the two may be held
    assert module.by_chance() == pytest.approx(expected)


# ---- which runs ----------------------------------------------------------------------------------


def test_unfinished_and_failed_runs_are_listed_with_what_they_have(folder, interrupted):
    failed = write_run(folder, None, method="ista", seed=4)
    (failed.path / "failure.json").write_text(
        json.dumps({"error": "NonFinite", "message": "the loss is nan", "epoch": 3})
    )
    both = compare([folder, interrupted])
    failure, unfinished = (both.table.set_index("run").loc[run.path.name] for run in (failed, interrupted))
    assert (failure["status"], failure["remark"]) == ("failed", "NonFinite: the loss is nan")
    assert (unfinished["status"], unfinished["done"], unfinished["epochs"]) == ("interrupted", 1, 2) and np.isnan(
        unfinished["test_accuracy"]
    )
    assert any(
        "In the table only" in note and f"{interrupted.path.name} (interrupted after 1 of 2 epochs)" in note
        for note in both.notes
    )
    drawn = {text for trace in figures.tradeoffs(both.table).data for text in trace.hovertext}
    assert len(drawn) == 4 and not any(interrupted.path.name in text for text in drawn)


def test_runs_are_found_by_folder_path_list_and_commas(folder, finished):
    names = [p.name for p in sorted(folder.iterdir())]
    first = folder / names[0]
    assert compare(str(folder)).table["run"].tolist() == names
    assert compare(f"{first}, {finished.path}").table["run"].tolist() == [names[0], finished.path.name]
    assert len(compare([folder, first, kit.Run.load(first)]).table) == 4  # each once
    assert compare([folder, finished], dataset="digits").table["dataset"].unique().tolist() == ["digits"]
    with pytest.raises(KitError, match="no run is on dataset 'mnist'; these are on: digits"):
        compare(folder, dataset="mnist")


def test_what_a_folder_holds_besides_runs_is_left_out_by_name(folder):
    (folder / "torn").mkdir()
    (folder / "torn" / "config.json").write_text('{"dataset": ')
    run = sorted(folder.glob("digits-*"))[0]
    shutil.copytree(run, folder / f"{run.name}.old1")
    both = compare(folder)
    assert len(both.table) == 4
    for name in ("torn", f"{run.name}.old1"):
        assert any(note.startswith("Left out") and name in note for note in both.notes), name


def test_a_path_that_is_no_run_is_refused(folder, tmp_path_factory):
    with pytest.raises(KitError, match="nope is not a run directory"):
        compare([folder / "nope"])
    with pytest.raises(KitError, match="is not a run directory"):
        compare(tmp_path_factory.mktemp("empty"))
    with pytest.raises(KitError, match=r"no runs to compare.*kit\.search"):
        compare([])


def test_what_is_missing_or_damaged_is_remarked(folder):
    run = write_run(folder, 0.5, method="ista", metrics={"params": "many"})
    (run.path / "model" / "model.json").write_text('{"network": [], "genotype": {"normal": 3, "reduce": [[1], [[2]]]}}')
    row = compare(folder).table.set_index("run").loc[run.path.name]
    assert row["test_accuracy"] == 0.5 and np.isnan(row["params"]) and not row["front_params"]
    assert "model/model.json has a network that is none" in row["remark"]


def test_two_folders_with_the_same_run_are_told_apart(folder, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "runs"
    shutil.copytree(folder, copy)
    both = compare([folder, copy])
    assert len(both.table) == both.table["run"].nunique() == 8 and str(copy) in both.table["run"].iloc[-1]


# ---- what is shown -------------------------------------------------------------------------------


def test_figures_without_anything_to_draw_say_so(tmp_path):
    both = compare([write_run(tmp_path, None, method="dha", seed=s) for s in range(2)])
    assert "no run is finished" in figures.tradeoffs(both.table).layout.annotations[0].text


def test_what_is_saved_is_complete_and_needs_no_network(folder, tmp_path):
    run = write_run(folder, 0.5, method="ista", metrics={"params": None})
    (run.path / "failure.json").write_text("{}")
    hostile = folder / "<img src=http:--evil>|x"
    run.path.rename(hostile)
    both = compare(folder)
    path = both.save(tmp_path / "new")
    page = Fetched(path.read_text())
    assert page.fetched == [] and page.pictures == 1 and any("<img src=http:--evil>|x" in said for said in page.words)
    lines = (tmp_path / "new" / "compare.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 5 and len({line.replace("\\|", "").count("|") for line in table}) == 1
    saved = pd.read_csv(tmp_path / "new" / "compare.csv")
    assert saved["test_accuracy"].tolist() == both.table["test_accuracy"].tolist() and "path" not in saved
    assert (tmp_path / "new" / "compare.png").read_bytes()[:4] == b"\x89PNG"
    bundle = both._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/markdown", "text/plain"} and "5 runs" in bundle["text/plain"]


def test_the_table_sorts_in_a_browser_without_a_network(folder):
    write_run(folder, None, method="ista", seed=9)
    with browser() as page:
        page.set_content("<!doctype html><meta charset=utf-8>" + str(compare(folder).html()))
        head = page.locator("table.dataTable thead th", has_text="test accuracy").first
        orders = []
        for direction in ("ascending", "descending"):
            head.click()
            page.locator(f"table.dataTable th[aria-sort={direction}]").first.wait_for()
            orders.append(page.locator("table.dataTable tbody tr td:nth-child(7)").all_inner_texts())
        assert orders == [["", "95.00%", "96.00%", "97.00%", "98.00%"], ["98.00%", "97.00%", "96.00%", "95.00%", ""]]
        assert page.errors == [] and all(address.startswith("blob:") for address in page.asked)
