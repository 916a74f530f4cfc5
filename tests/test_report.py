"""Tables and the ablation report: the statistics against scipy's own, the words against the numbers, nothing that
changes by itself.
"""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import kit
from kit.errors import KitError
from kit.studies import report

MICRO = dict(epochs=2, search_epochs=1, channels=4, cells=3, batch_size=512, search_channels=4, search_cells=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    configs = report.ablation_grid("dha,ista", 2, MICRO)
    return [kit.search(config, out=out, progress=kit.progress.Silent()) for config in configs]


def test_interval_is_students():
    values = [0.91, 0.95, 0.93, 0.97]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert report.interval(values) == pytest.approx(expected)
    assert all(math.isnan(v) for v in report.interval([0.9]))


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
    summary = report.summarize(
        [FakeRun(m, s, a) for m, values in accuracy.items() for s, a in reversed(list(enumerate(values)))]
    )
    rows = summary.set_index("method")
    paired = np.subtract(accuracy["ista"], accuracy["dha"])
    assert rows.loc["ista", "difference"] == pytest.approx(paired.mean())
    assert (rows.loc["ista", "difference_low"], rows.loc["ista", "difference_high"]) == pytest.approx(
        report.interval(paired)
    )
    assert rows.loc["ista", "p"] == pytest.approx(stats.ttest_rel(accuracy["ista"], accuracy["dha"]).pvalue)
    assert rows.loc["dha", "n"] == 3 and rows.loc["plain", "pairs"] == 1
    words = dict(zip(("ista", "nas+da", "plain"), report.findings(summary)))
    assert words["ista"].endswith("`dha` is better.")
    assert words["nas+da"].endswith("not distinguishable.")
    assert "one seed says nothing" in words["plain"]


def test_the_report_is_complete_and_the_same_twice(runs, tmp_path):
    path = report.ablation(runs, tmp_path)
    text = path.read_text()
    for part in (
        "`dha`",
        "`ista`",
        "seeds 0, 1",
        "2 epochs",
        "1,348 images",
        "449 images",
        "train and val together",
        "98.11 ± 0.26 (76.6 h)",
        "-p dataset digits -p preset laptop -p seeds 2 -p methods dha,ista -p epochs 2",
        str(runs[0].provenance["commit"]),
    ):
        assert part in text, part
    page = (tmp_path / "ablation-digits.html").read_text()
    assert (
        not re.search(r'(src|href)="(?!data:)', page) and page.count("data:image/png;base64,") == text.count("![") > 0
    )
    assert (tmp_path / "ablation-digits.csv").read_text().count("\n") == 1 + len(runs)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    report.ablation(runs, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_data_set_may_have_several_reports(runs, tmp_path):
    path = report.ablation(runs, tmp_path, name="ablation-digits-short")
    text = path.read_text()
    assert path.name == "ablation-digits-short.md" and text.startswith("# Joint search beside other methods: digits\n")
    assert " -p name ablation-digits-short`" in text and "](ablation-digits-short-accuracy.png)" in text
    assert not list(tmp_path.glob("ablation-digits.*"))
    path.unlink()
    assert report.rewrite(tmp_path / "ablation-digits-short.json").read_text() == text


def test_the_grid_is_checked():
    assert [(c.method, c.seed) for c in report.ablation_grid("ista,dha", "3,5", {})] == [
        ("ista", 3),
        ("dha", 3),
        ("ista", 5),
        ("dha", 5),
    ]
    assert [c.method for c in report.ablation_grid("all", 1, {})] == list(report.STUDIES["ablation"].methods)
    with pytest.raises(KitError, match="Did you mean 'ista'"):
        report.ablation_grid("isto", 1, {})
    for seeds in ("many", 0):
        with pytest.raises(KitError, match="seeds"):
            report.ablation_grid("dha", seeds, {})


def test_what_cannot_be_reported_is_refused(runs, tmp_path):
    with pytest.raises(KitError, match="no finished runs"):
        report.ablation([], tmp_path)
    (runs[0].path / "metrics.json").rename(runs[0].path / "aside")
    try:
        with pytest.raises(KitError, match="not finished"):
            report.per_run(runs)
    finally:
        (runs[0].path / "aside").rename(runs[0].path / "metrics.json")


def test_holms_adjustment_is_the_textbooks():
    # four p-values by hand: 0.005·4, 0.01·3, max(0.03·2, …), max(0.04·1, …)
    assert report.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert report.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    missing = report.holm([math.nan, 0.02, 0.01])
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
    summary = report.summarize(
        [FakeRun(m, s, float(a)) for m, values in accuracy.items() for s, a in enumerate(values)]
    )
    row = summary.set_index("method").loc["ista"]
    assert row["p"] < 0.05 < row["p_holm"] == pytest.approx(5 * row["p"])
    assert "by this interval alone, not after Holm's correction" in report.findings(summary)[0]


def test_a_report_is_made_again_from_its_summary_byte_by_byte(runs, tmp_path):
    path = report.ablation(runs, tmp_path / "first", note="Alone on the machine.")
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    kept = path.with_suffix(".json").read_text()
    assert str(runs[0].path.parent) not in kept and len(kept) < 1_000_000
    for p in path.parent.iterdir():
        if p.suffix in (".md", ".html", ".csv", ".tex"):
            p.unlink()
    assert report.rewrite(path.with_suffix(".json")) == path
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    (tmp_path / "other.json").write_text('{"layout": 1, "study": "ablation"}')
    with pytest.raises(KitError, match="no summary of a report's runs"):
        report.rewrite(tmp_path / "other.json")


def test_the_committed_reports_are_what_their_summaries_say(tmp_path):
    """`make reports` changes nothing: after a change of what reports say, run it and commit what it writes."""
    kept = Path(__file__).parents[1] / "reports"
    shutil.copytree(kept, tmp_path / "reports")
    subprocess.run(
        [sys.executable, "-m", "kit.studies.report", str(tmp_path / "reports")], check=True, stdout=subprocess.DEVNULL
    )
    for path in sorted((tmp_path / "reports").iterdir()):
        assert path.read_bytes() == (kept / path.name).read_bytes(), path.name


def test_the_index_lists_every_report_once(runs, tmp_path):
    report.ablation(runs, tmp_path)
    (tmp_path / "by-hand.md").write_text("# Measured | by hand\n")
    path = report.index(tmp_path)
    text = path.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert path.name == "README.md" and len(rows) == 2 and report.index(tmp_path).read_text() == text
    assert (
        rows[0].startswith("| [Joint search beside other methods: digits]")
        and "ablation-digits.json" in rows[0]
        and "ablation-digits.html" in rows[0]
    )
    assert rows[1] == r"| [Measured \| by hand](by-hand.md) | – | – |"


def test_the_latex_table_is_whole(runs, tmp_path):
    lines = (report.ablation(runs, tmp_path).with_suffix(".tex")).read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("method &"))
    rows = [line for line in lines[head:] if line.endswith(r"\\")]
    assert len(rows) == 1 + 2 and {line.count("&") for line in rows} == {8}
    assert all(
        any(rule in line for line in lines)
        for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption", r"\label{tab:digits}")
    )
    assert not any(re.search(r"(?<!\\)[%_#]", line) for line in lines if not line.startswith(r"\label"))
