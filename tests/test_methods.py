"""One contract for every method: it runs, moves only its own variables, resumes bit-identically, and looks at the test
set once.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from tests_micro import Stop, StopAfterEachEpoch, assert_same_run, micro_config

import kit
from kit import Config, Run
from kit.augment import AUGMENT
from kit.hyper import HYPER, Searched, read_bases
from kit.methods import METHODS
from kit.run import store
from kit.search import engine, evaluate
from kit.search.build import holds_out, horizon
from kit.search.engine import Search
from kit.search.grads import Gradient
from kit.search.progress import Silent
from kit.search.signals import Parts

CELLS = ("cell", "partial-cell")
SMALL = {"cell": {}, "choice": {"cells": 4, "channels": 8}, "mobile": {"cells": 4}}
BEFORE = {
    "daas-independent": 2,
    "autohas-phase": 2,
    "autohas-turns": 2,
    "random-search": 2,
    "bayesian": 2,
    "p-darts": 3,
    "pba": 2,
    "fast-autoaugment": 2,
    "asha": 4,
    "hyperband": 4,
}  # epochs before the last stage, else 1
OWN = {  # what is too long for so few epochs, or for a test
    "random-shared": {"candidates": 3},
    "enas": {"candidates": 3},
    "spos": {"candidates": 4, "population": 2},
    "nsga-net": {"candidates": 4, "population": 2},
    "pc-darts": {"warm_up": 0.0},
    "p-darts": {"epochs": 4, "search_cells": 1, "reductions": 0},
    "pba": {"members": 2},
    "pbt": {"members": 2},
    "fast-autoaugment": {"folds": 2, "policy_trials": 2},
    "adversarial-autoaugment": {"copies": 2},
    "asha": {"epochs": 5},
    "hyperband": {"epochs": 5},
}
RECORDS = {"pba": "setting", "fast-autoaugment": "found"}  # what policies that are not distributions keep
VARIANTS: dict[str, dict[str, Any]] = {
    name: {"method": name, "trials": 2, "search_epochs": BEFORE.get(name, 1)}
    | SMALL.get(METHODS[name].space, {})
    | OWN.get(name, {})
    for name in kit.methods()
} | {
    "joint": {"method": "joint", "strength_target": 0.05, "search_epochs": 1},  # so low that it rises at once
    "diffautoml, 4 operations, no HPO": {
        "method": "diffautoml",
        "augment": "pair-softmax-4",
        "hyper": "fixed",
        **SMALL["choice"],
    },
    "diffautoml, its own optimizer": {"method": "diffautoml", "arch": "dsnas-sgd", "arch_lr": 0.1, **SMALL["choice"]},
    "daas, the paper's form": {"method": "daas", "policies": 2, "arch_samples": 2, "children": 3},
    "autohas, architecture warm-up": {"method": "autohas", "arch_warm_up": 1.0, **SMALL["mobile"]},
    "autohas, all hyper-parameters": {
        "method": "autohas",
        "hyper_space": "lr,weight_decay,mixup,dropout,drop_path,optimizer",
        **SMALL["mobile"],
    },
    "sparse coding with DAAS's policy": {"method": "dha", "augment": "policy-gradient"},
    "DAAS's gates with AutoHAS's controller": {
        "method": "dha",
        "arch": "daas",
        "hyper": "reinforce",
        "hyper_space": "lr,dropout",
    },
    "dha, fresh, recovery per step": {"method": "dha", "hyper": "fresh", "recover": "step"},
    "dha, validation": {"method": "dha", "hyper": "validation"},
    "dha, all regularisers": {
        "method": "dha",
        "drop_path": 0.3,
        "auxiliary": 0.4,
        "hold_out": True,
        "max_params": 6000,
    },
    "seq-dha, validation, small search": {
        "method": "seq-dha",
        "hyper": "validation",
        "search_channels": 2,
        "drop_path": 0.3,
    },
    "plain, wrn": {"method": "plain", "space": "wrn-16-2", "augment": "trivialaugment"},
    "plain, autoaugment": {"method": "plain", "augment": "autoaugment", "train_images": 130},
}
RECORDED = json.loads(golden.FILE.read_text())
EPOCHS = 3  # one of search, two of tuning: boundaries inside and between stages


def config_of(variant: str, seed: int = 0) -> Config:
    few = {"epochs": EPOCHS, "seed": seed, "batch_size": 96, "hyper_lr": 0.02}  # so few steps stay within η's reach
    return micro_config(**(few | VARIANTS[variant]))


def steps_of(run: Run) -> list[int]:
    """Steps of each epoch: a stage that holds nothing out has more images."""
    config = run.config
    images = [config.train_images or 240 for _ in run.curve("stage")]
    images = [n * 4 // 5 if holds_out(config, int(s)) else n for n, s in zip(images, run.curve("stage"))]
    return [n // config.batch_size for n in images]


def build_supernet(run: Run) -> kit.space.Network:
    config = run.config
    return kit.space.build(
        config.space, 10, (1, 8, 8), channels=config.channels, cells=config.cells, reductions=config.reductions
    )


class Watch(Silent):
    """Keeps a copy of the run directory as its first epoch leaves it, and notes which sets were evaluated, in order."""

    def __init__(self, out: Path, copies: Path):
        self.out, self.copies, self.seen = out, copies, []

    def start(self, name: str, epochs: int, done: int) -> None:
        self.name = name

    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None:
        if done == 1:
            shutil.copytree(self.out / self.name, self.copies / self.name)

    def score(self, search: engine.Search, part: Any, child: Any = None) -> evaluate.Score:
        sets = search.sets
        name = {id(sets.train): "train", id(sets.val): "val", id(sets.test): "test"}[id(part)]
        self.seen.append(name if child is None else f"{name} for a choice")
        return evaluate.score(search, part, child)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directories of the runs of `finished` after their first epoch."""
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="module")
def finished(micro: str, copies: Path, tmp_path_factory: pytest.TempPathFactory):
    """variant → (its uninterrupted run, the sets that it evaluated); run once."""
    out = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(variant: str) -> tuple[Run, list[str]]:
        watch = Watch(out, copies)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "score", watch.score)
            return kit.search(config_of(variant), out=out, progress=watch), watch.seen

    return run


every_variant = pytest.mark.parametrize("variant", VARIANTS)


@every_variant
def test_the_history_and_weights_are_those_recorded(variant: str, finished):
    """In tests/golden.json, by tests/golden.py."""
    found, recorded = golden.of_run(finished(variant)[0]), RECORDED["runs"][variant]
    if golden.where() == RECORDED["where"]:
        assert found == recorded
    else:  # other kernels round differently, and training amplifies it
        assert found["loss"][0] == pytest.approx(recorded["loss"][0], rel=0.02)
        assert len(found["loss"]) == len(recorded["loss"])


@every_variant
def test_runs_to_the_end_and_leaves_a_whole_run_behind(variant: str, finished):
    run, _ = finished(variant)
    metrics, config = run.metrics, run.config
    assert run.finished and run.status == "finished" and metrics["epochs"] == config.epochs
    assert 0 <= metrics["test_accuracy"] <= 1 and metrics["test_accuracy"] * 60 == pytest.approx(
        round(metrics["test_accuracy"] * 60)
    )
    assert (
        metrics["test_images"] == 60
        and 0 < metrics["test_loss"] < 100
        and metrics["seconds"] > 0
        and metrics["peak_memory_mb"] > 10
    )
    held_out = holds_out(config, len(config.stages) - 1)
    shown = dict(zip(run.history[run.history["name"] == "val_accuracy"]["epoch"], [True] * config.epochs))
    assert all(shown.get(e + 1, False) == holds_out(config, int(s)) for e, s in enumerate(run.curve("stage")))
    known = config.train_images or 240
    assert metrics["train_images"] == (known * 4 // 5 if held_out else known)
    assert (
        metrics["val_images"] == (known // 5 if held_out else 0) and (metrics["val_accuracy"] is not None) == held_out
    )
    assert metrics["steps"] == sum(steps_of(run))
    model = run.model()
    assert metrics["params"] == sum(p.numel() for p in model.parameters()) and metrics["macs"] > 0
    assert config.max_params is None or metrics["params"] <= config.max_params
    if config.space in CELLS:
        build_supernet(run).picks_of(run.genotype)
    else:
        assert (
            (run.genotype == {"network": config.space})
            if config.space.startswith("wrn")
            else set(run.genotype) == {"blocks"}
        )
    searched = set(read_bases(config.hyper_space)) if issubclass(HYPER[config.hyper].make, Searched) else set()
    found = {name.partition("/")[0] for name in run.hyper}  # of several blocks each has a drop_path
    assert run.classes == list("0123456789") and found == {"lr", "weight_decay"} | searched
    assert run.provenance["seed"] == 0 and ("train and val" in run.provenance["trained_on"]) == (not held_out)
    before = any(holds_out(config, i) for i in range(len(config.stages)))
    assert ("searched on train" in run.provenance["trained_on"]) == (before and not held_out)


@every_variant
def test_history_is_tidy_and_finite(variant: str, finished):
    run, _ = finished(variant)
    history, steps = run.history, steps_of(run)
    assert list(history.columns) == ["step", "epoch", "name", "value"] and history["value"].map(np.isfinite).all()
    assert not history.duplicated(["step", "name"]).any()
    for name in ("loss", "train_accuracy", "lr", "weight_decay", "eta/lr", "eta/weight_decay", "stage"):
        assert list(run.curve(name).index) == list(range(1, run.config.epochs + 1))
    ends = np.cumsum(steps)
    assert history[history["name"] == "loss"]["step"].tolist() == ends.tolist()
    assert list(run.curve("step/loss").index) == list(range(1, ends[-1] + 1))
    means = [part.mean() for part in np.split(run.curve("step/loss").to_numpy(), ends[:-1])]
    np.testing.assert_allclose(means, run.curve("loss"), rtol=1e-5)
    assert run.curve("train_accuracy").between(0, 1).all()


@every_variant
def test_moves_only_its_own_variables(variant: str, finished):
    run, _ = finished(variant)
    config = run.config
    stages = [config.stages[int(s)] for s in run.curve("stage")]
    moves = {"lr": config.hyper not in ("fixed", "ift"), "weight_decay": config.hyper not in ("fixed", "hgd")}
    moves = {name: moved and config.hyper_moves in ("both", name) for name, moved in moves.items()}
    if issubclass(HYPER[config.hyper].make, Searched):
        moves = {
            name: False for name in moves
        }  # drawn anew at each step; what has been found is tested with the learner
    else:
        for name, start in (("lr", config.lr), ("weight_decay", config.weight_decay)):
            for now, stage in zip(run.curve(f"eta/{name}"), stages):
                assert (abs(now / start - 1) > 1e-9) == (moves[name] and stage.hyper == "learn"), (name, stage.name)
                start = now
        assert all(run.hyper[name] == pytest.approx(run.curve(f"eta/{name}").iloc[-1]) for name in moves)
    assert run.policy["name"] == config.augment
    if AUGMENT[config.augment].make.learns:
        probabilities, k = np.array(run.policy["probabilities"]), len(run.policy["ops"])
        # Color and Equalize do nothing to the digits
        left = {"pair-softmax": 12, "strength": 12, "pair-softmax-4": 4}
        assert k == left.get(config.augment, 13)
        assert probabilities.shape == (k, k) and probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert abs(probabilities * k * k - 1).max() > 1e-4  # τ moved
        counts = dict(zip(run.tau["epoch"].tolist(), run.tau["counts"].sum((1, 2)).tolist()))
        copies = [config.copies if stage.step == "copies" else 1 for stage in stages]
        images = [c * n * config.batch_size for c, n in zip(copies, steps_of(run))]
        rewarded = config.arch_samples * max(1, config.policies)  # where τ learns on the upper level
        on_top = {"bi-level": "val" in AUGMENT[config.augment].make.needs}
        draws = lambda stage: (rewarded if stage.search else max(1, config.policies)) if on_top.get(stage.step) else 1
        warm = {e: round(stage.warm_up * n) for e, (stage, n) in enumerate(zip(stages, steps_of(run)), 1)}
        expected = {
            e: draws(stage) * (images[e - 1] - warm[e] * config.batch_size)
            for e, stage in enumerate(stages, 1)
            if stage.augment == "learn"
        }
        assert {e: c for e, c in counts.items() if c} == expected
        np.testing.assert_allclose(run.tau["probabilities"][-1], probabilities, atol=1e-7)
    else:
        kept = {RECORDS[config.augment]} if config.augment in RECORDS else set()
        assert set(run.policy) == {"name"} | (kept and kept | {"ops"}) and set(run.tau) == (kept and kept | {"epoch"})
        assert not any(n.startswith("tau/") for n in run.history["name"])


@every_variant
def test_alpha_is_recorded_and_stands_still_where_it_does_not_search(variant: str, finished):
    run, _ = finished(variant)
    alpha = run.alpha
    assert alpha["epoch"].tolist() == list(range(run.config.epochs + 1))
    if run.config.space.startswith("wrn"):
        assert alpha["support"].size == 0
        return
    stages = [run.config.stages[int(s)] for s in run.curve("stage")]
    searched = max(1, sum(stage.search for stage in stages))  # epochs, one for each stage
    taken = 2 if run.config.space in CELLS else 1
    assert all((s.sum(1) == taken).all() for s in alpha["support"])
    if stages[0].search:
        assert not alpha["frozen"][0].any() and alpha["frozen"][searched:].all()
        assert (alpha["alpha"][0] != alpha["alpha"][1]).any() or stages[0].warm_up  # α moved
        picks = build_supernet(run).picks_of(run.genotype)
        assert [tuple(np.flatnonzero(row)) for row in alpha["support"][-1]] == list(picks)
    else:
        assert alpha["frozen"].all()
    assert (
        all((support == alpha["support"][searched]).all() for support in alpha["support"][searched:])
        and (alpha["alpha"][searched] == alpha["alpha"][-1]).all()
    )


@every_variant
def test_the_test_set_is_looked_at_once_and_last(variant: str, finished):
    run, seen = finished(variant)
    seen = [look for look in seen if look != "val for a choice"]
    assert seen.count("test") == 1 and "train" not in seen
    stages = [int(s) for s in run.curve("stage")]
    looks = ["val"] * sum(holds_out(run.config, s) for s in stages)
    assert seen == [*looks, "test", *(["val"] if holds_out(run.config, stages[-1]) else [])]


@every_variant
def test_stopped_between_epochs_and_resumed_it_is_the_same_run(variant: str, finished, copies: Path):
    """From what the first epoch left, stopped again after the second; every time in a new Search."""
    config, run = config_of(variant), finished(variant)[0]
    assert not (copies / config.name / "metrics.json").exists()
    with pytest.raises(Stop):
        kit.search(config, out=copies, progress=StopAfterEachEpoch())
    assert store.read_state(sorted((copies / config.name / "checkpoints").glob("*"))[-1])["epoch"] == 2
    assert_same_run(kit.search(config, out=copies, progress=Silent()), run)


@pytest.mark.parametrize("variant", ["dha", "seq-dha"])
def test_stopped_after_every_epoch_it_is_the_same_run(variant: str, finished, tmp_path: Path):
    """The last time before the evaluation. So two runs with the same seed are bit-identical, too."""
    config = config_of(variant)
    for epoch in range(EPOCHS):
        with pytest.raises(Stop):
            kit.search(config, out=tmp_path, progress=StopAfterEachEpoch())
        assert store.read_state(sorted((tmp_path / config.name / "checkpoints").glob("*"))[-1])["epoch"] == epoch + 1
    assert_same_run(kit.search(config, out=tmp_path, progress=Silent()), finished(variant)[0])


@pytest.mark.parametrize("variant", ["dha", "seq-dha", "random", "plain"])
def test_another_seed_is_another_run(variant: str, finished, tmp_path: Path):
    other = kit.search(config_of(variant, seed=1), out=tmp_path, progress=Silent())
    run = finished(variant)[0]
    assert other.path.name != run.path.name
    assert (other.curve("step/loss").to_numpy() != run.curve("step/loss").to_numpy()).all()
    assert (other.genotype == run.genotype) == (variant == "plain")


def test_a_finished_run_is_read_and_not_run_again(finished, monkeypatch):
    run, _ = finished("dha")
    monkeypatch.setattr(Search, "__init__", lambda *_: pytest.fail("built anew"))
    again = kit.search(config_of("dha"), out=run.path.parent)
    assert again.path == run.path and again.metrics == run.metrics


def test_starting_anew_puts_the_old_run_aside(finished, tmp_path: Path):
    run, config = finished("plain")[0], config_of("plain")
    shutil.copytree(run.path, tmp_path / config.name)
    (tmp_path / config.name / "mark").write_text("old")
    again = kit.search(config, out=tmp_path, resume=False, progress=Silent())
    assert not (again.path / "mark").exists() and (tmp_path / f"{config.name}.old1" / "mark").exists()
    assert_same_run(again, run)


# ---- stages --------------------------------------------------------------------------------------


def after_search(variant: str, tmp_path: Path) -> tuple[Search, Parts]:
    """The engine after the search stage, at the start of the next; the parts that searched."""
    search = Search(config_of(variant), tmp_path / "run")
    before = search.parts
    search.train_epoch()
    assert search.stage_index == 1, "the search stage did not end"
    return search, before


@pytest.mark.parametrize("variant", ["seq-dha", "seq-nas+da", "seq-nas+hpo"])
def test_sequential_methods_restart_weights_schedule_and_learners(variant: str, micro: str, tmp_path: Path):
    search, before = after_search(variant, tmp_path)
    weights, after = before.net.state_dict(), search.parts.net.state_dict()
    assert search.stage.restart and search.began == 1 and horizon(search.config, 1, 1) == EPOCHS - 1
    trained = [k for k, v in after.items() if "weight" in k and v.ndim > 1]
    assert not any(torch.equal(after[k], weights[k]) for k in trained)
    assert not any(v.any() for k, v in after.items() if "running_mean" in k)
    assert search.parts.sgd.moments["sgd/velocity"] == {} and search.parts.sgd.trace is None
    # the search stage learned α alone
    assert before.augment.variables() == [] and before.hyper.variables() == []
    config = search.config
    assert bool(search.parts.augment.variables()) == AUGMENT[config.augment].make.learns
    assert bool(search.parts.hyper.variables()) == (config.hyper != "fixed")
    assert search.parts.net.genotype(search.parts.arch.picks) == before.net.genotype(before.arch.picks)


@pytest.mark.parametrize("variant", ["dha", "ista", "dha, all regularisers"])
def test_joint_methods_go_on_with_the_childs_own_weights(variant: str, micro: str, tmp_path: Path):
    search, before = after_search(variant, tmp_path)
    old, new = before, search.parts
    weights, after = old.net.state_dict(), new.net.state_dict()
    assert search.stage_index == 1 and search.began == 0 and horizon(search.config, 1, 0) == EPOCHS
    assert all(torch.equal(v, weights[k]) for k, v in after.items()) and len(after) < len(weights) / 2
    velocity, before = new.sgd.moments["sgd/velocity"], old.sgd.moments["sgd/velocity"]
    assert velocity and all(torch.equal(v, before[k]) for k, v in velocity.items())
    # the same function of the same images, draws and drop-paths as the supernet's child
    train = search.batches["train"].data
    x, y = train.images[:20], train.labels[:20]
    new.net.generator.set_state(old.net.generator.get_state())
    old.net.drop_path = new.net.drop_path = 0.3
    (a, _), (b, _) = (part.net.train().losses(x, y, part.arch.sample()) for part in (old, new))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert torch.equal(new.augment.sample(9).magnitude, old.augment.sample(9).magnitude)
    assert torch.equal(new.hyper.log, old.hyper.log)
    outer = {name: torch.randn_like(p) for name, p in new.net.named_parameters()}
    grads = [
        [outer[part.sgd.names[id(p)]] for p in part.sgd.trace.parameters if part.sgd.names[id(p)] in outer]
        for part in (old, new)
    ]
    parameters = [[p for p in part.sgd.trace.parameters if part.sgd.names[id(p)] in outer] for part in (old, new)]
    torch.testing.assert_close(
        *(part.sgd.trace.hyper_gradient(Gradient(p, g)) for part, p, g in zip((old, new), parameters, grads)),
        rtol=1e-5,
        atol=1e-7,
    )


def test_all_methods_train_for_the_same_number_of_epochs_and_steps(finished):
    whole = [
        name
        for name in kit.methods()
        if not any(holds_out(config_of(name), i) for i in range(len(config_of(name).stages)))
    ]
    assert {finished(name)[0].metrics["steps"] for name in whole} == {EPOCHS * 2} and len(whole) > 10
    assert {finished(name)[0].metrics["epochs"] for name in kit.methods() if BEFORE.get(name, 1) < 3} == {EPOCHS}


@pytest.mark.parametrize(
    ("variant", "expected"), [("dha", [1.0, 0.5 * (1 + np.cos(np.pi / 3)), 0.25]), ("seq-dha", [1.0, 1.0, 0.5])]
)
def test_the_learning_rate_follows_a_cosine_per_schedule(
    variant: str, expected: list[float], micro: str, tmp_path: Path
):
    run = kit.search(micro_config(method=variant, epochs=EPOCHS, hyper="fixed"), out=tmp_path, progress=Silent())
    rates = run.curve("step/lr").to_numpy().reshape(EPOCHS, 4)[:, 0] / run.config.lr
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
