"""τ, the softmax over pairs: its gradient is that of the expected loss, and it stays within its bound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from kit.augment import OPS, Basics, Draw, PairSoftmax
from kit.errors import KitError

TWO = ("Rotate", "Color")


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy(ops: tuple[str, ...] = OPS, seed: int = 0, **options) -> PairSoftmax:
    return PairSoftmax(Basics(), stream(seed), ops=ops, **({"tau_entropy": 0.0} | options))


def exact(**options) -> PairSoftmax:
    """Over 2 × 2 pairs, in float64, away from uniform."""
    p = policy(TWO, **options)
    p.tau = torch.randn(2, 2, generator=stream(1), dtype=torch.float64)
    return p


def drawn(index: list[int]) -> Draw:
    zeros = torch.zeros(len(index), 2)
    about = {"index": torch.tensor(index), "choices": torch.ones(len(index), 2)}
    return Draw(zeros.long(), zeros, zeros + 1, torch.zeros(len(index), 2, 2), **about)


def kl(p: PairSoftmax) -> float:
    """From uniform, in nats."""
    chances = p.tau.double().flatten().softmax(0)
    return math.log(len(chances)) + float((chances * chances.log()).sum())


def train(p: PairSoftmax, steps: int, losses_of, n: int = 64) -> list[float]:
    """losses_of(draw) → float [n]. Returns the KL divergence after every step."""
    distances = []
    for _ in range(steps):
        draw = p.sample(n)
        p.update(draw, losses=losses_of(draw))
        distances.append(kl(p))
    return distances


# ---- the gradient --------------------------------------------------------------------------------


@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_the_mean_over_all_draws_is_the_gradient_of_the_expected_loss(entropy: float):
    p = exact(tau_entropy=entropy)
    losses = torch.rand(3, 4, generator=stream(2), dtype=torch.float64) * 3  # of each image under each pair
    chances = p.probabilities().flatten()
    mean = torch.zeros_like(p.tau)
    for index in itertools.product(range(4), repeat=3):
        seen = losses[range(3), index]
        mean += chances[list(index)].prod() * p.gradient(drawn(list(index)), losses=seen)[0]
    tau = p.tau.clone().requires_grad_()
    q = tau.flatten().softmax(0)
    (expected,) = torch.autograd.grad(-(losses.mean(0) @ q) + entropy * (q @ q.log()), tau)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)
    assert float(expected.abs().max()) > 0.01


def test_the_form_as_printed_is_the_gradient_of_eq_2():
    p, losses = exact(tau_form="paper"), torch.tensor([2.0, 0.5, 1.5], dtype=torch.float64)
    tau = p.tau.clone().requires_grad_()
    (expected,) = torch.autograd.grad(-(tau.flatten().softmax(0)[[0, 3, 3]] * losses).sum(), tau)
    torch.testing.assert_close(p.gradient(drawn([0, 3, 3]), losses=losses)[0], expected, rtol=0, atol=1e-12)


# ---- where it goes -------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_where_all_pairs_are_alike_it_stays_near_uniform(noise: float):
    """Also in ten times its steps, and where the losses differ by nothing but the rounding of their mean."""
    p, g = policy(tau_entropy=0.05, steps=100), stream(3)
    distances = train(p, 1000, lambda draw: 2.3 + noise * torch.randn(48, generator=g), n=48)
    assert max(distances) < 0.1


def test_a_planted_pair_is_found_within_its_steps():
    steps, planted, found = 300, 37, []
    for seed in range(3):
        p, g = policy(seed=seed, tau_entropy=0.05, steps=steps), stream(seed)
        train(p, steps, lambda draw, g=g: 2 + 0.5 * (draw.index == planted) + 0.3 * torch.randn(64, generator=g))
        chances = p.probabilities().flatten()
        found.append((int(chances.argmax()), float(chances[planted] * len(chances))))
    assert all(pair == planted and times > 5 for pair, times in found)


@pytest.mark.parametrize("form", ["score", "paper"])
@pytest.mark.parametrize("lr", [None, 50.0])
@pytest.mark.parametrize("reach", [0.2, 1.0])
def test_it_never_goes_farther_than_its_reach(form: str, lr: float | None, reach: float):
    p, g = policy(tau_form=form, tau_lr=lr, tau_reach=reach, steps=30), stream(4)
    distances = train(p, 300, lambda draw: 9.0 * (draw.index % 14 == 3) + torch.rand(64, generator=g))
    assert max(distances) <= reach + 1e-5
    assert max(distances) > 0.5 * reach  # it did go


@pytest.mark.parametrize("reach", [math.log(4), 2.0])
def test_a_reach_that_bounds_nothing_is_refused_by_name(reach: float):
    with pytest.raises(KitError, match=r"tau_reach=.*log 4.*2 operations"):
        policy(TWO, tau_reach=reach)
    policy(TWO, tau_reach=math.log(4) - 0.01)
