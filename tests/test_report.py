"""Tables and the ablation report: the statistics against scipy's own, the words against the numbers, nothing that changes by itself."""

import math
import re

import numpy as np
import pytest
from scipy import stats

import kit
from kit import report
from kit.errors import KitError

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
        self.metrics = dict(test_accuracy=accuracy, val_accuracy=None, seconds=1.0, peak_memory_mb=1.0, params=1, macs=1)


def test_differences_are_paired_by_seed_and_said_in_words():
    accuracy = {"dha": [0.90, 0.92, 0.94], "ista": [0.80, 0.83, 0.83], "nas+da": [0.91, 0.91, 0.95], "plain": [0.95]}
    summary = report.summarize([FakeRun(m, s, a) for m, values in accuracy.items() for s, a in reversed(list(enumerate(values)))])
    rows = summary.set_index("method")
    paired = np.subtract(accuracy["ista"], accuracy["dha"])
    assert rows.loc["ista", "difference"] == pytest.approx(paired.mean())
    assert (rows.loc["ista", "difference_low"], rows.loc["ista", "difference_high"]) == pytest.approx(report.interval(paired))
    assert rows.loc["ista", "p"] == pytest.approx(stats.ttest_rel(accuracy["ista"], accuracy["dha"]).pvalue)
    assert rows.loc["dha", "n"] == 3 and rows.loc["plain", "pairs"] == 1
    words = dict(zip(("ista", "nas+da", "plain"), report.findings(summary)))
    assert words["ista"].endswith("`dha` is better.")
    assert words["nas+da"].endswith("not distinguishable.")
    assert "one seed says nothing" in words["plain"]


def test_the_report_is_complete_and_the_same_twice(runs, tmp_path):
    path = report.ablation(runs, tmp_path)
    text = path.read_text()
    for part in ("`dha`", "`ista`", "seeds 0, 1", "2 epochs", "1,348 images", "449 images", "train and val together", "98.11 ± 0.26 (76.6 h)",
                 "-p dataset digits -p preset laptop -p seeds 2 -p methods dha,ista -p epochs 2", str(runs[0].provenance["commit"])):  # fmt: skip
        assert part in text, part
    page = (tmp_path / "ablation-digits.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and page.count("data:image/png;base64,") == text.count("![") > 0
    assert (tmp_path / "ablation-digits.csv").read_text().count("\n") == 1 + len(runs)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    report.ablation(runs, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_grid_is_checked():
    assert [(c.method, c.seed) for c in report.ablation_grid("ista,dha", "3,5", {})] == [("ista", 3), ("dha", 3), ("ista", 5), ("dha", 5)]
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
