"""Tables and reports: the statistics against scipy's own, the words against the numbers, the same bytes each time."""

import itertools
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kit
from kit.errors import KitError
from kit.search.progress import Silent
from kit.studies import render, report, summaries, tables

MICRO = dict(epochs=2, search_epochs=1, channels=4, cells=3, batch_size=60, search_channels=4, search_cells=3)


@pytest.fixture(scope="module")
def runs(micro, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    configs = report.grid("ablation", "dha,ista", 2, MICRO | {"dataset": micro})
    return [kit.search(config, out=out, progress=Silent()) for config in configs]


def test_interval_is_students():
    values = [0.91, 0.95, 0.93, 0.97]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert tables.interval(values) == pytest.approx(expected)
    assert all(math.isnan(v) for v in tables.interval([0.9]))


class FakeRun:
    """A finished run with a given accuracy."""

    def __init__(self, method: str, seed: int, accuracy: float):
        self.config = kit.Config(method=method, seed=seed)
        self.path, self.status = f"{method}-{seed}", "finished"
        self.metrics = dict(
            test_accuracy=accuracy, val_accuracy=None, seconds=1.0, peak_memory_mb=1.0, params=1, macs=1
        )


def test_differences_are_paired_by_seed_and_said_in_words():
    accuracy = {"dha": [0.90, 0.92, 0.94], "ista": [0.80, 0.83, 0.83], "nas+da": [0.91, 0.91, 0.95], "plain": [0.95]}
    summary = tables.summarize(
        [FakeRun(m, s, a) for m, values in accuracy.items() for s, a in reversed(list(enumerate(values)))]
    )
    rows = summary.set_index("method")
    paired = np.subtract(accuracy["ista"], accuracy["dha"])
    assert rows.loc["ista", "difference"] == pytest.approx(paired.mean())
    assert (rows.loc["ista", "difference_low"], rows.loc["ista", "difference_high"]) == pytest.approx(
        tables.interval(paired)
    )
    assert rows.loc["ista", "p"] == pytest.approx(stats.ttest_rel(accuracy["ista"], accuracy["dha"]).pvalue)
    assert rows.loc["dha", "n"] == 3 and rows.loc["plain", "pairs"] == 1
    words = dict(zip(("ista", "nas+da", "plain"), tables.findings(summary)))
    assert words["ista"].endswith("`dha` is better.")
    assert words["nas+da"].endswith("not distinguishable.")
    assert "one seed says nothing" in words["plain"]


@pytest.fixture(scope="module")
def path(runs, tmp_path_factory):
    return report.write("ablation", runs, tmp_path_factory.mktemp("reports"), note="Alone on the machine.")


def test_the_report_is_complete(runs, path):
    text = path.read_text()
    for part in (
        "`dha`",
        "`ista`",
        "seeds 0, 1",
        "2 epochs",
        "240 images",
        "60 images",
        "train and val together",
        "98.11 ± 0.26 (76.6 h)",
        "-p dataset micro_digits -p preset laptop -p seeds 2 -p methods dha,ista -p epochs 2",
        str(runs[0].provenance["commit"]),
        "note: Alone on the machine.",
    ):
        assert part in text, part
    page = path.with_suffix(".html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") == text.count("![") > 0
    assert path.with_suffix(".csv").read_text().count("\n") == 1 + len(runs)


def test_a_data_set_may_have_several_reports(path, tmp_path):
    other = tmp_path / "ablation-micro_digits-short.json"
    shutil.copy(path.with_suffix(".json"), other)
    text = report.rewrite(other).read_text()
    assert text.startswith("# Joint search beside other methods: micro_digits\n")
    assert " -p name ablation-micro_digits-short`" in text and not list(tmp_path.glob("ablation-micro_digits.*"))


def test_the_grid_is_checked():
    assert [(c.method, c.seed) for c in report.grid("ablation", "ista,dha", "3,5", {})] == [
        ("ista", 3),
        ("dha", 3),
        ("ista", 5),
        ("dha", 5),
    ]
    assert [c.method for c in report.grid("ablation", "all", 1, {})] == list(report.STUDIES["ablation"].methods)
    with pytest.raises(KitError, match="Did you mean 'ista'"):
        report.grid("ablation", "isto", 1, {})
    for seeds in ("many", 0):
        with pytest.raises(KitError, match="seeds"):
            report.grid("ablation", "dha", seeds, {})


def test_what_cannot_be_reported_is_refused(tmp_path):
    with pytest.raises(KitError, match="no finished runs"):
        report.write("ablation", [], tmp_path)
    unfinished = FakeRun("dha", 0, 0.9)
    unfinished.metrics, unfinished.status = {}, "interrupted"
    with pytest.raises(KitError, match="not finished"):
        tables.per_run([unfinished])
    for text, says in (
        ('{"layout": 1, "study": "ablation"}', "no summary of a report's runs"),
        ('{"layout": 1, "study": "x", "runs": [], "note": "", "pictures": []}', "known: ablation, methods"),
    ):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(KitError, match=says):
            report.rewrite(tmp_path / "other.json")


def test_holms_adjustment_is_the_textbooks():
    # four p-values by hand: 0.005·4, 0.01·3, max(0.03·2, …), max(0.04·1, …)
    assert tables.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert tables.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    missing = tables.holm([math.nan, 0.02, 0.01])
    assert math.isnan(missing[0]) and missing[1:] == pytest.approx([0.02, 0.02])


def test_what_does_not_outlast_holms_correction_is_said_so():
    """One comparison that its own interval decides, among four that are chance."""
    noise = [[0.2, -0.1, 0.1], [-0.3, 0.2, 0.15], [0.1, -0.2, 0.3], [0.25, -0.3, 0.2]]
    names = ("nas+da", "nas+hpo", "plain", "random")
    base = np.array([0.90, 0.92, 0.94])
    accuracy = {
        "dha": base,
        "ista": base - [0.010, 0.015, 0.014],
        **{m: base + np.array(d) / 20 for m, d in zip(names, noise)},
    }
    summary = tables.summarize(
        [FakeRun(m, s, float(a)) for m, values in accuracy.items() for s, a in enumerate(values)]
    )
    row = summary.set_index("method").loc["ista"]
    assert row["p"] < 0.05 < row["p_holm"] == pytest.approx(5 * row["p"])
    assert "by this interval alone, not after Holm's correction" in tables.findings(summary)[0]


def test_a_report_is_made_again_from_its_summary_byte_by_byte(runs, path, tmp_path):
    kept = path.with_suffix(".json").read_text()
    assert str(runs[0].path.parent) not in kept and len(kept) < 1_000_000
    shutil.copytree(path.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / path.name
    for ending in (".md", ".html", ".csv", ".tex"):
        copy.with_suffix(ending).unlink()
    assert report.rewrite(copy.with_suffix(".json")) == copy
    for file in path.parent.iterdir():
        assert (copy.parent / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_committed_reports_are_what_their_summaries_say(tmp_path):
    """`make reports` changes nothing: after a change of what reports say, run it and commit what it writes."""
    kept = Path(__file__).parents[1] / "reports"
    shutil.copytree(kept, tmp_path / "reports")
    report.main([str(tmp_path / "reports")])
    for path in sorted((tmp_path / "reports").iterdir()):
        assert path.read_bytes() == (kept / path.name).read_bytes(), path.name


def test_the_index_lists_every_report_once(path, tmp_path):
    for file in path.parent.glob(f"{path.stem}.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "by-hand.md").write_text("# Measured | by hand\n")
    listed = report.index(tmp_path)
    text = listed.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert listed.name == "README.md" and len(rows) == 2 and report.index(tmp_path).read_text() == text
    assert (
        rows[0].startswith("| [Joint search beside other methods: micro_digits]")
        and "ablation-micro_digits.json" in rows[0]
        and "ablation-micro_digits.html" in rows[0]
    )
    assert rows[1] == r"| [Measured \| by hand](by-hand.md) | – | – |"


def test_the_latex_table_is_whole(path):
    lines = path.with_suffix(".tex").read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("method &"))
    rows = [line for line in lines[head:] if line.endswith(r"\\")]
    assert len(rows) == 1 + 2 and {line.count("&") for line in rows} == {8}
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption", r"\label{tab:micro_digits}"):
        assert any(rule in line for line in lines), rule
    assert not any(re.search(r"(?<!\\)[%_#]", line) for line in lines if not line.startswith(r"\label"))


def test_text_of_others_is_escaped():
    table = pd.DataFrame({"a|b": ["x\n| <script>", "50 % _ & <"]})
    assert render.markdown_table(table).splitlines()[2] == "| x \\| <script> |"
    assert r"50 \% \_ \& $<$" in render.latex_table(table, "of a_b", "t")
    page = render.html_report("# t\n\n<script>alert(1)</script>\n\n" + render.markdown_table(table), Path())
    assert "<script>" not in page


def test_what_a_configuration_changes_is_told():
    assert summaries.changes(kit.Config(method="dha")) == {}
    assert summaries.changes(kit.Config(method="dha", epochs=9, lr=0.2)) == {"epochs": 9, "lr": 0.2}


def test_mixing_trains_every_architecture_with_every_policy(tmp_path):
    with pytest.raises(KitError, match="mixing needs two finished runs"):
        report.mixed_grid([])
    mixed = [FakeRun("plain", 0, accuracy) for accuracy in (0.1, 0.2, 0.3, 0.4)]
    for run, (arch, tau) in zip(mixed, itertools.product("ab", repeat=2)):
        run.config = SimpleNamespace(genotype=arch, policy=tau)
    table = report.mixed_table(mixed)
    assert table.loc["architecture 2", "policy 1"] == 0.3 and table.shape == (2, 2)
