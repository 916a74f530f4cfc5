"""The two-level step (DAAS, DARTS, GDAS) and the reward step (AutoHAS) against their algorithms written out once more
with torch.optim and autograd alone: in float64, over several steps, everything that moves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_micro import micro_config
from tests_ranks import float64
from tests_toy import FREE, edge_slots, normal, stream
from torch import Tensor

from kit import data
from kit.arch import Gumbel
from kit.search import build, signals
from kit.search.engine import Search
from kit.search.grads import RATES
from kit.search.learner import WarmUp, generator
from kit.search.step import STEPS
from kit.space import Child

REGULAR = {"drop_path": 0.3, "dropout": 0.2, "auxiliary": 0.4}  # of the training loss alone
SETTINGS = {"auxiliary": 0.4, "clip": 0.7, "arch_lr": 0.02, "tau_lr": 0.1, "lr": 0.2}
N = 4  # images of a batch


def scene(method: str, **changes: Any) -> tuple[Any, Any, dict]:
    """A stage's configuration, parts and batches; its learners do not start at zero, and are not warming up."""
    config = micro_config(method, **(SETTINGS | changes))
    sets = data.load_dataset(config.dataset)
    parts = build.Plan(config, config.stages[0], sets, torch.device("cpu")).parts()
    vars(parts.net.train()).update(REGULAR | {"mixup": 0.4})
    for i, name in enumerate(("arch", "augment", "hyper")):
        learner = getattr(parts, name)
        setattr(parts, name, learner.inner if isinstance(learner, WarmUp) else learner)
        if name != "hyper" or config.hyper == "reinforce":
            with torch.no_grad():
                for k, v in enumerate(learner.variables()):
                    v.copy_(0.5 * normal(*v.shape, seed=10 * i + k))
    streams = (("train", sets.train, N), ("val", sets.val, 24))
    return config, parts, {name: data.Batches(part, n, generator(0, name)) for name, part, n in streams}


@contextlib.contextmanager
def still(net) -> Iterator[None]:
    """BatchNorm's running statistics come back."""
    before = {name: b.clone() for name, b in net.named_buffers()}
    yield
    for name, b in net.named_buffers():
        b.copy_(before[name])


class Written:
    """What both have in common: θ, and passes with and without the regularisers."""

    def __init__(self, config, parts, batches):
        self.config, self.parts, self.batches, self.net = config, parts, batches, parts.net
        self.theta = [p for p in parts.net.parameters() if p.requires_grad]

    def loss(self, x: Tensor, y: Tensor, child: Child, **regular: Any) -> Tensor:
        vars(self.net).update({"drop_path": 0.0, "dropout": 0.0, "auxiliary": 0.0} | regular)
        losses = self.net.losses(x, y, child)[0]
        vars(self.net).update(REGULAR)
        return losses

    def gradient(self, loss: Tensor, **how: Any) -> list[Tensor]:
        """Zero for weights without a part in it."""
        return list(torch.autograd.grad(loss, self.theta, materialize_grads=True, **how))

    def clipped(self, used: set[int], gradient: list[Tensor]) -> None:
        for p, g in zip(self.theta, gradient):
            p.grad = g.clone() if id(p) in used else None
        torch.nn.utils.clip_grad_norm_(self.theta, self.config.clip)


class Daas(Written):
    """Algorithm 1 of DAAS, eq. 3 to 14, with a mean in eq. 14; of DARTS where the children are mixtures."""

    def __init__(self, config, parts, batches):
        super().__init__(config, parts, batches)
        copied = lambda learner: [v.detach().clone().requires_grad_() for v in learner.variables()]
        self.alpha, self.gamma = copied(parts.arch), copied(parts.augment)
        self.sgd = torch.optim.SGD(self.theta, lr=1.0, momentum=config.momentum)
        self.adam = torch.optim.Adam(self.alpha, lr=config.arch_lr, betas=(0.5, 0.999), weight_decay=1e-3)
        self.adam_gamma = self.gamma and torch.optim.Adam(self.gamma, lr=config.tau_lr, betas=(0.5, 0.999))

    def sampled(self, learner: Any, variables: list[Tensor], *given: Any) -> Any:
        """A draw of the learner with these variables."""
        with torch.no_grad():
            for mine, v in zip(learner.variables(), variables):
                mine.copy_(v)
        return learner.sample(*given)

    def child(self) -> Child:
        return self.sampled(self.parts.arch, self.alpha)

    def draw(self) -> Any:
        return self.sampled(self.parts.augment, self.gamma, N)

    def gates(self, child: Child) -> tuple[Tensor, ...]:
        """As functions of α and β: eq. 7 and 8 with their straight-through values; of DARTS the softmax itself."""
        rows = []
        for s, slot in enumerate(self.net.slots):
            edges = sorted({edge for _, edge in slot.candidates})
            gates = []
            for c in child.picks[s]:
                edge = slot.candidates[c][1]
                members = [i for i, (_, e) in enumerate(slot.candidates) if e == edge]
                scores = self.alpha[0][s, members]
                if len(self.alpha) == 1:
                    gates.append(scores.softmax(0)[members.index(c)])
                    continue
                noise, edge_noise = child.memory
                a = (scores + noise[s, edge]).softmax(0)[members.index(c)]
                b = (self.alpha[1][s, edges] + edge_noise[s, edges]).softmax(0)[edges.index(edge)]
                gates.append((1 + a - a.detach()) * (1 + b - b.detach()))
            rows.append(torch.stack(gates))
        return tuple(rows)

    def log_probability(self, draw: Any) -> Tensor:
        """Eq. 4, of every image's policy."""
        pi, on, delta = self.gamma[0].softmax(1), self.gamma[1].sigmoid(), self.gamma[2].softmax(1)
        chances = []
        for row in draw.choices.tolist():
            p = torch.ones(())
            for k, (op, applied, level) in enumerate(row):
                p = p * pi[k, op] * (on[op] * delta[op, level] if applied else 1 - on[op])
            chances.append(p)
        return torch.stack(chances).log()

    def learn_alpha(self, held_out: tuple, children: list[Child]) -> None:
        total = []
        for child in children:
            with still(self.net):
                value = self.loss(*held_out, Child(child.picks, self.gates(child))).mean()
                total.append(torch.autograd.grad(value, self.alpha))
        for v, *each in zip(self.alpha, *total):
            v.grad = torch.stack(each).mean(0)
        self.adam.step()

    def one_step_ahead(self, train: tuple, held_out: tuple, child: Child, lr: float, second: bool) -> Tensor:
        """L_val(θ − lr ∇L_train(θ, α), α), differentiable through both (DARTS, eq. 6); second: through ∇L_train."""
        inner = self.gradient(self.loss(*train, Child(child.picks, self.gates(child))).mean(), create_graph=True)
        names = {id(p): name for name, p in self.net.named_parameters()}
        moved = {f"net.{names[id(p)]}": p - lr * (g if second else g.detach()) for p, g in zip(self.theta, inner)}
        vars(self.net).update(drop_path=0.0, dropout=0.0, auxiliary=0.0)
        given = (*held_out, Child(child.picks, self.gates(child)))
        value = torch.func.functional_call(_Loss(self.net), moved, given)
        vars(self.net).update(REGULAR)
        return value

    def learn_gamma(self, images: Tensor, y: Tensor, held_out: tuple, children: list[Child], lr: float) -> None:
        policy, total = self.parts.augment, []
        number, shared = max(1, self.config.policies), self.config.policies > 0
        for child in children:
            child = Child(child.picks)
            first, own = self.draw(), [self.draw() for _ in range(number)]
            with still(self.net):
                inner = [self.gradient(self.loss(policy.apply(images, d), y, child, **REGULAR).mean()) for d in own]
                before = [p.detach().clone() for p in self.theta]
                with torch.no_grad():
                    for p, *g in zip(self.theta, *inner):
                        p.sub_(lr * sum(g) / number)  # eq. 10
                outer = self.gradient(self.loss(*held_out, child).mean())
                with torch.no_grad():
                    for p, old in zip(self.theta, before):
                        p.copy_(old)
                for k in range(number):
                    draw = self.draw() if k else first
                    losses = self.loss(policy.apply(images, draw), y, child, **REGULAR)
                    each = [self.gradient(loss, retain_graph=True) for loss in losses]
                    r = torch.stack([sum((g * v).sum() for g, v in zip(of_image, outer)) for of_image in each])
                    if not shared:  # each image's own policy against the others' mean
                        r = torch.stack([r[k] - (r.sum() - r[k]) / (N - 1) for k in range(N)])
                    # eq. 13: γ descends −ξ ⟨∇L_val(θ'), ∇L_train(θ)⟩ ∇ log p(Γ), ξ left to Adam
                    value = -(
                        r.mean() * self.log_probability(draw)[0] if shared else (r * self.log_probability(draw)).mean()
                    )
                    total.append(torch.autograd.grad(value, self.gamma, materialize_grads=True))
        for v, *each in zip(self.gamma, *total):
            v.grad = torch.stack(each).mean(0)
        self.adam_gamma.step()

    def step(self, schedule: float) -> None:
        config, lr = self.config, self.config.lr * schedule
        images, y = next(self.batches["train"])
        held_out = next(self.batches["val"])
        draw = self.draw()
        x = self.parts.augment.apply(images, draw)
        children = [self.child() for _ in range(config.arch_samples)]
        self.learn_alpha(held_out, children)
        if self.gamma:
            self.learn_gamma(images, y, held_out, children, lr)
        gradients, used = [], set()
        for _ in range(config.children):
            child = Child((drawn := self.child()).picks, drawn.gates)
            used |= {id(p) for p in self.net.child_parameters(child.picks)}
            gradients.append(self.gradient(self.loss(*signals.mixed(x, y, self.net), child, **REGULAR).mean()))
        self.clipped(used, [sum(each) / config.children for each in zip(*gradients)])
        self.sgd.param_groups[0].update(lr=lr, weight_decay=config.weight_decay)
        self.sgd.step()


class _Loss(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *given: Any) -> Tensor:
        return self.net.losses(*given)[0].mean()


def assert_same(parts, reference: Written) -> None:
    buffers = zip(parts.net.named_buffers(), reference.net.buffers())
    pairs = [(f"buffer {name}", mine, other) for (name, mine), other in buffers]
    for p, q in zip(parts.net.parameters(), reference.net.parameters()):
        # Adam divides by the size of a gradient, also where it is rounding alone
        if q.grad is None or q.grad.abs().max() > 1e-10:
            pairs.append(("θ", p, q.detach().clone()))
        q.data.copy_(p.detach())
    for name, a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    for letter in ("alpha", "gamma"):
        learner = parts.arch if letter == "alpha" else parts.augment
        for a, b in zip(learner.variables(), getattr(reference, letter), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=lambda text, letter=letter: f"{letter}: {text}")


@pytest.mark.parametrize("changes", [{"children": 2}, {"policies": 2, "children": 2}], ids=["by image", "by batch"])
def test_two_levels_equal_the_algorithm_written_out(changes: dict[str, Any], micro: str):
    """A policy per image, and the paper's form, one policy per batch."""
    with float64():
        ours, reference = (
            scene("daas", arch_samples=2, **changes),
            Daas(*scene("daas", arch_samples=2, **changes)),
        )
        parts = ours[1]
        start = [v.detach().clone() for v in (*parts.arch.variables(), *parts.augment.variables())]
        for schedule in (1.0, 0.6):
            STEPS["bi-level"].make(parts, ours[2], schedule)
            reference.step(schedule)
            assert_same(parts, reference)
        for v, old in zip((*parts.arch.variables(), *parts.augment.variables()), start):
            assert (v.detach() - old).abs().max() > 1e-2


def test_second_order_darts_is_the_gradient_one_step_ahead(micro: str):
    """∇_α L_val(θ − lr ∇L_train(θ, α), α) by autograd through the step, on a cell network with BatchNorm, to 1e-8;
    without the second term it is another gradient."""
    with float64():
        given = {"arch": "darts", "augment": "flip-crop", "first_order": False}
        (config, parts, batches), reference = scene("daas", **given), Daas(*scene("daas", **given))
        parts.arch.follow, found = lambda estimates: found.extend(estimates), []
        STEPS["bi-level"].make(parts, batches, 1.0)
        (images, y), held_out = (next(reference.batches[name]) for name in ("train", "val"))
        train, child = (reference.parts.augment.apply(images, reference.draw()), y), reference.child()
        whole, ahead_alone = (
            torch.autograd.grad(reference.one_step_ahead(train, held_out, child, config.lr, second), reference.alpha)[0]
            for second in (True, False)
        )
        ((ours,),) = found
        torch.testing.assert_close(ours, whole, rtol=1e-6, atol=1e-8)
        assert (ahead_alone - whole).norm() > 0.1 * whole.norm()


@pytest.mark.parametrize("arch", ["darts", "daas"])
def test_what_is_not_drawn_passes_once(arch: str, micro: str, monkeypatch: pytest.MonkeyPatch):
    """DARTS's mixture is the same in all of n_arch + n_w passes; GDAS and DAAS draw a child for each."""
    config, parts, batches = scene("gdas", arch=arch, children=4, arch_samples=3)
    passes, real = [], parts.net.losses
    monkeypatch.setattr(parts.net, "losses", lambda *given: passes.append(given[2].picks) or real(*given))
    STEPS["bi-level"].make(parts, batches, 1.0)
    assert len(passes) == (2 if arch == "darts" else 7) and (len(set(passes)) > 3) == (arch == "daas")


def test_a_policy_that_warms_up_costs_no_pass(micro: str, monkeypatch: pytest.MonkeyPatch):
    _, parts, batches = scene("daas", children=2, arch_samples=2, policies=2)
    parts.augment, passes, real = WarmUp(parts.augment, 1), [], parts.net.losses
    monkeypatch.setattr(parts.net, "losses", lambda *given: passes.append(1) or real(*given))
    counts = []
    for _ in range(2):
        STEPS["bi-level"].make(parts, batches, 1.0)
        counts.append(len(passes))
    # 2 of α and 2 of θ; then for both children also 2 of θ', one at it, and 2 rewards
    assert counts == [4, 4 + 4 + 2 * (2 + 1 + 2)]


def test_a_policy_without_validation_images_learns_from_the_training_losses(
    micro: str, monkeypatch: pytest.MonkeyPatch
):
    config, parts, batches = scene("gdas", augment="pair-softmax", tau_lr=None, children=2)
    seen, real = [], parts.augment.estimate
    monkeypatch.setattr(parts.augment, "estimate", lambda draw, **s: seen.append(s["losses"]) or real(draw, **s))
    outcome = STEPS["bi-level"].make(parts, batches, 1.0)
    assert len(seen) == 1 and torch.equal(seen[0], outcome.losses)


@pytest.mark.parametrize("n", [2, 10])
def test_the_sum_of_eq_14_is_the_mean_by_other_rates(n: int):
    """Its sum over n_w children by lr, weight decay and clip is this kit's mean by n_w lr, weight decay / n_w and
    clip / n_w: SGD with momentum, to 1e-12."""
    summed, averaged = (torch.nn.Parameter(normal(6, seed=1)) for _ in range(2))
    by_sum = torch.optim.SGD([summed], lr=0.03, momentum=0.9, weight_decay=0.02)
    by_mean = torch.optim.SGD([averaged], lr=0.03 * n, momentum=0.9, weight_decay=0.02 / n)
    for i in range(5):
        gradients = torch.stack([normal(6, seed=10 * i + k) * summed.detach() for k in range(n)])
        summed.grad, averaged.grad = gradients.sum(0), gradients.mean(0)
        torch.nn.utils.clip_grad_norm_([summed], 1.5)
        torch.nn.utils.clip_grad_norm_([averaged], 1.5 / n)
        by_sum.step(), by_mean.step()
        torch.testing.assert_close(summed, averaged, rtol=1e-6, atol=1e-7)


# ---- AutoHAS -------------------------------------------------------------------------------------


class Autohas(Written):
    """Algorithm 1 of AutoHAS: a step by the drawn (α, h) gives W*, whose validation accuracy rewards both."""

    def __init__(self, config, parts, batches):
        super().__init__(config, parts, batches)
        self.alpha = [v.detach().clone().requires_grad_() for v in parts.arch.variables()]
        self.eta = {name: v.detach().clone().requires_grad_() for name, v in parts.hyper.logits.items()}
        self.gamma: list[Tensor] = []
        rules = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
        self.rules = {name: rule(self.theta, lr=1.0) for name, rule in rules.items()}
        self.rules["sgd"].param_groups[0]["momentum"] = config.momentum
        self.adam = torch.optim.Adam(self.alpha, lr=config.arch_lr)
        self.adam_eta = torch.optim.Adam(list(self.eta.values()), lr=config.hyper_lr)
        self.baselines = {"alpha": 0.3, "eta": 0.3}

    def advantage(self, name: str, reward: float) -> float:
        before = self.baselines[name]
        self.baselines[name] = 0.95 * before + 0.05 * reward
        return reward - before

    def step(self, schedule: float) -> None:
        net, arch, hyper, policy = self.net, self.parts.arch, self.parts.hyper, self.parts.augment
        with torch.no_grad():
            for mine, v in zip((*arch.variables(), *hyper.variables()), (*self.alpha, *self.eta.values())):
                mine.copy_(v)
        x, y = next(self.batches["train"])
        draw = policy.sample(len(y))
        hyper.draw()
        h = {name: hyper.bases[name][i] for name, i in hyper.drawn.items()}
        paths = tuple(h[f"drop_path/{block}"] for block in range(len(net.slots)))  # one for each block
        child = arch.sample()
        net.mixup = h["mixup"]
        batch = signals.mixed(policy.apply(x, draw), y, net)
        loss = self.loss(*batch, child, dropout=h["dropout"], drop_path=paths).mean()
        rule = self.rules[h["optimizer"]]
        self.clipped({id(p) for p in net.child_parameters(child.picks)}, self.gradient(loss))
        rule.param_groups[0].update(lr=h["lr"] * schedule * RATES[h["optimizer"]], weight_decay=h["weight_decay"])
        rule.step()
        images, labels = next(self.batches["val"])
        vars(net).update({"drop_path": 0.0, "dropout": 0.0, "auxiliary": 0.0})
        with still(net), torch.no_grad():
            accuracy = float((net(images, child).argmax(1) == labels).double().mean())
        # REINFORCE: the gradient is −(Q − baseline) ∇ log P
        chosen = sum(row.log_softmax(0)[p[0]] for row, p in zip(self.alpha[0], child.picks))
        macs = [net.cost(picks).macs for picks in (child.picks, net.picks_of({"blocks": "k3_e6"}))]
        quality = accuracy - self.config.target_weight * abs(macs[0] / macs[1] - 1)  # TuNAS, to MobileNetV2's own cost
        self.alpha[0].grad = -self.advantage("alpha", quality) * torch.autograd.grad(chosen, self.alpha)[0]
        self.adam.step()
        advantage = self.advantage("eta", accuracy)
        for name, logits in self.eta.items():
            of_log = torch.autograd.grad(logits.log_softmax(0)[hyper.drawn[name]], logits)[0]
            logits.grad = -advantage * of_log
        self.adam_eta.step()
        self.accuracy = accuracy


EVERY = (
    "lr=0.05:0.3,weight_decay=0.0001:0.05,mixup=0.1:0.4,dropout=0.3:0.7,drop_path=0.3:0.7,optimizer=sgd:adam:rmsprop"
)


def test_the_reward_step_equals_the_algorithm_written_out(micro: str):
    given = {"hyper_space": EVERY, "hyper_lr": 0.1, "cells": 5, "search_cells": 5, "auxiliary": 0.0}
    with float64():
        ours, reference = scene("autohas", **given), Autohas(*scene("autohas", **given))
        parts, seen = ours[1], []
        parts.arch.baseline = parts.hyper.baseline = 0.3
        for schedule in (1.0, 0.7, 0.5, 1.0, 0.8, 0.9, 1.0, 0.6, 0.7):
            STEPS["reward"].make(parts, ours[2], schedule)
            reference.step(schedule)
            assert_same(parts, reference)
            for name, logits in parts.hyper.logits.items():
                torch.testing.assert_close(logits, reference.eta[name], rtol=1e-8, atol=1e-9, msg=name)
            seen.append((reference.accuracy, parts.hyper.drawn["optimizer"]))
        assert len({accuracy for accuracy, _ in seen}) > 2 and {rule for _, rule in seen} == {0, 1, 2}


# ---- what is derived -----------------------------------------------------------------------------


def test_the_derived_child_takes_the_edges_that_beta_ranks_first():
    """DAAS 4.3: two edges of each node by β, on each the operation of the largest α."""
    slots = edge_slots(3, 4, operations=3)
    learner = Gumbel(slots, stream(), FREE, arch_lr=0.1)
    with torch.no_grad():
        learner.logits.copy_(3 * normal(*learner.logits.shape, seed=1))
        learner.beta.copy_(normal(*learner.beta.shape, seed=2))
    expected, by_alpha, logits = [], [], learner.logits.detach()
    for s, slot in enumerate(slots):
        edges = sorted({e for _, e in slot.candidates})
        members = [[c for c, (_, e) in enumerate(slot.candidates) if e == edge] for edge in edges]
        best = [max(of_edge, key=lambda c: float(logits[s, c])) for of_edge in members]
        top = sorted(edges, key=lambda e: -float(learner.beta.detach()[s, e]))[:2]
        expected.append(tuple(sorted(best[e] for e in top)))
        chance = [float(logits[s, of_edge].softmax(0).max()) for of_edge in members]
        by_alpha.append(tuple(sorted(best[e] for e in sorted(edges, key=lambda e: -chance[e])[:2])))
    assert learner.picks == tuple(expected) != tuple(by_alpha)


def test_the_retraining_uses_the_derived_regularisers_rates_and_optimizer(micro: str, tmp_path: Path):
    space = "lr,weight_decay,mixup,dropout,drop_path,optimizer"
    search = Search(micro_config("autohas", cells=4, search_cells=4, hyper_space=space, epochs=3), tmp_path / "run")
    with torch.no_grad():
        for i, logits in enumerate(search.parts.hyper.logits.values()):
            logits.copy_(2 * normal(*logits.shape, seed=i))
    search.train_epoch()
    assert search.stage.name == "retraining"
    net, found, seen = search.parts.net, search.parts.hyper.result(), []
    real, step = net.losses, search.parts.sgd.step
    net.losses = lambda *given: seen.append((net.mixup, net.dropout, net.drop_path)) or real(*given)
    search.parts.sgd.step = lambda gradient, *values: seen.append(values) or step(gradient, *values)
    search.take_step(search.parts, search.batches, 0.5)
    (regular, (lr, decay, optimizer)) = seen
    paths = tuple(found[f"drop_path/{block}"] for block in range(len(net.slots)))
    assert regular == (found["mixup"], found["dropout"], paths) and min(*regular[:2], *paths) > 0 < len(set(paths)) - 1
    assert float(lr) == pytest.approx(0.5 * found["lr"]) and float(decay) == pytest.approx(found["weight_decay"])
    assert optimizer == found["optimizer"] and found["lr"] not in (0.01, 0.025, 0.05, 0.1, 0.2)
