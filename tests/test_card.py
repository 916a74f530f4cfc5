"""The model card says what the run's files say."""

from __future__ import annotations

import json
import re

import pytest

import kit
from kit import KitError, Run
from kit.run import store
from kit.run.card import accuracy_interval, card


@pytest.fixture(scope="module")
def text(finished: Run) -> str:
    return finished.card()


def row(text: str, name: str) -> str:
    return re.search(rf"^\| {re.escape(name)} \| (.*) \|$", text, re.M).group(1)


def test_the_numbers_are_the_runs(finished: Run, text: str):
    m = finished.metrics
    low, high = accuracy_interval(m["test_accuracy"], 60)
    assert row(text, "test accuracy").startswith(
        f"{m['test_accuracy']:.2%}, 95% interval {low:.2%} to {high:.2%} (Wilson, n = 60 images"
    )
    assert row(text, "parameters") == f"{m['params']:,}" and row(text, "multiply-adds per image").startswith(
        f"{m['macs']:,} "
    )
    assert re.match(r"[\d.]+ ms for a batch of 1, float32, on .+, 1 thread\(s\) \(torch ", row(text, "latency"))
    assert (
        row(text, "seed") == str(finished.config.seed)
        and "`dha`" in row(text, "method")
        and row(text, "training").startswith("2 epochs, 8 steps of 60")
    )
    assert all(
        f"{name} = {value:.4g}" in row(text, "hyper-parameters η at the end") for name, value in finished.hyper.items()
    )
    assert row(text, "split") == finished.provenance["split"] and row(text, "commit") == str(
        finished.provenance["commit"]
    )
    assert finished.provenance["processor"] in text and "limits it was searched under" not in text
    assert row(text, "balanced test accuracy").startswith(f"{m['test_balanced_accuracy']:.2%} ")


def test_the_genotype_can_be_taken_back(finished: Run, text: str, tmp_path):
    (block,) = re.findall(r"```json\n(.*?)\n```", text, re.S)
    assert json.loads(block) == finished.genotype
    (tmp_path / "g.json").write_text(block)
    assert kit.Config(method="plain", genotype=str(tmp_path / "g.json")).genotype


def test_the_policy_is_named_with_its_likeliest_pairs(finished: Run):
    policy = {"name": "pair-softmax", "ops": ["Rotate", "Identity"], "probabilities": [[0.1, 0.6], [0.25, 0.05]]}
    from kit.run.card import _policy

    said = _policy(policy)
    assert "the likeliest: Rotate then Identity 60.0%, Identity then Rotate 25.0%, Rotate then Rotate 10.0%" in said
    assert "0.353 nats from uniform over 4 ordered pairs" in said  # Σ p log(4 p)
    assert _policy({"name": "flip-crop"}) == "`flip-crop`, fixed"
    assert row(finished.card(), "augmentation policy τ").startswith("`pair-softmax`, learned:")


@pytest.mark.parametrize(
    ("accuracy", "n", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (1.0, 100, 0.9630, 1.0), (0.0, 20, 0.0, 0.1611), (0.9, 1000, 0.8798, 0.9171)],
)
def test_wilsons_interval(accuracy: float, n: int, low: float, high: float):
    assert accuracy_interval(accuracy, n) == pytest.approx((low, high), abs=1e-4)


def changed(run: Run, tmp_path, name: str, **values) -> Run:
    """The run with some entries of one of its files changed, in a directory of its own."""
    import shutil

    shutil.copytree(run.path, tmp_path / run.path.name)
    path = tmp_path / run.path.name / name
    store.write_json(path, store.read_json(path) | values)
    return Run.load(tmp_path / run.path.name)


def test_what_only_some_runs_have_is_named(finished: Run, tmp_path):
    other = changed(
        finished, tmp_path, "metrics.json", test_balanced_accuracy=None, val_accuracy=0.25, val_images=48, seconds=7300
    )
    store.write_json(
        other.path / "config.json",
        store.read_json(other.path / "config.json") | {"max_params": 12345, "max_latency_ms": 2.5},
    )
    text = card(Run.load(other.path))
    assert "balanced" not in text and row(text, "validation accuracy") == "25.00% (n = 48)"
    assert (
        row(text, "limits it was searched under") == "max_params = 12,345, max_latency_ms = 2.5"
        and row(text, "wall-clock") == "2.0 h"
    )


def test_a_set_that_kit_does_not_know_has_no_licence(finished: Run, tmp_path):
    text = card(changed(finished, tmp_path, "config.json", dataset="/data/our | images"))
    assert (
        text.startswith("# our | images: ")
        and "licence are its owner's to state" in row(text, "about")
        and row(text, "name") == "our ∣ images"
    )


def test_it_says_what_was_not_tested(text: str):
    assert all(
        word in text
        for word in (
            "Another camera",
            "calibrated",
            "adversarial",
            "names one of them all the same",
            "one run with one seed",
        )
    )


def test_a_run_that_is_not_finished_has_no_card(interrupted: Run):
    with pytest.raises(KitError, match=r"is not finished \(interrupted\)"):
        interrupted.card()


def test_the_card_lies_beside_the_export_and_names_the_check(finished: Run, tmp_path):
    exported = finished.export(tmp_path / "model.safetensors")
    text = (tmp_path / "model.safetensors.md").read_text()
    assert text.endswith(f"## This file\n\n{exported.sentence()}.\n") and row(text, "run") == finished.path.name
