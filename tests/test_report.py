"""Tables and reports: the statistics against scipy's own, the words against the numbers, the same bytes each time."""

import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy
from scipy import stats
from tests_micro import micro_config
from tests_recorded import write_run

import kit
from kit.errors import KitError
from kit.run import store
from kit.search.progress import Silent
from kit.studies import page, report, study, tables

REPORTS = Path(__file__).parents[1] / "reports"
ENDINGS = (".md", ".html", ".csv", ".tex")


class FakeRun:
    """A finished run with a given accuracy."""

    def __init__(self, method: str, seed: int, accuracy: float, **values):
        self.config = kit.Config(method=method, seed=seed, **values)
        self.path, self.status = f"{method}-{seed}", "finished"
        self.metrics = dict(
            test_accuracy=accuracy, val_accuracy=None, seconds=1.0, peak_memory_mb=1.0, params=1, macs=1
        )


def said(accuracy: dict) -> tuple[pd.DataFrame, dict[str, str]]:
    """The summary by method, and the finding on each."""
    runs = [FakeRun(m, s, float(a)) for m, values in accuracy.items() for s, a in reversed(list(enumerate(values)))]
    summary = tables.summarize(runs).set_index("method")
    return summary, {text.split("`")[1]: text for text in tables.findings(summary, "dha")}


def test_interval_is_students():
    values = np.array([0.91, 0.95, 0.93, 0.97])
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert tables.interval(values) == pytest.approx((0.94, *expected))
    assert np.isnan(tables.interval(np.array([[0.9, 1.0]]))[1:]).all()


def test_differences_are_paired_by_seed_and_said_in_words():
    accuracy = {"dha": [0.90, 0.92, 0.94], "ista": [0.80, 0.83, 0.83], "nas+da": [0.91, 0.91, 0.95], "plain": [0.95]}
    rows, words = said(accuracy)
    paired = np.subtract(accuracy["ista"], accuracy["dha"])
    found = rows.loc["ista", ["difference", "difference_low", "difference_high"]]
    assert found.tolist() == pytest.approx(tables.interval(paired))
    assert rows.loc["ista", "p"] == pytest.approx(stats.ttest_rel(accuracy["ista"], accuracy["dha"]).pvalue)
    assert rows.loc["dha", "n"] == 3 and rows.loc["plain", "pairs"] == 1 and math.isnan(rows.loc["dha", "pairs"])
    assert words["ista"].startswith("`ista` − `dha` = -10.00 [") and words["ista"].endswith("over 3 seeds: lower.")
    assert words["nas+da"].endswith("not distinguishable.") and "too few seeds for an interval" in words["plain"]


def test_an_interval_of_accuracies_is_students_on_the_logit_from_three_runs_on():
    few, some = [0.90, 0.99], [0.02, 0.03, 0.07]
    summary, _ = said({"dha": few, "random": some, "plain": [1.0, 1.0, 1.0], "ista": [0.950, 0.951, 0.952]})
    bounds = summary[["accuracy_low", "accuracy_high"]]
    assert bounds.loc[["dha", "plain"]].isna().all(axis=None) and 0 < bounds.loc["random"].min() < 0.02
    # close to the interval of the logits themselves, and to Student's own where the spread is small
    logits = scipy.special.expit(
        stats.t.interval(0.95, 2, np.mean(scipy.special.logit(some)), stats.sem(scipy.special.logit(some)))
    )
    assert bounds.loc["random"].tolist() == pytest.approx(logits, rel=0.35)
    plain = stats.t.interval(0.95, 2, 0.951, stats.sem([0.950, 0.951, 0.952]))
    assert bounds.loc["ista"].tolist() == pytest.approx(plain, abs=2e-4)


def test_holms_adjustment_is_the_textbooks():
    # four p-values by hand: 0.005·4, 0.01·3, max(0.03·2, …), max(0.04·1, …)
    assert tables.holm(pd.Series([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    missing = tables.holm(pd.Series([math.nan, 0.9, 0.8])).tolist()
    assert math.isnan(missing[0]) and missing[1:] == pytest.approx([1.0, 1.0])


def test_what_does_not_outlast_holms_correction_is_said_so():
    """One comparison that its own interval decides, among four that are chance."""
    noise = [[0.2, -0.1, 0.1], [-0.3, 0.2, 0.15], [0.1, -0.2, 0.3], [0.25, -0.3, 0.2]]
    base = np.array([0.90, 0.92, 0.94])
    others = zip(("nas+da", "nas+hpo", "plain", "random"), noise)
    chance = {method: base + np.array(values) / 20 for method, values in others}
    rows, words = said({"dha": base, "ista": base - [0.010, 0.015, 0.014], **chance})
    assert rows.loc["ista", "p"] < 0.05 < rows.loc["ista", "p_holm"] == pytest.approx(5 * rows.loc["ista", "p"])
    assert "lower by this interval alone, not after Holm's correction" in words["ista"]


def test_accuracies_are_set_beside_the_average_random_childs():
    accuracy = {"dha": [0.90, 0.95, 0.94], "random": [0.88, 0.92, 0.90], "plain": [0.99, 0.98]}
    rows, _ = said(accuracy)
    m, r = (np.array(accuracy[name]) for name in ("dha", "random"))
    low, high = stats.ttest_rel(m, r).confidence_interval(0.95)
    expected = [m.mean() / r.mean() - 1, low / r.mean(), high / r.mean()]
    assert rows.loc["dha", list(tables.RELATIVE)].tolist() == pytest.approx(expected)
    assert rows.loc["plain", "relative"] == pytest.approx((0.11 + 0.06) / 2 / 0.90)  # over the two seeds that both have
    assert rows.loc["plain", list(tables.RELATIVE[1:])].isna().all() and math.isnan(rows.loc["random", "relative"])
    shown = tables.formatted(rows.reset_index(), "digits")["relative to the average random child, % [95%]"]
    assert shown[0].startswith("+3.33 [") and list(shown[1:]) == ["–", "+9.44"]
    alone, _ = said({"dha": [0.9, 0.8], "plain": [0.9]})
    assert alone["relative"].isna().all() and not any(
        "random" in name for name in tables.formatted(alone.reset_index(), "")
    )


def test_how_far_a_search_went_is_read_from_its_records(tmp_path):
    """Six epochs, of which two may search: a node settles in the first, the others are frozen by the cap."""
    support = np.zeros((7, 8, 4), bool)
    support[:, :, :2] = True
    support[2:, 0] = [True, False, True, False]  # one of the 16 first choices is given up
    frozen = np.arange(7)[:, None] >= np.r_[1, [2] * 7]
    alpha = {"epoch": np.arange(7), "alpha": support.astype("f4"), "support": support, "frozen": frozen}
    run = write_run(tmp_path / "run", 6, arrays={"alpha": alpha})
    found = run.found() | {"hyper": {"lr": 0.05, "weight_decay": 3e-4}, "classes": ["a", "b"]}
    store.write_json(run.path / "model" / "model.json", found)
    store.write_json(run.path / "metrics.json", run.metrics | {"seconds": 30.0})
    store.write_arrays(run.path / "clock.npz", {"epoch": np.arange(7), "seconds": np.arange(7) * 4.0})
    assert tables.moved(run) == pytest.approx(
        {
            "tau_kl": 6e-3,
            "alpha_changed": 1 / 16,
            "alpha_settled": 1,
            "alpha_capped": 7,
            "eta_change": 0.5,
            "lr_factor": 0.5,
            "weight_decay_factor": 1.0,
            "search_seconds": 8.0,
            "training_seconds": 22.0,
        }
    )


def test_what_did_not_move_is_not_called_a_search():
    went = {"dha": (0.0099, 0.0, 0.009), "nas+da": (0.2, 0.0, None), "ista": (None, 0.0, None), "plain": (None,) * 3}
    runs = [FakeRun(name, seed, 0.9 + seed / 100) for name in went for seed in (0, 1)]
    for run in runs:
        values = zip(tables.PARTS, went[run.config.method])
        run.metrics |= {name: value for name, value in values if value is not None}
    found = tables.went(summary := tables.summarize(runs))
    assert found["still"] == {"τ": ["dha"], "α": ["dha", "nas+da", "ista"], "η": ["dha"]}
    assert found["unmoved"] == ["dha", "ista"] and list(found["table"]["method"]) == ["`dha`", "`nas+da`", "`ista`"]
    words = tables.findings(summary.set_index("method"), "dha", unmoved=found["unmoved"])
    assert words[0].endswith("no comparison of searches, for nothing moved in `dha`.")
    assert words[1].endswith("no comparison of searches, for nothing moved in `ista` and `dha`.")
    for run in runs:
        run.metrics = {name: value for name, value in run.metrics.items() if name not in tables.NAMES}
    assert tables.went(tables.summarize(runs)) == {"table": None, "still": {}, "unmoved": []}


def test_the_grid_is_checked():
    found = [(c.method, c.seed) for c in study.grid("ablation", "ista, dha", "3,5", {})]
    assert found == [("ista", 3), ("dha", 3), ("ista", 5), ("dha", 5)]
    assert len(study.grid("ablation", "all", 1, {})) == 10 and len(study.grid("methods", "all", 1, {})) == 19
    assert [c.seed for c in study.grid("ablation", "dha", "0", {})] == [0]  # a list of one, not none
    for methods, seeds, says in (
        ("isto", 1, "Did you mean 'ista'"),
        ("dha", "many", "seeds='many'"),
        ("dha", 0, "seed"),
    ):
        with pytest.raises(KitError, match=says):
            study.grid("ablation", methods, seeds, {})


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    other = micro_config("ista", seed=1)
    return [finished, kit.search(other, out=tmp_path_factory.mktemp("runs"), progress=Silent())]


@pytest.fixture(scope="module")
def path(runs, tmp_path_factory):
    return report.write("ablation", runs, tmp_path_factory.mktemp("reports"), note="Alone on the machine.")


def test_the_report_is_complete(runs, path):
    text, whole, latex = (path.with_suffix(end).read_text() for end in (".md", ".html", ".tex"))
    assert path.name == "ablation-micro_digits.md"
    for part in ("`dha`", "`ista`", "seeds 0, 1", "2 epochs", "240 images", "60 images", "train and val together"):
        assert part in text, part
    for part in ("98.11 ± 0.26 (76.6 h)", "`channels` 4", runs[0].provenance["commit"], "Alone on the machine."):
        assert str(part) in text, part
    for part in (
        "| `ista` | 1 | –",
        "top-5, %",
        "seconds of search",
        "add `random` to the methods",
        "A part counts as moved",
    ):
        assert part in text, part
    assert not re.search(r'(src|href)="(?!data:)', whole)
    assert whole.count("data:image/png;base64,") == text.count("![") > 0
    assert path.with_suffix(".csv").read_text().count("\n") == 1 + len(runs)
    assert latex.count(r"\\") == 1 + 2 and r"\toprule" in latex and r"\label{tab:ablation-micro_digits}" in latex
    assert not re.search(r"(?<!\\)[%#]", latex)


def test_a_report_is_made_again_from_its_summary_byte_by_byte(runs, path, tmp_path):
    kept = path.with_suffix(".json").read_text()
    assert str(runs[0].path.parent) not in kept and len(kept) < 1_000_000
    shutil.copytree(path.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / path.name
    for ending in ENDINGS:
        copy.with_suffix(ending).unlink()
    report.rewrite(copy.with_suffix(".json"))
    for file in path.parent.iterdir():
        assert (copy.parent / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_committed_reports_are_what_their_summaries_say(tmp_path):
    """`make reports` changes nothing: after a change of what reports say, run it and commit what it writes."""
    shutil.copytree(REPORTS, tmp_path / "reports")
    for path in (tmp_path / "reports").glob("*.json"):
        report.rewrite(path)
    for path in sorted((tmp_path / "reports").iterdir()):
        assert path.read_bytes() == (REPORTS / path.name).read_bytes(), path.name


def test_every_committed_report_is_listed():
    listed = set(re.findall(r"\(([^)]+)\)", (REPORTS / "README.md").read_text()))
    there = {path.name for ending in ("md", "html", "csv", "tex", "json") for path in REPORTS.glob(f"*.{ending}")}
    assert listed >= there - {"README.md"} and all((REPORTS / name).is_file() for name in listed if "." in name)


def test_what_cannot_be_reported_is_refused(tmp_path):
    with pytest.raises(KitError, match="no finished runs"):
        report.write("ablation", [], tmp_path)
    unfinished = FakeRun("dha", 0, 0.9)
    unfinished.metrics, unfinished.status = {}, "interrupted"
    with pytest.raises(KitError, match="not finished"):
        tables.per_run([unfinished])
    (tmp_path / "other.json").write_text('{"study": "x", "runs": [1]}')
    with pytest.raises(KitError, match="no summary of a report's runs, of study ablation"):
        report.rewrite(tmp_path / "other.json")


def test_text_of_others_is_escaped():
    table = pd.DataFrame({"a|b": ["x\n| <script>", "50 % _ & <"]})
    assert page.markdown_table(table).splitlines()[2] == "| x \\| &lt;script> |"
    assert "<script>" not in page.html("# t\n\n<script>alert(1)</script>\n\n" + page.markdown_table(table))


def test_what_a_configuration_changes_is_told():
    assert report.changes(kit.Config(method="dha")) == {}
    assert report.changes(kit.Config(method="dha", lr=0.2)) == {"lr": 0.2}


def test_mixing_trains_every_architecture_with_every_policy():
    with pytest.raises(KitError, match="mixing needs two finished runs"):
        study.mixed_grid([])
    kept = {"mixup": 0.2, "dropout": 0.1, "hold_out": True, "drop_path": 0.3, "cutout": True}
    config = kit.Config(method="daas", warm_up=0.5, **kept)
    searched = [SimpleNamespace(finished=True, policy={"probabilities": []}, config=config, path=p) for p in "ab"]
    mixed = study.mixed_grid(searched)
    assert [(c.genotype, c.policy) for c in mixed] == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    assert all(getattr(c, name) == value for c in mixed for name, value in kept.items())
    runs = [
        SimpleNamespace(config=SimpleNamespace(genotype=a, policy=t), metrics={"test_accuracy": k})
        for k, (a, t) in enumerate([("x/a", "x/a"), ("x/a", "x/b"), ("x/b", "x/a"), ("x/b", "x/b")])
    ]
    table = study.mixed_table(runs)
    assert table.loc["b", "a"] == 2 and table.shape == (2, 2)
