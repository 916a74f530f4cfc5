"""η's estimators and signals against their definitions: REINFORCE over bases, implicit differentiation, HGD, trials;
the steps that a search may choose against torch.optim; mixup."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from scipy import stats
from tests_micro import micro_config
from tests_toy import Plain, batch, child_of, normal, stream, supernet
from torch import Tensor, nn
from torch.nn import functional as F

from kit import Config, data
from kit.errors import KitError
from kit.hyper import HYPER, Controller, DerivedHyper, read_bases
from kit.search import build, grads, signals
from kit.search.engine import Search
from kit.search.grads import RATES, Gradient, Momentum, Trace
from kit.search.learner import WarmUp, generator
from kit.search.signals import beta, mixed
from kit.search.step import STEPS
from kit.space import Child
from kit.zoo.hgd import Hgd
from kit.zoo.ift import curvature, implicit_gradient
from kit.zoo.in_turn import InTurn
from kit.zoo.mixture import Mixture
from kit.zoo.trials import Trials

SPACE = "lr=0.01:0.1,mixup=0:0.1:0.2,optimizer=sgd:adam"
BASES = {"lr": (0.01, 0.1), "mixup": (0.0, 0.1, 0.2), "optimizer": ("sgd", "adam")}
CHOICES = list(itertools.product(range(2), range(3), range(2)))


# ---- REINFORCE -----------------------------------------------------------------------------------


def controller(seed: int = 0) -> Controller:
    learner = Controller(0.05, 1e-3, stream(seed), hyper_space=SPACE, hyper_lr=0.1)
    with torch.no_grad():
        for i, v in enumerate(learner.variables()):
            v.copy_(normal(*v.shape, seed=i))
    return learner


def quality(choice: tuple[int, ...]) -> float:
    return 0.5 + 0.5 * math.sin(1 + sum((i + 2) * (c + 1) ** 1.5 for i, c in enumerate(choice)))


def exact(learner: Controller) -> list[Tensor]:
    """∇ of −E[Q], every choice enumerated, from the softmaxes alone."""
    p = [v.softmax(0) for v in learner.variables()]
    expected = sum(math.prod(rows[c] for rows, c in zip(p, choice)) * quality(choice) for choice in CHOICES)
    return list(torch.autograd.grad(-expected, learner.variables()))


def test_the_controllers_mean_is_the_gradient_of_the_expected_reward():
    """Σ_h p(h) estimate(h) = −∇ E[Q] to 1e-10, whatever constant the baseline is."""
    constant = 0.6
    learner = controller()
    learner.advantage = lambda reward: reward - constant
    found = [torch.zeros_like(v) for v in learner.variables()]
    for choice in CHOICES:
        learner.drawn = dict(zip(BASES, choice))
        p = math.prod(learner.probabilities()[name][c] for name, c in learner.drawn.items())
        found = [f + p * e for f, e in zip(found, learner.estimate(None, reward=lambda choice=choice: quality(choice)))]
    for a, b in zip(found, exact(learner), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert b.abs().max() > 1e-2


def test_the_mean_over_many_draws_with_the_moving_baseline_agrees_too():
    """3,000 draws of its own, baseline 0.95: within four standard errors, and the draws are the softmax's (χ², p >
    1e-3).
    """
    learner, n, estimates, counts = controller(2), 3000, [], dict.fromkeys(CHOICES, 0)
    for _ in range(n):
        regular, (lr, decay, optimizer) = learner.draw(), learner.sample(0.5)
        choice = tuple(learner.drawn.values())
        assert regular == {"mixup": BASES["mixup"][choice[1]]} and optimizer == BASES["optimizer"][choice[2]]
        assert float(lr) == pytest.approx(0.5 * BASES["lr"][choice[0]]) and float(decay) == pytest.approx(1e-3)
        counts[choice] += 1
        estimates.append(torch.cat(learner.estimate(None, reward=lambda choice=choice: quality(choice))))
    found, expected = torch.stack(estimates), torch.cat(exact(learner))
    error = found.std(0) / math.sqrt(n)
    assert ((found.mean(0) - expected).abs() < 4 * error).all() and expected.abs().max() > 8 * error.max()
    p = [float(math.prod(learner.probabilities()[name][c] for name, c in zip(BASES, choice))) * n for choice in CHOICES]
    assert stats.chisquare(list(counts.values()), p).pvalue > 1e-3


def test_the_derived_values_are_the_weighed_basis_and_the_likeliest_optimizer():
    learner = controller()
    p = {name: v.detach().softmax(0) for name, v in learner.logits.items()}
    lr, _, optimizer = learner.derived(0.5)
    assert float(lr) == pytest.approx(0.5 * float(p["lr"][0] * 0.01 + p["lr"][1] * 0.1), rel=1e-6)
    assert DerivedHyper(learner).draw()["mixup"] == pytest.approx(float(p["mixup"][1] * 0.1 + p["mixup"][2] * 0.2))
    assert optimizer == ("sgd", "adam")[int(p["optimizer"].argmax())]


def test_the_baseline_is_the_moving_average_of_the_rewards_before():
    learner, value = controller(), None
    for reward in (0.2, 0.6, 0.1, 0.9):
        expected = 0.0 if value is None else reward - value
        assert learner.advantage(reward) == pytest.approx(expected, abs=1e-15)
        value = reward if value is None else 0.95 * value + 0.05 * reward
        assert learner.baseline == pytest.approx(value)
    assert value == pytest.approx(0.95 * (0.95 * (0.95 * 0.2 + 0.05 * 0.6) + 0.05 * 0.1) + 0.05 * 0.9)


def test_autohas_controllers_rest_for_the_first_thirty_percent_of_the_steps(
    micro: str, monkeypatch: pytest.MonkeyPatch
):
    rewards = itertools.cycle([0.2, 0.7, 0.4, 0.9])
    monkeypatch.setattr(signals, "accuracy", lambda net, held, child: next(rewards))
    config = micro_config("autohas", cells=4, search_cells=4, hyper_space="lr,optimizer")
    sets = data.load_dataset(config.dataset)
    parts = build.Plan(config, config.stages[0], sets, torch.device("cpu"), steps=10).parts()
    assert isinstance(parts.arch, WarmUp) and isinstance(parts.hyper, WarmUp) and parts.hyper.steps == 3
    batches = {
        name: data.Batches(part, 6, generator(0, name)) for name, part in (("train", sets.train), ("val", sets.val))
    }
    parts.net.train()
    moved = []
    for _ in range(6):
        before = [v.detach().clone() for v in (*parts.arch.variables(), *parts.hyper.variables())]
        STEPS["reward"].make(parts, batches, 1.0)
        moved.append(
            [bool((v.detach() != b).any()) for v, b in zip((*parts.arch.variables(), *parts.hyper.variables()), before)]
        )
    assert not any(itertools.chain(*moved[:3])) and parts.hyper.passed == 6
    assert not any(moved[3])  # the first reward that counts is the baseline's first as well
    assert all(moved[4]) and all(moved[5])


def test_hyper_parameters_in_turn_learn_one_by_one_and_those_found_stay():
    rewards = {(0, 0): 0.1, (1, 0): 0.6, (0, 1): 0.2, (1, 1): 0.9}
    learner = InTurn(0.05, 1e-3, stream(0), hyper_space="weight_decay=0.001:0.01,mixup=0:0.2", hyper_lr=0.2)
    for turn, name in enumerate(("weight_decay", "mixup")):
        before = [v.detach().clone() for v in learner.variables()]
        for _ in range(60):
            regular, (_, decay, _) = learner.draw(), learner.sample()
            assert regular == ({"mixup": (0.0, 0.2)[learner.drawn["mixup"]]} if turn else {})
            choice = int(float(decay) > 0.005), learner.drawn["mixup"] if turn else 0
            learner.update(None, reward=lambda choice=choice: rewards[choice])
        moved = [bool((v.detach() != b).any()) for v, b in zip(learner.variables(), before)]
        assert moved == [not turn, bool(turn)] and learner.probabilities()[name][1] > 0.9
        assert not learner.record_score(0.5, last=False) and learner.turn == turn
        assert learner.record_score(None, last=True)
        again = InTurn(0.05, 1e-3, stream(1), hyper_space="weight_decay=0.001:0.01,mixup=0:0.2", hyper_lr=0.2)
        again.load_state_dict(learner.state_dict())  # as the next stage, which begins with weights of its own, has it
        learner = again
        assert (learner.turn, list(learner.found)) == (turn + 1, ["weight_decay", "mixup"][: turn + 1])
    found = learner.result()
    assert 0.009 < found["weight_decay"] < 0.01 and 0.18 < found["mixup"] < 0.2
    assert DerivedHyper(learner).draw() == {"mixup": found["mixup"]}


# ---- implicit differentiation, HGD, curvature ----------------------------------------------------

H, A, B = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), normal(3, seed=1), normal(3, seed=2)


def settled(decay: float) -> Tensor:
    """arg min ½ (θ − A)ᵀ H (θ − A) + decay/2 ‖θ‖², H diagonal."""
    return H * A / (H + decay)


def test_the_implicit_gradient_is_the_inverse_and_the_slope_of_the_settled_validation_loss():
    """L_val = ½ ‖θ − B‖². Many Neumann terms: −⟨(H + wd)⁻¹ g, θ⟩ to 1e-10, and central differences of L_val(θ*(wd)) to
    1e-6.
    """
    decay, h = 0.3, 1e-5
    theta = nn.Parameter(settled(decay))
    outer = Gradient([theta], [(theta - B).detach()])
    found = implicit_gradient(outer, decay, 0.4, lambda v: [H * v[0]], terms=400)
    torch.testing.assert_close(found, -((theta.detach() - B) / (H + decay) * theta.detach()).sum(), rtol=1e-10, atol=0)
    slope = [float(((settled(d) - B) ** 2).sum() / 2) for d in (decay + h, decay - h)]
    assert float(found) == pytest.approx((slope[0] - slope[1]) / (2 * h), rel=1e-6) and abs(float(found)) > 0.05


@pytest.mark.parametrize("steps", [0, 5])
def test_few_terms_are_the_gradient_of_as_many_unrolled_steps(steps: int):
    """From the settled weights, `steps` + 1 plain steps of rate 0.4 with autograd kept through all of them: to
    1e-10.
    """
    decay = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    theta = nn.Parameter(settled(0.3))
    rolled = theta.detach()
    for _ in range(steps + 1):
        rolled = rolled - 0.4 * (H * (rolled - A) + decay * rolled)
    (expected,) = torch.autograd.grad(((rolled - B) ** 2).sum() / 2, decay)
    outer = Gradient([theta], [(theta - B).detach()])
    torch.testing.assert_close(
        implicit_gradient(outer, 0.3, 0.4, lambda v: [H * v[0]], terms=steps), expected, rtol=1e-10, atol=0
    )


def test_curvature_is_the_hessian_of_the_mean_loss_times_a_vector():
    net, (x, y) = Plain(), batch(1, n=3, image=(1, 4, 4))
    parameters = net.child_parameters(())
    v = [normal(*p.shape, seed=i) for i, p in enumerate(parameters)]
    first = torch.autograd.grad(net.losses(x, y, Child(()))[0].mean(), parameters, create_graph=True)
    rows = [
        torch.cat(
            [r.flatten() for r in torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)]
        )
        for entry in torch.cat([g.flatten() for g in first])
    ]
    hessian = torch.stack(rows)
    torch.testing.assert_close(hessian, hessian.T)
    found = curvature(net.losses(x, y, Child(()))[0].mean(), parameters, v)
    torch.testing.assert_close(
        torch.cat([f.flatten() for f in found]), hessian @ torch.cat([d.flatten() for d in v]), rtol=1e-10, atol=1e-12
    )


def test_curvature_through_batch_norm_is_the_slope_of_the_gradient():
    """Central differences of ∇L along v, BatchNorm in training mode: to 1e-5 of its norm; statistics left alone."""
    net, (x, y) = supernet("cell"), batch(1)
    child = child_of(net)
    parameters = net.child_parameters(child.picks)
    v, buffers = (
        [normal(*p.shape, seed=i) for i, p in enumerate(parameters)],
        {k: b.clone() for k, b in net.named_buffers()},
    )
    with net.frozen_statistics(child.picks):
        found = curvature(net.losses(x, y, child)[0].mean(), parameters, v)

    def gradient_at(h: float) -> Tensor:
        with grads.ahead(Gradient(parameters, v), -h), net.frozen_statistics(child.picks):
            theta = torch.autograd.grad(net.losses(x, y, child)[0].mean(), parameters)
        return torch.cat([g.flatten() for g in theta])

    h, product = 1e-7, torch.cat([f.flatten() for f in found])
    error = (product - (gradient_at(h) - gradient_at(-h)) / (2 * h)).norm() / product.norm()
    assert error < 1e-5 and all(torch.equal(b, buffers[k]) for k, b in net.named_buffers())


def test_hgd_changes_the_rate_by_the_cosine_of_gradient_and_step():
    """−∂L(θ')/∂lr = ⟨g', v'⟩, over the weights that both have, divided by both norms."""
    kept, gone, new = (nn.Parameter(normal(4, seed=i)) for i in range(3))
    velocity, g = normal(4, seed=5), normal(4, seed=6)
    trace = Trace([kept, gone], [velocity, normal(4, seed=7)], torch.tensor(0.1), torch.tensor(0.0))
    cosine = float(F.cosine_similarity(g, velocity, dim=0))
    learner = Hgd(0.2, 1e-3, hyper_lr=0.01)
    learner.observe(None, Gradient([kept], [g]))
    assert float(learner.sample().lr) == pytest.approx(0.2, rel=1e-6)  # the first step has none before it
    learner.observe(trace, Gradient([kept, new], [g, normal(4, seed=8)]))
    assert (
        float(learner.log[0].detach()) == pytest.approx(math.log(0.2) + 0.01 * cosine, abs=1e-12) and abs(cosine) > 0.05
    )
    assert (float(learner.sample().lr) > 0.2) == (cosine > 0) and float(learner.sample().weight_decay) == pytest.approx(
        1e-3
    )
    for scale, sign in (
        (3.0, 1.0),
        (-1e-3, -1.0),
    ):  # along the step: it was too short; against it: too long. Sizes do not count
        learner = Hgd(0.2, 1e-3, hyper_lr=0.01)
        learner.observe(trace, Gradient([kept], [scale * velocity]))
        assert float(learner.log[0].detach()) == pytest.approx(math.log(0.2) + 0.01 * sign, abs=1e-12)
        by_lr, _ = trace.hyper_gradient(Gradient([kept], [scale * velocity]))
        assert (float(by_lr) < 0) == (sign > 0)


def test_the_mixtures_gradient_is_the_slope_of_the_validation_loss_after_the_step():
    """By its logits, central differences of L_val(θ − lr_t (g + wd θ)), lr_t the mixture by a schedule of 0.6: to
    1e-6."""
    net, child, schedule, h = Plain(), Child(()), 0.6, 1e-5
    train, held_out = batch(1, n=4, image=(1, 4, 4)), batch(2, n=4, image=(1, 4, 4))
    learner = Mixture(0.05, 1e-3, stream(), hyper_space="lr=0.01:0.1:1,weight_decay=0.001:0.3", hyper_lr=0.1)
    with torch.no_grad():
        for i, v in enumerate(learner.variables()):
            v.copy_(normal(*v.shape, seed=i))
    gradient = grads.backward(net.losses(*train, child)[0].mean(), net, child)

    def loss_after() -> float:
        values = learner.current()
        direction = [g + values["weight_decay"] * p.detach() for g, p in zip(gradient.theta, gradient.parameters)]
        with grads.ahead(Gradient(gradient.parameters, direction), schedule * values["lr"]), torch.no_grad():
            return float(net.losses(*held_out, child)[0].mean())

    slopes = []
    for v in learner.variables():
        for k in range(len(v)):
            ends = []
            for step in (h, -2 * h):
                v.data[k] += step
                ends.append(loss_after())
            v.data[k] += h
            slopes.append((ends[0] - ends[1]) / (2 * h))
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in learner.current().items()}
    sgd = Momentum(net, 0.0, 0.0)
    trace = sgd.step(gradient, schedule * values["lr"], values["weight_decay"])
    outer = lambda source: grads.backward(net.losses(*held_out, child)[0].mean(), net, child)
    found = torch.cat(learner.estimate(trace, outer=outer))
    torch.testing.assert_close(found, torch.tensor(slopes, dtype=torch.float64), rtol=1e-6, atol=1e-9)
    assert found.abs().min() > 1e-5 and learner.derived(schedule) == learner.sample(schedule)


# ---- the weights' step ---------------------------------------------------------------------------


def toy() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def step_toy(net: nn.Module, sgd: Momentum, optimizer: str, i: int, absent: int | None = None) -> None:
    parameters = [p for k, p in enumerate(net.parameters()) if k != absent]
    loss = (net(normal(8, 5, seed=20 + i)) - normal(8, 3, seed=40 + i)).square().mean()
    sgd.step(
        Gradient(parameters, list(torch.autograd.grad(loss, parameters))),
        torch.tensor(0.1 / (i + 1), dtype=torch.float64),
        torch.tensor(0.01 * i, dtype=torch.float64),
        optimizer,
    )


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)])
def test_several_steps_equal_torchs_also_where_weights_are_absent(optimizer: str, kind: type[torch.optim.Optimizer]):
    """To 1e-12; the rate is `RATES` times the learning rate. An absent weight rests: value, moments and its own count
    of steps.
    """
    ours, theirs = toy(), toy()
    sgd, reference = Momentum(ours, 0.9, 0.0), kind(theirs.parameters(), lr=1.0)
    for i, absent in enumerate((None, 1, 0, 0, None, 3)):
        before = [p.detach().clone() for p in ours.parameters()]
        step_toy(ours, sgd, optimizer, i, absent)
        reference.param_groups[0].update(lr=RATES[optimizer] * 0.1 / (i + 1), weight_decay=0.01 * i)
        reference.zero_grad()
        (theirs(normal(8, 5, seed=20 + i)) - normal(8, 3, seed=40 + i)).square().mean().backward()
        if absent is not None:
            list(theirs.parameters())[absent].grad = None
        reference.step()
        for k, (a, b) in enumerate(zip(ours.parameters(), theirs.parameters())):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
            assert torch.equal(a, before[k]) == (k == absent)
    steps = {
        name: int(state["step"])
        for (name, _), state in zip(theirs.named_parameters(), (reference.state[p] for p in theirs.parameters()))
    }
    assert steps == {"0.weight": 4, "0.bias": 5, "2.weight": 6, "2.bias": 5}
    if optimizer == "adam":
        assert {name: int(t) for name, t in sgd.moments["adam/steps"].items()} == steps


def test_each_rule_has_moments_of_its_own_and_they_resume():
    whole, stopped, rules = toy(), toy(), ("adam", "sgd", "rmsprop", "adam", "rmsprop", "sgd")
    one, two = Momentum(whole, 0.9, 0.5), Momentum(stopped, 0.9, 0.5)
    for i, rule in enumerate(rules[:3]):
        step_toy(whole, one, rule, i)
        step_toy(stopped, two, rule, i)
        assert (one.trace is None) == (rule != "sgd")  # the hyper-gradients are those of SGD's step alone
    resumed = Momentum(stopped, 0.9, 0.5)
    resumed.load_state_dict(two.state_dict())
    for i, rule in enumerate(rules[3:], start=3):
        step_toy(whole, one, rule, i)
        step_toy(stopped, resumed, rule, i)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), stopped.parameters()))
    assert int(one.moments["adam/steps"]["0.bias"]) == 2


def test_the_mean_gradient_of_several_children_counts_a_child_without_a_weight_as_zero():
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    first = Gradient([a, b], [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])])
    second = Gradient([b, c], [torch.tensor([5.0, 6.0]), torch.tensor([7.0, 8.0])])
    mean = Gradient.mean([first, second])
    assert [id(p) for p in mean.parameters] == [id(a), id(b), id(c)]
    assert [g.tolist() for g in mean.theta] == [[0.5, 1.0], [4.0, 5.0], [3.5, 4.0]]
    assert [g.tolist() for g in Gradient.mean([first]).theta] == [g.tolist() for g in first.theta]


# ---- mixup ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.2, 1.0])
def test_mixups_share_is_beta_distributed(a: float):
    """Kolmogorov–Smirnov at n = 2,000: p > 1e-3."""
    g = stream(4)
    drawn = [beta(a, g) for _ in range(2000)]
    assert stats.kstest(drawn, stats.beta(a, a).cdf).pvalue > 1e-3
    assert stats.kstest(drawn, stats.beta(0.4, 0.4).cdf).pvalue < 1e-3  # n tells them apart


def test_mixed_images_labels_and_their_loss_are_the_formula():
    net, (x, y) = Plain(), batch(5, n=6, image=(1, 4, 4))
    assert mixed(x, y, net) == (x, y)  # without mixup as they are
    net.mixup = 5e-324  # the smallest number: drawing from Beta(a, a) would take for ever
    assert mixed(x, y, net) == (x, y)
    net.mixup, net.mixer = 0.2, stream(6)
    images, labels = mixed(x, y, net)
    g = stream(6)
    share, order = beta(0.2, g), torch.randperm(6, generator=g)
    assert 0 < share < 1 and (y[order] != y).any()
    torch.testing.assert_close(images, share * x.double() + (1 - share) * x[order].double())
    torch.testing.assert_close(labels, share * F.one_hot(y, 3).double() + (1 - share) * F.one_hot(y[order], 3))
    found = net.losses(images, labels, Child(()))[0]
    expected = share * net.losses(images, y, Child(()))[0] + (1 - share) * net.losses(images, y[order], Child(()))[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


# ---- bases and trials ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr=", "numbers from 1e-06 to 10 .*lr=0.01:0.025"),
        ("optimizer=", "some of sgd, adam, rmsprop"),
        ("lr=fast", "numbers"),
        ("lr=0:0.1", "hyper_space has lr=0:0.1, but takes numbers from 1e-06 to 10"),
        ("dropout=0.1:0.95", "numbers from 0 to 0.9"),
        ("mixup=nan", "numbers from 0 to 1"),
        ("optimizer=adm", "some of sgd, adam"),
        ("momentum=0.9", "hyper-parameter"),
        ("", "names no hyper-parameter: name some of lr"),
    ],
)
def test_a_basis_refuses_what_it_cannot_search(text: str, message: str):
    with pytest.raises(KitError, match=message):
        read_bases(text)


def test_the_numbers_of_a_basis_ascend_without_repetition():
    assert read_bases(" lr = 0.1:0.01:0.1, optimizer=adam") == {"lr": (0.01, 0.1), "optimizer": ("adam",)}


def trials(
    name: str = "random-search",
    space: str = "lr=0.001:1,mixup=0:0.2,weight_decay=0:0.01,optimizer=sgd:adam",
    number: int = 4,
    **options: int,
) -> Trials:
    part = HYPER[name]
    return part.make(0.05, 1e-3, stream(3), hyper_space=space, trials=number, **options, **part.settings)


def try_all(learner: Trials, *scores: float) -> list[dict]:
    """The settings of so many trials, each of which ends with a score."""
    settings = []
    for score in scores:
        settings.append(dict(learner.current()))
        assert learner.record_score(score, last=True)
    return settings


@pytest.mark.parametrize("sampler", ["random-search", "bayesian", "asha", "hyperband"])
def test_a_resumed_search_asks_the_same(sampler: str):
    whole, resumed, again = trials(sampler), trials(sampler), trials(sampler)
    settings = try_all(whole, 0.3, 0.8, 0.5)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), default=torch.Tensor.tolist), object_hook=stored))
    assert resumed.sample() == whole.sample() and resumed.draw() == whole.draw()
    again.load_state_dict(whole.state_dict())  # in the middle of a trial
    assert again.current() == whole.current() and again.record_score(0.4, False) == whole.record_score(0.4, False)
    assert again.state_dict()["scores"] == whole.state_dict()["scores"] == ((0.3,), (0.8,), (0.5,), (0.4,))
    assert len({setting["lr"] for setting in [*settings, whole.current()]}) >= 4


def stored(state: dict) -> dict:
    """As a checkpoint has it: lists, and a tensor of the generator's state."""
    return state | {
        name: torch.tensor(value, dtype=torch.uint8) for name, value in state.items() if name == "generator"
    }


def test_trials_stay_in_their_ranges_and_rates_are_drawn_on_a_logarithmic_scale():
    drawn = try_all(trials(), *[0.5] * 60)
    assert all(0.001 <= d["lr"] <= 1 and 0 <= d["mixup"] <= 0.2 and 0 <= d["weight_decay"] <= 0.01 for d in drawn)
    assert {d["optimizer"] for d in drawn} == {"sgd", "adam"}
    assert stats.kstest([math.log10(d["lr"]) for d in drawn], stats.uniform(-3, 3).cdf).pvalue > 1e-3
    assert stats.kstest([d["mixup"] for d in drawn], stats.uniform(0, 0.2).cdf).pvalue > 1e-3


def test_the_best_trial_is_the_one_with_the_highest_validation_accuracy_and_is_what_is_derived():
    learner = trials()
    assert learner.best() == learner.current()
    settings = try_all(learner, 0.3, 0.9, 0.9, 0.5)
    assert learner.best() == settings[1]  # the earliest of equals
    assert learner.derived().lr == pytest.approx(settings[1]["lr"]) == learner.result()["lr"]
    assert DerivedHyper(learner).draw() == {"mixup": settings[1]["mixup"]}
    assert learner.summary()["trials/best"] == 0.9 and learner.summary()["trials/told"] == 4
    assert learner.current() not in settings


def test_as_few_trials_as_bayesian_optimisation_draws_at_random_are_said(capsys):
    said = []
    for name, number in (("bayesian", 3), ("bayesian", 4), ("random-search", 2)):
        trials(name, number=number).current()
        said.append(capsys.readouterr().out)
    assert "draws 3 settings at random at first: set trials=4 or more" in said[0]
    assert said[1:] == ["", ""]


def test_bayesian_optimisation_leaves_random_search_after_its_first_trials():
    """Three random trials that both share; what they told decides the next ones."""
    asked = {}
    for sampler in ("random-search", "bayesian"):
        learner = trials(sampler, "lr=0.001:1,weight_decay=0.00001:0.01")
        asked[sampler] = try_all(learner, 0.2, 0.9, 0.4, 0.5, 0.6)
    by_chance, by_model = asked.values()
    assert by_chance[:3] == by_model[:3] and by_chance[3:] != by_model[3:]


# ---- trials that end early -----------------------------------------------------------------------

LENGTH = 9  # epochs of a whole trial


def race(learner: Trials, curves: Tensor) -> list[int]:
    """How many epochs each trial has, of the scores [trials, epochs] that it would get."""
    for row in curves.tolist():
        learner.current()
        any(learner.record_score(score, last=epoch == LENGTH) for epoch, score in enumerate(row, 1))
    return list(map(len, learner.scores))


def survivors(curves: Tensor, rate: int) -> list[int]:
    """ASHA's rule written out: at each rung a trial goes on if it is among the best 1/rate that came there so far, or
    the best while they are too few."""
    rungs, lengths = [rate**i for i in range(10) if rate**i < LENGTH], []
    came: dict[int, list[float]] = {rung: [] for rung in rungs}
    for row in curves.tolist():
        for rung in rungs:
            came[rung].append(row[rung - 1])
            if row[rung - 1] < sorted(came[rung], reverse=True)[max(1, len(came[rung]) // rate) - 1]:
                lengths.append(rung)
                break
        else:
            lengths.append(LENGTH)
    return lengths


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_asha_keeps_the_best_of_those_that_came_so_far_as_by_brute_force(rate: int):
    learner = trials("asha", "lr=0.001:1", number=12, reduction=rate)
    curves = torch.rand(12, LENGTH, generator=stream(rate), dtype=torch.float64)
    lengths = race(learner, curves)
    assert lengths == survivors(curves, rate) and lengths[0] == LENGTH and 1 < len(set(lengths))
    whole = [i for i, n in enumerate(lengths) if n == LENGTH]
    assert learner.whole == tuple(whole) and sum(lengths) < 12 * LENGTH
    assert learner.best() == learner.settings[max(whole, key=lambda i: curves[i, -1])]  # not of one that was cut short


def test_hyperbands_trials_end_at_rungs_of_which_some_have_fewer():
    lengths = race(trials("hyperband", "lr=0.001:1", number=20), torch.arange(180, 0, -1).view(20, 9) / 180)
    assert set(lengths) == {1, 3, LENGTH} and lengths[0] == LENGTH  # each trial is worse than all before it
    assert lengths.count(LENGTH) < 10 < 20 == len(lengths)


def test_a_trial_that_goes_on_keeps_its_weights_and_what_is_saved_goes_to_the_last_stage(
    micro: str, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    search = Search(micro_config("asha", epochs=9, search_epochs=6, trials=3, cells=4), tmp_path)
    scores, seen, usual = iter([0.5, 0.6, 0.4, 0.9, 0.7]), [], Trials.record_score

    def record_score(self: Trials, score: float, last: bool) -> bool:
        seen.append((search.stage_index, search.parts.net, len(search.parts.sgd.moments["sgd/velocity"])))
        return usual(self, next(scores), last)  # the second trial is worse at its first rung, the third one better

    monkeypatch.setattr(Trials, "record_score", record_score)
    for _ in range(8):
        search.train_epoch()
    stages, nets, moments = zip(*seen)
    assert stages == (0, 0, 1, 2, 2) and all(moments)
    assert nets[0] is nets[1] and nets[3] is nets[4] and len({id(net) for net in nets}) == 3
    learner = search.parts.hyper.inner
    assert search.stage_index == 3 and build.horizon(search.config, 3, search.began) == 9 - 5
    assert learner.best() == learner.settings[2] and learner.scores == ((0.5, 0.6), (0.4,), (0.9, 0.7))


def test_a_budget_too_short_for_a_rung_is_refused():
    with pytest.raises(
        KitError, match="trials=5, two epochs each at least, share search_epochs=9: set search_epochs=10"
    ):
        Config(method="asha", search_epochs=9)
    assert Config(method="hyperband").stage_epochs == [3, 3, 3, 3, 3, 10]
