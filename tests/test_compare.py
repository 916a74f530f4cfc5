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
from kit.studies import compare, report


def rows(comparison: compare.Comparison) -> dict:
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
        assert compare.pareto(cost, gain).tolist() == expected, (cost, gain)


def test_the_table_marks_a_front_for_each_cost(folder):
    found = rows(report.compare(folder))
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
    before = rows(report.compare(folder))
    run = write_run(
        folder, 0.99, method="dha", seed=7, metrics={"params": 1, "macs": 1, "seconds": 1.0}, **changes
    )  # better than all
    both = report.compare([*sorted(p for p in folder.iterdir() if p != run.path), run])
    after = rows(both)
    assert any(says in note for note in both.notes), both.notes
    assert after["dha", 7][f"front_{cost}"]
    for key, row in before.items():
        assert after[key][f"front_{cost}"] == row[f"front_{cost}"]
    panels = {note.text for note in figures.tradeoffs(both.table).layout.annotations if "<b>" in note.text}
    assert len(panels) == both.table["data"].nunique() == (2 if "data" in says or "accuracy is not" in says else 1)


def test_on_other_machines_the_front_of_parameters_is_one(folder):
    write_run(folder, 0.99, method="ista", metrics={"params": 1, "macs": 1}, place={"processor": "b"})
    assert [k for k, row in rows(report.compare(folder)).items() if row["front_params"]] == [("ista", 0)]


def test_what_is_the_same_is_said(folder):
    first = report.compare(folder).notes[0]
    assert first.startswith(
        "The same in all 4 finished runs: data: digits 8×8; budget: 25 epochs; machine: cpu, a, 1 thread(s)"
    )


def test_different_spaces_share_accuracy_but_no_architectures(folder):
    write_run(folder, 0.99, method="plain", seed=5, space="wrn-16-2", genotype={"network": "wrn-16-2"})
    write_run(folder, 0.99, method="dha", seed=6, genotype={"blocks": ["a", "b"]})
    both = report.compare(folder)
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
    agreement = report.compare(runs).agreement
    assert agreement[["shared", "shared_inputs", "of", "found"]].values.tolist() == [
        [13, 14, 16, True],
        [16, 16, 16, False],
        [13, 14, 16, False],
    ]
    note = next(note for note in report.compare(runs).notes if note.startswith("Architectures"))
    assert "share 13.0 on average (two random architectures: 1.5)" in note  # the given one is not counted
    heat = figures.agreement(agreement, report.compare(runs).table).data[0]
    assert heat.z[0][1] == heat.z[1][0] == pytest.approx(100 * 13 / 16) and np.isnan(heat.z[0][0])


def test_blocks_are_choices_without_inputs():
    a, inputs = compare.picks({"blocks": ["shuffle_3x3", "xception", "xception"]})
    b, _ = compare.picks({"blocks": ["shuffle_3x3", "xception", "shuffle_5x5"]})
    assert (a & b).total() == 2 and a.total() == 3 and not inputs
    assert compare.picks({"network": "wrn-16-2"})[0].total() == compare.picks(None)[0].total() == 0


def test_chance_is_that_of_all_pairs_of_picks():
    expected = 0.0
    for slot in cell_slots():
        picks = [set(pick) for pick in itertools.combinations(range(len(slot.candidates)), 2)]
        expected += float(np.mean([len(a & picks[0]) for a in picks]))  # by symmetry, one of the two may be held
    assert compare.by_chance() == pytest.approx(expected)


# ---- which runs ----------------------------------------------------------------------------------


def test_unfinished_and_failed_runs_are_listed_with_what_they_have(folder, interrupted):
    failed = write_run(folder, None, method="ista", seed=4)
    (failed.path / "failure.json").write_text(
        json.dumps({"error": "NonFinite", "message": "the loss is nan", "epoch": 3})
    )
    both = report.compare([folder, interrupted])
    failure, unfinished = (both.table.set_index("run").loc[run.path.name] for run in (failed, interrupted))
    assert (failure["status"], failure["remark"]) == ("failed", "NonFinite: the loss is nan")
    assert (unfinished["status"], unfinished["done"], unfinished["epochs"]) == ("unfinished", 1, 2) and np.isnan(
        unfinished["test_accuracy"]
    )
    assert any(
        "In the table only" in note and f"{interrupted.path.name} (unfinished after 1 of 2 epochs)" in note
        for note in both.notes
    )
    drawn = {text for trace in figures.tradeoffs(both.table).data if trace.hovertemplate for text in trace.text}
    assert len(drawn) == 4 and not any(interrupted.path.name in text for text in drawn)


def test_runs_are_found_by_folder_path_list_and_commas(folder, finished):
    names = [p.name for p in sorted(folder.iterdir())]
    first = folder / names[0]
    assert report.compare(str(folder)).table["run"].tolist() == names
    assert report.compare(f"{first}, {finished.path}").table["run"].tolist() == [names[0], finished.path.name]
    assert len(report.compare([folder, first, kit.Run.load(first)]).table) == 4  # each once
    assert report.compare([folder, finished], dataset="digits").table["dataset"].unique().tolist() == ["digits"]
    with pytest.raises(KitError, match="no run is on dataset 'mnist'; these are on: digits"):
        report.compare(folder, dataset="mnist")


def test_what_a_folder_holds_besides_runs_is_left_out_by_name(folder):
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text('{"architectures": ["Bert"]}')
    (folder / "torn").mkdir()
    (folder / "torn" / "config.json").write_text('{"dataset": ')
    run = sorted(folder.glob("digits-*"))[0]
    shutil.copytree(run, folder / f"{run.name}.old1")
    both = report.compare(folder)
    assert len(both.table) == 4
    for name in ("bert is not a run directory of kit", "torn", f"{run.name}.old1"):
        assert any(note.startswith("Left out") and name in note for note in both.notes), name


def test_a_path_that_is_no_run_is_refused_with_the_runs_nearby(folder, tmp_path_factory):
    name = sorted(folder.iterdir())[0].name
    with pytest.raises(KitError, match=f"nope is not a run directory.*runs nearby: .*{name}"):
        report.compare([folder / "nope"])
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text("[1]")
    with pytest.raises(KitError, match=f"bert.*runs nearby: .*{name}"):
        report.compare(folder / "bert")
    with pytest.raises(KitError, match="is not a run directory"):
        report.compare(tmp_path_factory.mktemp("empty"))
    with pytest.raises(KitError, match=r"no runs to compare.*kit\.search"):
        report.compare([])


def test_a_run_of_an_older_layout_has_what_it_has(folder):
    old = folder / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"dataset": "digits", "method": "autodha", "seed": 2, "widht": 4}))
    (old / "metrics.json").write_text(json.dumps({"test_accuracy": 0.5, "params": "many"}))
    both = report.compare(folder)
    row = both.table.set_index("run").loc["old"]
    assert (
        row["test_accuracy"] == 0.5 and np.isnan(row["params"]) and np.isnan(row["seconds"]) and not row["front_params"]
    )
    assert "provenance.json is missing" in row["remark"]
    assert "Made by an older version of kit, shown with what they have: old." in both.notes
    (old / "model").mkdir()
    (old / "model" / "model.json").write_text(
        json.dumps({"network": [], "genotype": {"normal": 3, "reduce": [[1], [[2]]]}})
    )
    both = report.compare(folder)
    assert figures.png(figures.tradeoffs(both.table))[:4] == b"\x89PNG"


def test_two_folders_with_the_same_run_are_told_apart(folder, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "runs"
    shutil.copytree(folder, copy)
    both = report.compare([folder, copy])
    assert len(both.table) == both.table["run"].nunique() == 8 and str(copy) in both.table["run"].iloc[-1]


# ---- what is shown -------------------------------------------------------------------------------


def test_the_figure_names_runs_seeds_units_and_rings_the_front(folder):
    both = report.compare(folder)
    figure = figures.tradeoffs(both.table)
    rings = {
        axis: sorted(
            x for t in figure.data if t.name == "Pareto front" and t.xaxis == axis and t.x[0] is not None for x in t.x
        )
        for axis in ("x", "x2", "x3")
    }
    assert rings == {
        "x": [20.0, 50.0],
        "x2": [500.0, 900.0],
        "x3": [5.0, 9.0],
    }  # seconds, parameters, thousands of multiply-adds
    dots = [trace for trace in figure.data if trace.hovertemplate]
    assert sorted(y for t in dots if t.xaxis == "x" for y in t.y) == pytest.approx([95, 96, 97, 98])
    assert {t.name for t in dots} == {
        "DHA: NAS + DA + HPO, joint (n = 2, seeds 0, 1)",
        "DARTS V2 cells, trained (n = 2, seeds 0, 1)",
    }
    assert sum(t.showlegend is not False for t in dots) == 2
    titles = [
        axis.title.text
        for axis in (figure.layout.xaxis, figure.layout.xaxis2, figure.layout.xaxis3, figure.layout.yaxis)
    ]
    assert titles == ["wall-clock of the run [s]", "parameters", "multiply-adds [thousands]", "test accuracy [%]"]
    assert any("nothing is selected by it" in note.text for note in figure.layout.annotations)
    name = both.table["run"][0]
    assert any(name in text and "seed 0" in text for trace in dots for text in trace.text)
    with pytest.raises(KitError, match="no column front_macs"):
        figures.tradeoffs(both.table.drop(columns="front_macs"))


def test_figures_without_anything_to_draw_say_so(tmp_path):
    both = report.compare([write_run(tmp_path, None, method="dha", seed=s) for s in range(2)])
    assert "none of the 2 runs is finished" in figures.tradeoffs(both.table).layout.annotations[0].text
    assert "no two runs" in figures.agreement(both.agreement, both.table).layout.annotations[0].text


def test_what_is_saved_is_complete_and_needs_no_network(folder, tmp_path):
    run = write_run(folder, 0.5, method="ista", metrics={"params": None})
    (run.path / "failure.json").write_text("{}")
    hostile = folder / "<img src=http:--evil>|x"
    run.path.rename(hostile)
    both = report.compare(folder)
    path = both.save(tmp_path / "new")
    page = Fetched(path.read_text())
    assert (
        page.outside == [] and page.pictures == 2 and len(page.scripts) == 1 + 2 + 2
    )  # the table's; two figures'; plotly.js and its call
    assert any("<img src=http:--evil>|x" in words for words in page.words)
    lines = (tmp_path / "new" / "compare.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 5 and len({line.replace("\\|", "").count("|") for line in table}) == 1
    saved = pd.read_csv(tmp_path / "new" / "compare.csv")
    assert saved["test_accuracy"].tolist() == both.table["test_accuracy"].tolist() and "path" not in saved
    assert (tmp_path / "new" / "compare.png").read_bytes()[:4] == b"\x89PNG"
    bundle = both._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/markdown", "text/plain"} and "5 runs" in bundle["text/plain"]


def test_the_table_sorts_and_filters_in_a_browser(folder):
    write_run(folder, None, method="ista", seed=9)
    text = report.compare(folder).html()
    with browser() as page:
        page.set_content(f"<!doctype html><meta charset=utf-8>{text}")

        def column(name: str) -> list[str]:
            heads = page.locator("thead th").all_inner_texts()
            at = next(i for i, head in enumerate(heads) if head.startswith(name)) + 1
            return page.locator(f"tbody tr:not([hidden]) td:nth-child({at})").all_inner_texts()

        accuracies = ["98.00", "97.00", "96.00", "95.00"]
        page.get_by_role("button", name="test accuracy").click()
        assert column("test accuracy") == [*reversed(accuracies), "–"]
        page.get_by_role("button", name="test accuracy").click()
        assert column("test accuracy") == [*accuracies, "–"]  # what is not known stays last
        page.get_by_label("filter test accuracy").fill(">= 96")
        assert column("test accuracy") == accuracies[:3]
        page.get_by_label("filter method").fill("!dha")
        assert column("method") == ["plain"] and "1 of 5 shown" in page.locator("caption").inner_text()
        page.get_by_label("filter test accuracy").fill("")
        assert sorted(column("method")) == ["ista", "plain", "plain"]
        assert page.errors == []
