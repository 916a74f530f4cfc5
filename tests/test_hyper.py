"""Hyper-gradients against central differences of a real SGD step, and the step itself against torch.optim.SGD."""

from __future__ import annotations

import copy
import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kit import space
from kit.arch import random_picks
from kit.hyper import HYPER, Values
from kit.search import grads
from kit.search.grads import Gradient, Momentum, Trace
from kit.search.signals import on_request
from kit.space import Child
from kit.space.limits import Limits

LR, DECAY, SCHEDULE, MU = 0.3, 0.02, 0.37, 0.9


def learner_of(name: str, lr: float, decay: float, **options: float):
    """Of the registered name, with a step size of 1e-2 where it has one."""
    part = HYPER[name]
    options = {"hyper_lr": 1e-2, "hyper_reach": 1e9} | options
    return part.make(lr, decay, **{name: value for name, value in options.items() if name in part.options.model_fields})


@functools.cache
def _built() -> space.Network:
    torch.manual_seed(0)
    return space.build("cell", 3, (1, 8, 8), channels=2, cells=3).double().train()


def supernet() -> space.Network:
    """The cell space at its smallest, in float64."""
    return copy.deepcopy(_built())


def some_child(net: space.Network, seed: int) -> Child:
    return Child(random_picks(net.slots, torch.Generator().manual_seed(seed), Limits(net)))


def batch(seed: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 8, 8), generator=g, dtype=torch.uint8), torch.randint(0, 3, (n,), generator=g)


def gradient_of(net: space.Network, child: Child, data: tuple[torch.Tensor, torch.Tensor]) -> Gradient:
    losses, _ = net.losses(*data, child)
    return grads.backward(losses.mean(), net, child)


class Scene:
    """A step about to be taken: momentum buffers filled by two steps of other children, weight decay on, clipping
    active or not.
    """

    def __init__(self, clip: float):
        self.net, self.clip = supernet(), clip
        self.child, self.other = some_child(self.net, 1), some_child(self.net, 2)
        self.sgd = Momentum(self.net, MU, clip)
        for i, child in enumerate((self.child, self.other)):
            self.sgd.step(gradient_of(self.net, child, batch(10 + i)), torch.tensor(0.05), torch.tensor(0.01))
        self.gradient = gradient_of(self.net, self.child, batch(20))
        norm = math.sqrt(sum(float(g.square().sum()) for g in self.gradient.theta))
        self.scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        assert self.scale < 0.9 if clip else self.scale == 1.0  # clipping is at work where it is on
        self.frozen = copy.deepcopy(self.net)  # θ before the step
        self.buffers = {name: buffer.clone() for name, buffer in self.sgd.moments["sgd/velocity"].items()}

    def outer_loss_after(
        self, lr: float, decay: float, outer_child: Child, data: tuple[torch.Tensor, torch.Tensor]
    ) -> float:
        """L(θ'(lr, decay)) by torch.optim.SGD on a copy; the clip factor is part of the gradient and constant."""
        net = self.frozen
        start = [p.detach().clone() for p in net.parameters()]
        ids = {id(p): name for name, p in self.net.named_parameters()}
        named = dict(net.named_parameters())
        names = [ids[id(p)] for p in self.gradient.parameters]
        optimizer = torch.optim.SGD([named[name] for name in names], lr=lr, momentum=MU, weight_decay=decay)
        for name, g in zip(names, self.gradient.theta):
            named[name].grad = g * self.scale
            if name in self.buffers:
                optimizer.state[named[name]]["momentum_buffer"] = self.buffers[name].clone()
        optimizer.step()
        with torch.no_grad():
            loss = float(net.losses(*data, outer_child)[0].mean())
            for p, value in zip(net.parameters(), start):
                p.copy_(value)
        return loss

    @functools.cached_property
    def trace(self) -> Trace:
        """Of the step, which is taken here; the differences start from before it."""
        return self.sgd.step(
            self.gradient, torch.tensor(LR * SCHEDULE, dtype=torch.float64), torch.tensor(DECAY, dtype=torch.float64)
        )

    @functools.cache  # noqa: B019
    def differences(self, outer_child: Child, seed: int, h: float = 1e-5) -> list[float]:
        """∂L/∂log lr and ∂L/∂log decay, where the step uses lr · schedule."""
        result = []
        for along in (0, 1):
            up, down = (
                self.outer_loss_after(
                    LR * SCHEDULE * factor if along == 0 else LR * SCHEDULE,
                    DECAY * factor if along == 1 else DECAY,
                    outer_child,
                    batch(seed),
                )
                for factor in (math.exp(h), math.exp(-h))
            )
            result.append((up - down) / (2 * h))
        return result


scene_with = functools.cache(Scene)


@pytest.mark.parametrize("name", ["fresh", "validation", "lookahead"])
@pytest.mark.parametrize(("clip", "same_child"), [(0.0, True), (0.05, False)])
def test_hyper_gradients_equal_finite_differences_of_a_real_step(name: str, clip: float, same_child: bool):
    scene = scene_with(clip)
    outer_child = scene.child if same_child else scene.other
    trace = scene.trace
    learner = learner_of(name, LR, DECAY)
    outer = gradient_of(scene.net, outer_child, batch(30))
    if name == "lookahead":
        learner.update(trace)
        assert learner.log.grad is None  # it has nothing to learn from before the next gradient
        learner.observe(trace, outer)
    else:
        sources = []
        learner.update(trace, outer=lambda source: sources.append(source) or outer)
        assert sources == [{"fresh": "fresh", "validation": "val"}[name]]
    expected = torch.tensor(scene.differences(outer_child, 30), dtype=torch.float64)
    assert expected.abs().min() > 1e-6
    torch.testing.assert_close(learner.log.grad, expected, rtol=2e-5, atol=1e-9)


def test_weights_that_the_step_did_not_move_do_not_count():
    scene = scene_with(0.0)
    trace = scene.trace
    outer = gradient_of(scene.net, scene.other, batch(31))
    mine = {id(p) for p in trace.parameters}
    assert any(id(p) not in mine for p in outer.parameters)
    expected = trace.hyper_gradient(outer)
    shouted = [g if id(p) in mine else g + 1e6 for p, g in zip(outer.parameters, outer.theta)]
    assert trace.hyper_gradient(Gradient(outer.parameters, shouted)) == expected


def test_look_ahead_and_fresh_agree_on_the_same_batch_child_and_gradients():
    first, second = (learner_of(name, LR, DECAY) for name in ("fresh", "lookahead"))
    scene = Scene(0.0)
    child, still = scene.child, Child(scene.child.picks)
    for i in range(4):
        gradient = gradient_of(scene.net, child, batch(40 + i))
        second.observe(scene.sgd.trace if i else None, gradient)
        assert i == 0 or torch.equal(first.log, second.log)
        trace = scene.sgd.step(
            gradient, *Values(torch.tensor(0.02, dtype=torch.float64), torch.tensor(DECAY, dtype=torch.float64))
        )
        # the batch that comes next, asked for by kit.step's own outer gradient
        parts = SimpleNamespace(net=scene.net, augment=_NoPolicy())
        outer = on_request(parts, {"fresh": iter([batch(41 + i)])}, (), still)["outer"]
        first.update(trace, outer=outer)
        second.update(trace, outer=outer)
    assert not torch.equal(first.log, torch.tensor([LR, DECAY], dtype=torch.float64).log())


class _NoPolicy:
    def sample(self, n: int) -> None: ...

    def apply(self, images: torch.Tensor, draw: None) -> torch.Tensor:
        return images


def test_the_outer_gradient_leaves_statistics_gates_and_validation_images_alone():
    net = supernet()
    gates = tuple(torch.full((2,), 0.7, dtype=torch.float64, requires_grad=True) for _ in net.slots)
    child = Child(some_child(net, 1).picks, gates)
    before = {k: v.clone() for k, v in net.named_buffers() if "running" in k}
    parts = SimpleNamespace(net=net, augment=None)  # no policy: val as it is
    measured = on_request(parts, {"val": iter([batch(1)])}, (), child)
    gradient = measured["outer"]("val")
    assert gradient.gates == [None] * len(net.slots)
    buffers = dict(net.named_buffers())
    assert all(torch.equal(v, buffers[k]) for k, v in before.items())
    expected = gradient_of(net, Child(child.picks, tuple(g.detach() for g in gates)), batch(1))
    assert all(torch.equal(a, b) for a, b in zip(gradient.theta, expected.theta))
    assert any(not torch.equal(v, buffers[k]) for k, v in before.items())  # as an ordinary pass does


# ---- log space and Adam --------------------------------------------------------------------------


def one_weight() -> Trace:
    """θ' = 2, v' = 3, so θ = 2 + 0.1 · 3; lr = 0.1 with the schedule, wd = 0.04."""
    return Trace([nn.Parameter(torch.tensor([2.0]))], [torch.tensor([3.0])], torch.tensor(0.1), torch.tensor(0.04))


def test_chain_rule_of_the_log_by_hand():
    learner, trace = learner_of("fresh", 0.2, 0.04), one_weight()
    g = torch.tensor([5.0])
    learner.update(trace, outer=lambda _: Gradient(trace.parameters, [g], []))
    # ∂L/∂log lr = lr · (−g v') = 0.1 · −15; ∂L/∂log wd = wd · (−lr g θ) = 0.04 · −0.1 · 5 · 2.3
    torch.testing.assert_close(learner.log.grad, torch.tensor([-1.5, -0.046], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("moves", ["lr", "weight_decay"])
def test_what_hyper_moves_leaves_out_stays_to_the_bit(moves: str):
    learner, trace = HYPER["fresh"].make(0.2, 0.04, hyper_lr=1e-2, hyper_moves=moves), one_weight()
    before = learner.log.detach().clone()
    learner.update(trace, outer=lambda _: Gradient(trace.parameters, [torch.tensor([5.0])], []))
    assert (learner.log != before).tolist() == [moves == "lr", moves == "weight_decay"]


def test_adam_by_hand_over_three_steps():
    learner, logs = learner_of("validation", 0.2, 0.04), [math.log(0.2), math.log(0.04)]
    m, v = [0.0, 0.0], [0.0, 0.0]
    for t, g in enumerate((5.0, -1.0, 2.0), start=1):
        trace = one_weight()
        learner.update(trace, outer=lambda _, g=g, trace=trace: Gradient(trace.parameters, [torch.tensor([g])], []))
        for i, slope in enumerate((0.1 * -3 * g, 0.04 * -0.1 * 2.3 * g)):
            m[i], v[i] = 0.9 * m[i] + 0.1 * slope, 0.999 * v[i] + 0.001 * slope**2
            logs[i] -= 1e-2 * (m[i] / (1 - 0.9**t)) / (math.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    torch.testing.assert_close(learner.log.detach(), torch.tensor(logs, dtype=torch.float64), rtol=1e-6, atol=0)
    lr, decay, optimizer = learner.sample(0.5)
    assert optimizer == "sgd"
    assert float(lr) == pytest.approx(0.5 * math.exp(logs[0]), rel=1e-6) and float(decay) == pytest.approx(
        math.exp(logs[1]), rel=1e-6
    )


@pytest.mark.parametrize("name", ["fixed", "fresh", "hgd", "lookahead", "validation"])
def test_zero_weight_decay_stays_zero(name: str):
    learner, trace = learner_of(name, 0.2, 0.0), one_weight()
    trace.weight_decay.zero_()
    outer = Gradient(trace.parameters, [torch.tensor([5.0])], [])
    learner.observe(trace, outer)
    learner.update(trace, outer=lambda _: outer)
    assert float(learner.sample().weight_decay) == 0.0 and learner.summary()["eta/weight_decay"] == 0.0
    assert (float(learner.sample().lr) == pytest.approx(0.2, rel=1e-6)) == (name == "fixed")


@pytest.mark.parametrize("name", ["fresh", "ift", "lookahead", "validation"])
def test_between_hyper_gradients_nothing_moves_and_no_pass_is_asked_for(name: str):
    learner, asked, moved = learner_of(name, 0.2, 0.04, hyper_every=3), [], []
    for step in range(1, 8):
        trace, before = one_weight(), learner.log.detach().clone()
        outer = Gradient(trace.parameters, [torch.tensor([5.0])], [])
        learner.observe(trace, outer)
        loss = lambda trace=trace: trace.parameters[0].square().sum()
        learner.update(trace, outer=lambda _, step=step, outer=outer: asked.append(step) or outer, loss=loss)
        if not torch.equal(learner.log, before):
            moved.append(step)
    assert moved == [3, 6] and asked == ([] if name == "lookahead" else [3, 6])


@pytest.mark.parametrize("every", [1, 4])
def test_half_of_the_steps_cover_the_reach_however_often_eta_moves(every: int):
    learner = HYPER["fresh"].make(0.2, 0.04, steps=40, hyper_reach=8.0, hyper_every=every)
    for _ in range(20):  # Adam's step is its rate, where every gradient is the same
        trace = one_weight()
        learner.update(trace, outer=lambda _, trace=trace: Gradient(trace.parameters, [torch.tensor([5.0])], []))
    assert learner.summary()["eta/lr"] == pytest.approx(8 * 0.2, rel=1e-6)
    assert learner.summary()["eta/weight_decay"] == pytest.approx(8 * 0.04, rel=1e-6)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("name", ["fixed", "fresh", "hgd", "lookahead", "validation"])
def test_resumed_learner_goes_on_bit_identically(name: str, every: int):
    def move(learner, times: int, start: int) -> None:
        for i in range(start, start + times):
            trace = one_weight()
            outer = Gradient(trace.parameters, [torch.tensor([math.sin(i) + 0.3])], [])
            learner.observe(trace, outer)
            learner.update(trace, outer=lambda _, outer=outer: outer)

    whole, stopped, resumed = (learner_of(name, 0.2, 0.04, hyper_every=every) for _ in range(3))
    move(whole, 6, 0)
    move(stopped, 3, 0)
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    move(resumed, 3, 3)
    assert torch.equal(whole.log, resumed.log)
    assert (name == "fixed") == torch.equal(stopped.log, whole.log)
