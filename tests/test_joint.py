"""The strength of augmentation that follows the training, and the method `joint`."""

from __future__ import annotations

import pytest
import torch
from tests_micro import micro_config

import kit
from kit import data
from kit.augment import OPS, Basics
from kit.search import build
from kit.search.progress import Silent
from kit.zoo.joint import Strength


def policy(**options) -> Strength:
    return Strength(
        Basics(),
        torch.Generator().manual_seed(0),
        **({"ops": ("Rotate", "Invert"), "epochs": 1, "strength_start": 0.0} | options),
    )


def trained(p: Strength, steps: int, probability) -> list[float]:
    """probability(strength) of the images' classes. Returns the strength after each step."""
    seen = []
    for _ in range(steps):
        losses = -torch.log(torch.full((32,), probability(float(p.amount))))
        p.update(p.sample(32), losses=losses)
        seen.append(float(p.amount))
    return seen


def test_it_stays_at_nothing_while_the_images_are_not_fitted_and_goes_to_all_where_they_are_whatever_is_done():
    assert max(trained(policy(steps=100), 100, lambda strength: 0.79)) == 0
    risen = trained(policy(steps=100, strength_reach=4.0), 30, lambda strength: 1.0)
    assert risen[23] == pytest.approx(0.96) and risen[-1] == 1.0  # a quarter of the run for the whole way


@pytest.mark.parametrize(("epochs", "start"), [(25, 0.25), (100, 1.0), (600, 1.0)])
def test_the_more_often_images_are_seen_the_stronger_it_begins_and_it_never_falls_below(epochs: int, start: float):
    p = policy(steps=100, epochs=epochs, strength_start=None)
    assert float(p.amount) == pytest.approx(start)
    assert trained(p, 20, lambda strength: 0.1)[-1] == pytest.approx(start)
    assert trained(p, 30, lambda strength: 1.0)[-1] == 1.0


@pytest.mark.parametrize("target", [0.7, 0.9])
def test_it_settles_where_the_images_are_held_at_the_target(target: float):
    p = policy(steps=400, strength_target=target)
    seen = trained(p, 400, lambda strength: 1 - 0.5 * strength)
    assert seen[-1] == pytest.approx((1 - target) / 0.5, abs=1e-3)


def test_a_strength_is_a_share_of_the_images_and_of_the_magnitudes():
    p = policy()
    p.amount.fill_(0.3)
    draw = p.draw(1000)
    on, still = draw.choices[:, 0].bool(), draw.ops == OPS.index("Identity")
    assert 230 < on.sum() < 370 and torch.equal(still.all(1), ~on) and not still[on].any()
    assert 2.9 < draw.magnitude.max() <= 3


@pytest.mark.parametrize(("space", "seed"), [("cell", 0), ("cell", 1), ("cell", 2), ("nas-bench-201", 0)])
def test_architectures_begin_at_the_usual_one_and_leave_it_where_the_gradient_says_so(
    space: str, seed: int, micro: str
):
    config = micro_config("ista", space=space, arch="sparse-known", seed=seed, recover="step", cells=3)
    sets = data.load_dataset(config.dataset)
    arch = build.Plan(config, config.stages[0], sets, torch.device("cpu"), steps=30).parts().arch
    net = arch.limits.network
    known = net.picks_of(net.genotypes[net.usual])
    assert [set(picks) for picks in arch.picks] == [set(picks) for picks in known]
    torch.testing.assert_close(
        arch.alpha[0, list(arch.picks[0])], torch.ones(len(known[0]), dtype=torch.float64), atol=0.02, rtol=0
    )
    for _ in range(30):  # every operation is worse than nothing
        child = arch.sample()
        arch.update(child, gates=[torch.ones(len(picks)) for picks in child.picks])
    arch.recover()
    assert sum(a != b for a, b in zip(arch.picks, known)) > len(known) / 2


def test_joint_runs_resumes_to_the_bit_and_keeps_its_strength_in_the_history(micro: str, tmp_path):
    class Stop(Exception):
        pass

    class StopsAfterTwo(Silent):
        def epoch(self, done, stage, numbers):
            if done == 2:
                raise Stop

    config = micro_config("joint", epochs=4, search_epochs=3, strength_target=0.05, lr=0.2)
    whole = kit.search(config, out=tmp_path / "whole", progress=Silent())
    with pytest.raises(Stop):
        kit.search(config, out=tmp_path / "parts", progress=StopsAfterTwo())
    again = kit.search(config, out=tmp_path / "parts", progress=Silent())
    strength = whole.curve("tau/strength")
    assert strength.iloc[-1] > 0 and strength.equals(again.curve("tau/strength"))
    assert (again.tau["amount"][:, 0] == whole.tau["amount"][:, 0]).all() and len(again.tau["amount"]) == 5
    assert whole.metrics["val_images"] == 0 and whole.metrics["test_loss"] == again.metrics["test_loss"]


def test_images_are_held_out_only_in_the_stage_whose_learner_reads_them(micro: str, tmp_path):
    config = micro_config("dha", arch="reinforce", epochs=3, search_epochs=1)
    run = kit.search(config, out=tmp_path, progress=Silent())
    held_out = run.history[run.history["name"] == "val_accuracy"]["epoch"].tolist()
    assert held_out == [1] and run.metrics["train_images"] == 240 and run.metrics["val_images"] == 0


@pytest.mark.parametrize(("method", "goes_on"), [("dha", True), ("nas-then-da", False)])
def test_a_stage_on_the_same_weights_goes_on_with_what_was_learned_and_begins_what_was_not(method, goes_on, micro):
    config, sets = micro_config(method), data.load_dataset(micro)
    was, now = config.stages
    before = build.Plan(config, was, sets, torch.device("cpu"), None, 8, 8).parts()
    found = before.net.genotype(before.arch.picks)
    after = build.Plan(config, now, sets, torch.device("cpu"), None, 8, 8).parts(found)
    if goes_on:
        before.augment.tau.normal_()
        before.hyper.log.data.add_(0.5)
    after.take_over(before, was, now)
    assert bool(after.augment.tau.any()) == goes_on
    if goes_on:
        assert torch.equal(after.augment.tau, before.augment.tau) and torch.equal(after.hyper.log, before.hyper.log)
    weights = before.net.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in after.net.state_dict().items())
