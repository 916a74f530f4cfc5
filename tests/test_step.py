"""The joint step against DHA's Algorithm 1 written out once more with torch.optim and autograd alone."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tests_micro import micro_config

from kit import data
from kit.search import build, grads, signals
from kit.search.learner import Derived, WarmUp, generator
from kit.search.step import one_level
from kit.space import Child

# Algorithm 1 as printed: eq. 2 by plain SGD, which its own bound does not touch, and rates that are given
PRINTED = {
    "clip": 0.7,
    "tau_form": "paper",
    "tau_lr": 0.5,
    "tau_entropy": 0.0,
    "arch_lr": 0.02,
    "b_std": 0.4,
    "hyper_lr": 0.05,
    "drop_path": 0.2,
}


def parts_for(**changes):
    config = micro_config(**(PRINTED | changes))
    sets = data.load_dataset(config.dataset)
    parts = build.Plan(config, config.stages[0], sets, torch.device("cpu")).parts()
    parts.net.train().drop_path = 0.2
    batches = {
        name: data.Batches(part, 12, generator(0, name))
        for name, part in (("train", sets.train), ("fresh", sets.train), ("val", sets.val))
    }
    return config, parts, batches


class AlgorithmOne:
    """Lines 2 to 9, slowly: autograd for the policy, torch.optim.SGD and Adam for θ, b and η; hyper-gradients from θ
    and v by hand.
    """

    def __init__(self, config, parts, batches):
        self.config, self.parts, self.batches = config, parts, batches
        self.theta = torch.optim.SGD(
            [p for p in parts.net.parameters() if p.requires_grad], lr=1.0, momentum=config.momentum
        )
        self.tau = torch.zeros(12, 12, requires_grad=True)
        self.policy = torch.optim.SGD([self.tau], lr=config.tau_lr, momentum=0.9, weight_decay=5e-4)
        self.b = parts.arch.b.detach().clone().requires_grad_()
        self.adam_b = torch.optim.Adam([self.b], lr=config.arch_lr, betas=(0.5, 0.999), weight_decay=1e-3)
        self.log = torch.tensor([config.lr, config.weight_decay], dtype=torch.float64).log().requires_grad_()
        self.adam_eta = torch.optim.Adam([self.log], lr=config.hyper_lr)
        self.last = None

    def learn_eta(self, outer: list) -> None:
        if self.last is None:
            return
        lr, decay, before, velocity = self.last
        by_lr = -sum((g * v).sum() for g, v in zip(outer, velocity) if g is not None and v is not None)
        by_decay = -lr * sum(
            (g * t).sum() for g, t, v in zip(outer, before, velocity) if g is not None and v is not None
        )
        self.log.grad = torch.stack([lr * by_lr, decay * by_decay]).double()
        self.adam_eta.step()

    def step(self, schedule: float) -> torch.Tensor:
        net, arch, policy, kind = self.parts.net, self.parts.arch, self.parts.augment, self.config.hyper
        x, y = next(self.batches["train"])
        policy.tau.copy_(self.tau.detach())
        draw = policy.sample(len(x))
        with torch.no_grad():
            arch.b.copy_(self.b)
        child = arch.sample()
        parameters = [p for p in net.parameters() if p.requires_grad]
        losses, _ = net.losses(policy.apply(x, draw), y, child)
        gradients = torch.autograd.grad(losses.mean(), [*parameters, *child.gates], allow_unused=True)
        if kind == "lookahead":
            self.learn_eta(gradients[: len(parameters)])
        self.policy.zero_grad()
        (-(self.tau.flatten().softmax(0)[draw.index] * losses.detach()).sum()).backward()
        self.policy.step()
        lr, decay = (float(v) for v in self.log.detach().exp().float())
        for p, g in zip(parameters, gradients):
            p.grad = None if g is None else g.clone()
        torch.nn.utils.clip_grad_norm_(parameters, self.config.clip)
        self.theta.param_groups[0].update(lr=lr * schedule, weight_decay=decay)
        before = [p.detach().clone() for p in parameters]
        self.theta.step()
        velocity = [None if p.grad is None else self.theta.state[p]["momentum_buffer"].clone() for p in parameters]
        self.last = lr * schedule, decay, before, velocity
        self.b.grad = torch.stack(
            [
                arch.A[j][:, list(c)] @ g.double()
                for j, (c, g) in enumerate(zip(child.picks, gradients[len(parameters) :]))
            ]
        )
        self.adam_b.step()
        if kind in ("fresh", "validation"):
            x, y = next(self.batches["fresh" if kind == "fresh" else "val"])
            if kind == "fresh":
                policy.tau.copy_(self.tau.detach())
                x = policy.apply(x, policy.sample(len(x)))
            statistics = {k: v.clone() for k, v in net.named_buffers()}
            net.drop_path = 0.2 if kind == "fresh" else 0.0  # the validation loss has none
            loss = net.losses(x, y, Child(child.picks, tuple(g.detach() for g in child.gates)))[0].mean()
            outer, net.drop_path = torch.autograd.grad(loss, parameters, allow_unused=True), 0.2
            for name, buffer in net.named_buffers():
                buffer.copy_(statistics[name])
            self.learn_eta(list(outer))
        return losses.detach()


@pytest.mark.parametrize("kind", ["fixed", "fresh", "lookahead", "validation"])
def test_joint_step_equals_algorithm_one_written_out(kind: str, micro: str):
    ours, theirs = parts_for(hyper=kind, recover="step"), parts_for(hyper=kind, recover="step")
    reference = AlgorithmOne(*theirs)
    parts = ours[1]
    for i, schedule in enumerate((1.0, 0.7, 0.4, 0.9)):
        outcome = one_level(parts, ours[2], schedule)
        torch.testing.assert_close(outcome.losses, reference.step(schedule), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(parts.augment.tau, reference.tau.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(parts.arch.b.detach(), reference.b.detach(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(parts.hyper.log.detach(), reference.log.detach(), rtol=1e-4, atol=1e-5)
        for (name, a), b in zip(parts.net.named_parameters(), reference.parts.net.parameters()):
            torch.testing.assert_close(
                a, b, rtol=1e-3, atol=2e-5, msg=lambda m, name=name, i=i: f"{name} at step {i}: {m}"
            )
    assert parts.arch.picks == reference.parts.arch.picks
    moved = float(
        (parts.hyper.log.detach() - torch.tensor([ours[0].lr, ours[0].weight_decay], dtype=torch.float64).log())
        .abs()
        .min()
    )
    assert (moved == 0) == (kind == "fixed") and (kind == "fixed" or moved > 1e-3)
    assert float(parts.augment.tau.abs().max()) > 1e-4


def test_weights_train_on_the_plain_mean_and_the_policy_on_detached_losses(micro: str, monkeypatch):
    """Eq. 2 weighs losses for τ only."""
    _, parts, batches = parts_for()
    parts.augment.tau.copy_(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))
    seen = {}
    real_backward, real_losses, real_update = grads.backward, parts.net.losses, parts.augment.update
    monkeypatch.setattr(
        grads,
        "backward",
        lambda loss, *rest: seen.setdefault("loss", []).append(loss.detach()) or real_backward(loss, *rest),
    )
    monkeypatch.setattr(
        parts.net, "losses", lambda *a: seen.setdefault("losses", []).append((out := real_losses(*a))[0]) or out
    )
    monkeypatch.setattr(
        parts.augment, "update", lambda draw, **s: seen.setdefault("signals", []).append(s) or real_update(draw, **s)
    )
    outcome = one_level(parts, batches, 1.0)
    assert len(seen["loss"]) == len(seen["losses"]) == len(seen["signals"]) == 1  # look-ahead: one pass, one backward
    assert torch.equal(seen["loss"][0], seen["losses"][0].detach().mean())
    given = seen["signals"][0]["losses"]
    assert torch.equal(given, seen["losses"][0]) and not given.requires_grad and torch.equal(outcome.losses, given)


@pytest.mark.parametrize(
    ("kind", "passes", "val"), [("fixed", 1, 0), ("lookahead", 1, 0), ("fresh", 2, 0), ("validation", 2, 1)]
)
def test_passes_and_batches_of_each_hyper_gradient(kind: str, passes: int, val: int, micro: str, monkeypatch):
    _, parts, batches = parts_for(hyper=kind)
    calls, real = [], grads.backward
    monkeypatch.setattr(grads, "backward", lambda *a: calls.append(1) or real(*a))
    for name in ("val", "fresh"):
        batches[name] = _Counting(batches[name])
    steps = 3
    for _ in range(steps):
        outcome = one_level(parts, batches, 0.5)
    assert len(calls) == passes * steps
    assert batches["val"].taken == val * steps and batches["fresh"].taken == (kind == "fresh") * steps
    assert float(outcome.values.lr) == pytest.approx(0.5 * float(parts.hyper.sample(1.0).lr), rel=0.2)


class _Counting:
    def __init__(self, inner):
        self.inner, self.taken = inner, 0

    def __next__(self):
        self.taken += 1
        return next(self.inner)


def test_outcome_counts_correct_predictions_and_reports_eta(micro: str):
    config, parts, batches = parts_for(hyper="fixed")
    outcome = one_level(parts, batches, 0.25)
    assert outcome.losses.shape == (12,) and 0 <= int(outcome.right.sum()) <= 12 and not outcome.losses.requires_grad
    assert float(outcome.values.lr) == pytest.approx(0.25 * config.lr) and float(
        outcome.values.weight_decay
    ) == pytest.approx(config.weight_decay)


def test_autohas_rewards_what_the_step_gives(micro: str, monkeypatch):
    """Its temporary weights W* are those that the step leaves; one validation batch serves both controllers."""
    config = micro_config("autohas", cells=4, search_cells=4, hyper_space="lr,optimizer")
    sets = data.load_dataset(config.dataset)
    parts = build.Plan(config, config.stages[0], sets, torch.device("cpu")).parts()
    batches = {name: data.Batches(sets.train, 6, generator(0, name)) for name in ("train", "val")}
    before, seen = [p.detach().clone() for p in parts.net.train().parameters()], []
    monkeypatch.setattr(
        signals, "accuracy", lambda net, held_out, child: seen.append([p.clone() for p in net.parameters()]) or 0.5
    )
    one_level(parts, batches, 1.0)
    (rewarded,) = seen
    assert all(torch.equal(a, b) for a, b in zip(rewarded, parts.net.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(rewarded, before))


# ---- wrappers of learners ------------------------------------------------------------------------


def test_derived_goes_on_being_sampled_and_learns_no_more(micro: str):
    _, parts, batches = parts_for(hyper="fresh")
    policy, arch, hyper = (Derived(part) for part in (parts.augment, parts.arch, parts.hyper))
    before = copy.deepcopy((parts.augment.tau, parts.arch.b.detach(), parts.hyper.log.detach()))
    first = policy.sample(5)
    one_level(dataclasses.replace(parts, arch=arch, augment=policy, hyper=hyper), batches, 1.0)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (parts.augment.tau, parts.arch.b.detach(), parts.hyper.log.detach()))
    )
    assert not torch.equal(first.index, policy.sample(5).index)
    for learner, inner in ((policy, parts.augment), (arch, parts.arch), (hyper, parts.hyper)):
        assert learner.variables() == [] and inner.variables()
    assert policy.probabilities().shape == (12, 12)  # what a wrapper does not know is the wrapped one's


def test_derived_look_ahead_does_not_learn_either(micro: str):
    """Look-ahead learns in `observe`: a wrapper that stops only `update` would let it go on."""
    _, parts, batches = parts_for(hyper="lookahead")
    before = parts.hyper.log.detach().clone()
    for _ in range(3):
        one_level(dataclasses.replace(parts, hyper=Derived(parts.hyper)), batches, 1.0)
    assert torch.equal(parts.hyper.log.detach(), before)


def test_warm_up_holds_look_ahead_back_too(micro: str):
    _, parts, batches = parts_for(hyper="lookahead")
    hyper, moved = WarmUp(parts.hyper, 2), []
    before = parts.hyper.log.detach().clone()
    for _ in range(5):
        one_level(dataclasses.replace(parts, hyper=hyper), batches, 1.0)
        moved.append(not torch.equal(parts.hyper.log.detach(), before))
    assert moved == [False, False, False, True, True]  # the third step's own gradient arrives with the fourth


def test_warm_up_starts_after_its_steps_and_resumes(micro: str):
    _, parts, batches = parts_for()
    policy = WarmUp(parts.augment, 2)
    moved = []
    for i in range(4):
        if i == 3:  # as after a resume
            state = copy.deepcopy(policy.state_dict())
            policy = WarmUp(parts.augment, 2)
            policy.load_state_dict(state)
        one_level(dataclasses.replace(parts, augment=policy), batches, 1.0)
        moved.append(float(parts.augment.tau.abs().sum()))
    assert moved[:2] == [0, 0] and 0 < moved[2] != moved[3] > 0
    assert policy.passed == 4
