"""The learned strength of augmentation and the method `joint`: against enumeration, planted rewards, and as a run."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests_micro import micro_config

import kit
from kit.augment import OPS, Basics, Draw
from kit.search.progress import Silent
from kit.zoo.strength import LEVELS, Strength


def policy(**options) -> Strength:
    about = {"ops": ("Rotate", "Invert"), "strength_every": 1, "tau_entropy": 0.0} | options
    return Strength(Basics(), torch.Generator().manual_seed(0), **about)


def expected_reward(p: Strength, of: torch.Tensor) -> torch.Tensor:
    """Of one image, over all outcomes. of: [1 + LEVELS], of an image as it is, and of each level."""
    a, s = p.amount
    by_level = (s * p.levels).softmax(0)
    return (1 - a.sigmoid()) * of[0] + a.sigmoid() * (by_level * of[1:]).sum()


def test_the_mean_gradient_is_that_of_the_expected_reward():
    p = policy()
    with torch.no_grad():
        p.amount.copy_(torch.tensor([0.4, -0.7]))
    of = torch.rand(1 + LEVELS, generator=torch.Generator().manual_seed(1)) * 2
    (exact,) = torch.autograd.grad(-expected_reward(p, of), [p.amount])
    n, found = 200_000, []
    for _ in range(4):
        draw = p.draw(n)
        on, level = draw.choices.unbind(1)
        rewards = of[(on * level).long()]
        found.append(p.gradient(draw, losses=torch.zeros(n), rewards=lambda rewards=rewards: rewards)[1])
    torch.testing.assert_close(torch.stack(found).mean(0), exact, rtol=0.03, atol=2e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_goes_up_while_augmentation_helps_and_down_when_it_hurts(sign: int):
    p = policy(steps=200, strength_start=0.4)
    start = p.summary()
    noise = torch.Generator().manual_seed(2)
    for _ in range(200):
        draw = p.sample(32)
        on, level = draw.choices.unbind(1)
        rewards = sign * on * level / LEVELS + torch.randn(32, generator=noise)
        p.update(draw, losses=torch.rand(32, generator=noise), rewards=lambda rewards=rewards: rewards)
    end = p.summary()
    assert (end["tau/applied"] > 0.7) if sign > 0 else (end["tau/applied"] < 0.15)
    assert sign * (end["tau/level"] - start["tau/level"]) > 0.5 and end["tau/kl_from_uniform"] < 1


def test_an_image_is_transformed_by_both_operations_up_to_its_level_or_by_none():
    draw = policy(strength_start=0.5).draw(500)
    on, level = draw.choices.unbind(1)
    assert 200 < on.sum() < 300 and set(level.tolist()) <= set(range(1, LEVELS + 1))
    assert (draw.magnitude <= level[:, None]).all()
    assert ((draw.ops == OPS.index("Identity")).all(1) == ~on.bool()).all()


def test_it_looks_at_validation_images_only_as_often_as_asked_and_resumes(micro: str):
    def never() -> torch.Tensor:
        raise AssertionError("a look too many")

    p = policy(strength_every=3)
    for step in range(1, 7):
        draw = p.sample(8)
        rewards = (lambda: torch.arange(8.0)) if step % 3 == 0 else never
        assert len(p.gradient(draw, losses=torch.ones(8), rewards=rewards)) == (2 if step % 3 == 0 else 1)
        p.update(draw, losses=torch.ones(8), rewards=lambda: torch.arange(8.0))
    again = policy(strength_every=3)
    again.load_state_dict(p.state_dict())
    one, two = p.sample(9), again.sample(9)
    same = lambda field: torch.equal(getattr(one, field), getattr(two, field))
    assert all(same(f.name) for f in dataclasses.fields(Draw) if isinstance(getattr(one, f.name), torch.Tensor))


def test_joint_learns_the_strength_on_held_out_images_and_then_trains_on_all(micro: str, tmp_path):
    config = micro_config("joint", epochs=4, search_epochs=2, strength_every=1)
    run = kit.search(config, out=tmp_path, progress=Silent())
    held_out = run.history[run.history["name"] == "val_accuracy"]["epoch"].tolist()
    applied = run.curve("tau/applied").tolist()
    assert held_out == [1, 2] and run.metrics["val_images"] == 0 and run.metrics["train_images"] == 240
    assert len(set(applied[:2])) == 2 and applied[1] == applied[2] == applied[3]
    assert len(run.tau["amount"]) == len(run.tau["probabilities"])
