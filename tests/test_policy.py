"""DHA's learned policy (eq. 2): what it draws, what it learns, and how a draw becomes images."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from scipy import stats

from kit import augment
from kit.augment import OPS, Basics, Draw, PairSoftmax, apply_op, operations
from kit.errors import KitError


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy(seed: int = 0, **changes) -> PairSoftmax:
    """Eq. 2 as printed, by plain SGD; its bound is out of reach."""
    reach = 1.9 * math.log(len(changes.get("ops", OPS)))
    usual = {"tau_lr": 0.1, "tau_form": "paper", "tau_reach": reach, "tau_entropy": 0.0}
    return PairSoftmax(changes.pop("basics", Basics()), stream(seed), **(usual | changes))


def some_images(n: int, channels: int = 3, size: tuple[int, int] = (9, 7), seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, *size), generator=stream(seed), dtype=torch.uint8)


# ---- draws ---------------------------------------------------------------------------------------


def test_pairs_are_drawn_from_the_softmax_of_tau():
    p = policy(3)
    p.tau.copy_(torch.randn(14, 14, generator=stream(1)))
    n = 40_000
    draw = p.sample(n)
    expected = p.tau.flatten().softmax(0).double()
    counts = torch.bincount(draw.index, minlength=196).double()
    assert stats.chisquare(counts.numpy(), (expected * n / expected.sum()).numpy()).pvalue > 1e-3
    # and the test is able to refuse: the draws are far from uniform
    assert stats.chisquare(counts.numpy()).pvalue < 1e-12
    # index, first and second operation say the same thing; τ's row is the first one
    assert torch.equal(draw.index, draw.ops[:, 0] * 14 + draw.ops[:, 1])
    first = torch.bincount(draw.ops[:, 0], minlength=14).double()
    rows = expected.view(14, 14).sum(1)
    assert stats.chisquare(first.numpy(), (rows * n / rows.sum()).numpy()).pvalue > 1e-3


def test_magnitudes_signs_and_centres_are_uniform_and_independent():
    p, n = policy(4), 20_000
    p.tau.copy_(torch.randn(14, 14, generator=stream(1)))
    draw = p.sample(n)
    assert draw.magnitude.shape == (n, 2) and float(draw.magnitude.min()) >= 0 and float(draw.magnitude.max()) <= 10
    for k in range(2):
        assert stats.kstest(draw.magnitude[:, k].numpy(), "uniform", args=(0, 10)).pvalue > 1e-3
        assert stats.binomtest(int((draw.sign[:, k] > 0).sum()), n).pvalue > 1e-3
        for axis in range(2):
            assert stats.kstest(draw.center[:, k, axis].numpy(), "uniform").pvalue > 1e-3
        # whatever the operation, its magnitude is uniform
        often = int(torch.bincount(draw.ops[:, k]).argmax())
        assert stats.kstest(draw.magnitude[draw.ops[:, k] == often, k].numpy(), "uniform", args=(0, 10)).pvalue > 1e-3
    columns = torch.cat([draw.magnitude, draw.sign, draw.center.flatten(1), draw.index.unsqueeze(1).float()], 1)
    correlation = torch.corrcoef(columns.T) - torch.eye(columns.shape[1])
    assert float(correlation.abs().max()) < 5 / math.sqrt(n)
    assert set(draw.sign.unique().tolist()) == {-1.0, 1.0}


# ---- eq. 2 ---------------------------------------------------------------------------------------


def by_autograd(p: PairSoftmax, index: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    tau = p.tau.double().requires_grad_()
    chances = tau.flatten().softmax(0)[index]
    return torch.autograd.grad(-(chances * losses.double()).sum(), tau)[0]


def test_gradient_equals_autograd_on_the_papers_loss():
    p = policy()
    p.tau.copy_(torch.randn(14, 14, generator=stream(1)))
    index, losses = torch.randint(0, 196, (64,), generator=stream(2)), torch.rand(64, generator=stream(3)) * 5
    torch.testing.assert_close(
        p.gradient(drawn(index), losses=losses)[0].double(), by_autograd(p, index, losses), rtol=1e-4, atol=1e-7
    )


def test_gradient_equals_enumeration_over_all_pairs():
    p = policy(ops=("Rotate", "Color", "Identity"))
    p.tau.copy_(torch.randn(3, 3, generator=stream(5)))
    index, losses = torch.tensor([0, 4, 4, 8, 2]), torch.tensor([2.0, 0.5, 1.5, 3.0, 0.1])
    weights = [[math.exp(float(p.tau[i, j])) for j in range(3)] for i in range(3)]
    total = sum(map(sum, weights))
    expected = torch.zeros(3, 3)
    for i in range(3):
        for j in range(3):
            for k, loss in zip(index.tolist(), losses.tolist()):
                chance = weights[k // 3][k % 3] / total
                expected[i, j] -= loss * chance * ((k == 3 * i + j) - weights[i][j] / total)
    torch.testing.assert_close(p.gradient(drawn(index), losses=losses)[0], expected, rtol=1e-5, atol=1e-7)


def drawn(index: torch.Tensor) -> Draw:
    zeros = torch.zeros(len(index), 2)
    about = {"index": index, "choices": torch.ones(len(index), 2)}
    return Draw(zeros.long(), zeros, zeros + 1, torch.zeros(len(index), 2, 2), **about)


def test_update_is_sgd_with_momentum_and_decay_on_that_gradient():
    p = policy(tau_lr=0.2)
    p.tau.copy_(torch.randn(14, 14, generator=stream(1)))
    tau = p.tau.clone().requires_grad_()
    sgd = torch.optim.SGD([tau], lr=0.2, momentum=0.9, weight_decay=5e-4)  # the paper's
    for i in range(4):
        index, losses = torch.randint(0, 196, (16,), generator=stream(i)), torch.rand(16, generator=stream(9 + i)) * 100
        sgd.zero_grad()
        (-(tau.flatten().softmax(0)[index] * losses).sum()).backward()
        sgd.step()
        p.update(drawn(index), losses=losses)
        torch.testing.assert_close(p.tau, tau.detach(), rtol=1e-4, atol=1e-6)


def test_the_transformation_with_the_high_loss_gains_probability():
    p = policy(tau_lr=1.0)
    before = p.probabilities()
    p.update(drawn(torch.tensor([17, 100, 100])), losses=torch.tensor([9.0, 1.0, 1.0]))
    after = p.probabilities()
    assert float(after.flatten()[17] - before.flatten()[17]) > float(after.flatten()[100] - before.flatten()[100]) > 0
    assert float(after.flatten()[0]) < float(before.flatten()[0])
    # equal losses on equally frequent pairs teach nothing
    p = policy(tau_lr=1.0, ops=OPS[:3])
    p.update(drawn(torch.arange(9)), losses=torch.ones(9))
    torch.testing.assert_close(p.tau, torch.zeros(3, 3), rtol=0, atol=1e-7)


def test_counts_are_what_was_trained_on_since_the_last_snapshot():
    p = policy()
    assert int(p.snapshot()["counts"].sum()) == 0
    p.sample(50)  # drawn, not trained on
    for _ in range(2):
        p.update(drawn(torch.tensor([3, 3, 195])), losses=torch.ones(3))
    snapshot = p.snapshot()
    expected = torch.zeros(14, 14)
    expected[0, 3], expected[13, 13] = 4, 2
    assert torch.equal(snapshot["counts"], expected)
    torch.testing.assert_close(snapshot["probabilities"], p.probabilities())
    assert (
        float(snapshot["probabilities"].sum()) == pytest.approx(1, abs=1e-5) and int(p.snapshot()["counts"].sum()) == 0
    )


def test_summary_measures_the_distance_from_uniform():
    p = policy(ops=OPS[:2])
    assert p.summary() == pytest.approx(
        {"tau/entropy": math.log(4), "tau/kl_from_uniform": 0.0, "tau/largest": 0.25}, abs=1e-6
    )
    p.tau.copy_(torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]))  # p = ½, ⅙, ⅙, ⅙
    entropy = 0.5 * math.log(2) + 0.5 * math.log(6)
    assert p.summary() == pytest.approx(
        {"tau/entropy": entropy, "tau/kl_from_uniform": math.log(4) - entropy, "tau/largest": 0.5}, abs=1e-6
    )


def test_resumed_policy_goes_on_bit_identically():
    def move(p: PairSoftmax, steps: range) -> list[Draw]:
        draws = [p.sample(8) for _ in steps]
        for i, draw in zip(steps, draws):
            p.update(draw, losses=torch.rand(8, generator=stream(i)) * 50)
        return draws

    basics = Basics(pad=1, flip=True, cutout=3)
    whole, resumed = policy(basics=basics), policy(99, basics=basics)
    move(whole, range(3))
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for a, b in zip(move(whole, range(3, 6)), move(resumed, range(3, 6))):
        fields = [f.name for f in dataclasses.fields(Draw) if f.name not in ("choices", "whole")]
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)
    assert torch.equal(whole.tau, resumed.tau) and float(whole.tau.abs().max()) > 0
    assert torch.equal(whole.snapshot()["counts"], resumed.snapshot()["counts"])


# ---- from a draw to images -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(augment.AUGMENT))
def test_apply_is_a_pure_function_of_images_and_draw(name: str):
    p = augment.build(name, stream(), (9, 7), flip=True)
    images = some_images(40)
    kept, draw = images.clone(), p.sample(40)
    fields = {f.name: getattr(draw, f.name) for f in dataclasses.fields(Draw)}
    fields = {k: None if v is None else v.clone() for k, v in fields.items()}
    state = p.generator.get_state()
    first = p.apply(images, draw)
    assert first.dtype == torch.uint8 and first.shape == images.shape
    assert torch.equal(images, kept) and torch.equal(state, p.generator.get_state())
    assert all(v is None or torch.equal(v, getattr(draw, k)) for k, v in fields.items())
    assert torch.equal(p.apply(images, draw), first)
    assert torch.equal(first, images) == (name == "none")
    # every image by itself: no neighbour leaks into it
    for i in (0, 17, 39):
        one = Draw(**{k: None if v is None else v[i : i + 1] for k, v in fields.items()})
        assert torch.equal(p.apply(images[i : i + 1], one), first[i : i + 1])


def test_operations_are_applied_in_order_after_the_crop_and_before_the_hole():
    basics = Basics(pad=2, flip=True, cutout=4, fill=torch.tensor([7, 8, 9], dtype=torch.uint8))
    p, images = policy(basics=basics), some_images(30)
    draw = p.sample(30)
    expected = basics.crop(images, draw)
    for i in range(30):
        for k in range(2):
            name = operations()[int(draw.ops[i, k])]
            expected[i : i + 1] = apply_op(
                name, expected[i : i + 1], *(t[i : i + 1, k] for t in (draw.magnitude, draw.sign, draw.center))
            )
    assert torch.equal(p.apply(images, draw), basics.cut(expected, draw))


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_crop_equals_padding_and_slicing_image_by_image(pad: int):
    basics, images = Basics(pad=pad, flip=True), some_images(200)
    draw = basics_draw(basics, 200)
    assert set(draw.shift.flatten().tolist()) == set(range(2 * pad + 1))
    got = basics.crop(images, draw)
    for i in range(200):
        top, left = draw.shift[i].tolist()
        expected = torch.nn.functional.pad(images[i], (pad,) * 4)[:, top : top + 9, left : left + 7]
        assert torch.equal(got[i], expected.flip(2) if draw.flip[i] else expected)
    assert stats.binomtest(int(draw.flip.sum()), 200).pvalue > 1e-3


def basics_draw(basics: Basics, n: int) -> Draw:
    return augment.Plain(basics, stream(1)).sample(n)


def test_without_flip_nothing_is_mirrored():
    assert not basics_draw(Basics(pad=1, flip=False), 500).flip.any()


@pytest.mark.parametrize("size", [2, 4, 5])
def test_the_hole_equals_a_plain_loop(size: int):
    fill = torch.tensor([1, 2, 3], dtype=torch.uint8)
    basics, images = Basics(cutout=size, fill=fill), some_images(60)
    draw = basics_draw(basics, 60)
    got, seen = basics.cut(images, draw), set()
    for i in range(60):
        row, column = int(draw.hole[i, 0] * 9), int(draw.hole[i, 1] * 7)
        expected = images[i].clone()
        for r in range(max(0, row - size // 2), min(9, row - size // 2 + size)):
            for c in range(max(0, column - size // 2), min(7, column - size // 2 + size)):
                expected[:, r, c] = fill
        assert torch.equal(got[i], expected)
        seen.add((row, column))
    assert {r for r, _ in seen} == set(range(9)) and {c for _, c in seen} == set(
        range(7)
    )  # the centre may lie anywhere


def test_the_recipes_have_the_papers_sizes_at_32_pixels():
    for name, cutout in (
        ("flip-crop", 0),
        ("flip-crop-cutout", 16),
        ("autoaugment", 16),
        ("pair-softmax", 0),
        ("randaugment", 0),
    ):
        basics = augment.build(name, stream(), (32, 32)).basics
        assert (basics.pad, basics.flip, basics.cutout) == (4, True, cutout), name
    assert augment.build("none", stream(), (32, 32)).basics == Basics()
    assert augment.build("flip-crop", stream(), (8, 8), flip=False).basics == Basics(pad=1, flip=False)


def test_an_unknown_policy_is_refused_nearest_first():
    with pytest.raises(KitError, match="unknown augmentation policy 'autoaugmnt'. Did you mean 'autoaugment'"):
        augment.build("autoaugmnt", stream(), (8, 8))


def test_images_that_keep_their_pixels_say_nothing_about_their_pair_and_the_last_steps_are_clean():
    p = PairSoftmax(Basics(), stream(0), steps=4, applied=0.5, magnitude=3.0, clean=0.25, tau_entropy=0.0)
    draw = p.draw(400)
    on = draw.choices[:, 0].bool()
    assert 150 < on.sum() < 250 and draw.magnitude.max() <= 3.0
    assert (draw.ops[~on] == OPS.index("Identity")).all() and (draw.ops[on] != OPS.index("Identity")).any()
    losses = torch.rand(400, generator=stream(1))
    louder = torch.where(on, losses, losses + 100)
    for _ in range(3):
        gradients = [p.gradient(draw, losses=given)[0] for given in (losses, louder)]
    torch.testing.assert_close(*gradients)
    assert (p.draw(50).ops == OPS.index("Identity")).all()


def test_operations_that_change_nothing_are_left_out_and_one_alone_is_refused():
    grey = torch.randint(0, 256, (70, 1, 8, 8), generator=stream(3), dtype=torch.uint8)
    assert augment.idle(("Color", "Rotate", "Identity"), grey) == ["Color"]
    coloured = torch.randint(0, 256, (70, 3, 8, 8), generator=stream(3), dtype=torch.uint8)
    assert augment.idle(("Color", "Rotate", "Identity"), coloured) == []
    with pytest.raises(KitError, match=r"only \['Rotate'\] change these images: name two or more"):
        PairSoftmax(Basics(), stream(0), operations="Color,Rotate", idle=["Color"])


def test_a_learned_policy_may_cut_a_hole_as_well():
    with_hole = augment.build("pair-softmax", stream(0), (8, 8), cutout=True).draw(3)
    assert with_hole.hole.shape == (3, 2) and augment.build("pair-softmax", stream(0), (8, 8)).draw(3).hole is None
