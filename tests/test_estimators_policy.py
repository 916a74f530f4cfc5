"""τ's policy gradient (DAAS eq. 3, 4, 11–13) against ∇_γ of the expectation enumerated over every policy, and the
rewards it learns from against explicit inner products: in float64."""

from __future__ import annotations

import copy
import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from tests_toy import Normed, Plain, batch, batches, child_of, normal, stream, supernet
from torch import Tensor

from kit.augment import Basics, Draw, PolicyGradient, operations
from kit.search import grads, signals
from kit.search.grads import Gradient
from kit.space import Child
from kit.space.limits import Limits
from kit.zoo.darts import Darts

OPS, BINS = ("Brightness", "Invert"), 2
SMALL = {"image": (1, 4, 4)}
# an operation's event: which, and its magnitude bin or None where it is not applied
EVENTS = [(op, b) for op in range(len(OPS)) for b in (None, *range(BINS))]
POLICIES = list(itertools.product(EVENTS, repeat=2))  # Γ, in order


def policy(**settings) -> PolicyGradient:
    """K = 2 operations of 2 bins in float64, at logits of no particular kind."""
    p = PolicyGradient(Basics(), stream(1), tau_lr=0.1, bins=BINS, **({"ops": OPS} | settings))
    exact = [normal(*v.shape, seed=i + 2).requires_grad_() for i, v in enumerate(p.variables())]
    p.pi, p.apply_logit, p.delta = exact
    p.adam = torch.optim.Adam(exact, lr=0.1)
    return p


def draw_of(*policies: tuple) -> Draw:
    """The draw in which image k has policies[k]; where an operation is not applied, its bin is some bin."""
    choices = torch.tensor([[(op, int(b is not None), b or 0) for op, b in events] for events in policies])
    place, applied, bins = choices.unbind(2)
    ops = torch.where(
        applied.bool(), torch.tensor([operations().index(name) for name in OPS])[place], operations().index("Identity")
    )
    plain = torch.ones(len(policies), 2)
    return Draw(
        ops,
        bins * 10.0,
        plain,
        plain[..., None].expand(-1, -1, 2) / 2,
        index=place[:, 0] * 2 + place[:, 1],
        choices=choices,
    )


def probability(p: PolicyGradient, events: tuple) -> Tensor:
    """p(Γ) = Π_k π_k(o_k) · (p(o_k) δ(m_k; o_k) if applied, else 1 − p(o_k)): no logarithm."""
    total = torch.ones((), dtype=torch.float64)
    for k, (op, b) in enumerate(events):
        on = p.apply_logit[op].sigmoid()
        total = total * p.pi[k].softmax(0)[op] * (1 - on if b is None else on * p.delta[op].softmax(0)[b])
    return total


class Scene:
    """Three images under every policy: rewards ⟨v, ∇ℓ_k⟩ by explicit gradients, float64 [policies, images]."""

    def __init__(self, p: PolicyGradient):
        net, child = Plain(), Child(())
        self.x, self.y = batch(3, n=3, **SMALL)
        outer = grads.backward(net.losses(*batch(4, **SMALL), child)[0].mean(), net, child)
        rows = []
        for events in POLICIES:
            augmented = p.apply(self.x, draw_of(*[events] * 3))
            losses = net.losses(augmented, self.y, child)[0]
            explicit = [
                sum(
                    (g * v).sum()
                    for g, v in zip(torch.autograd.grad(loss, outer.parameters, retain_graph=True), outer.theta)
                )
                for loss in losses
            ]
            torch.testing.assert_close(
                grads.directional(net, augmented, self.y, child, outer), torch.stack(explicit), rtol=1e-10, atol=1e-12
            )
            rows.append(torch.stack(explicit))
        self.rewards = torch.stack(rows)


def enumerated(p: PolicyGradient, rewards: Tensor) -> list[Tensor]:
    """∇_γ of −E_Γ[⟨v, ∇L_train(Γ)⟩]; rewards [policies, images]."""
    value = -sum(probability(p, events) * r.mean() for events, r in zip(POLICIES, rewards))
    return list(torch.autograd.grad(value, p.variables()))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(policy())


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert b.abs().max() > 1e-5


# ---- what is drawn -------------------------------------------------------------------------------


def test_log_probability_is_eq_4_and_the_probabilities_of_all_policies_sum_to_one():
    p = policy()
    ours = p.log_probability(draw_of(*POLICIES)).exp()
    expected = torch.stack([probability(p, events) for events in POLICIES])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    assert len(POLICIES) == 36 and ours.sum().item() == pytest.approx(1.0, abs=1e-12)


def events_of(draw: Draw) -> list[tuple]:
    return [tuple((op, b if on else None) for op, on, b in row) for row in draw.choices.tolist()]


def test_the_sampler_draws_by_that_probability_and_applies_what_it_drew():
    p, n = policy(), 20_000
    draw = p.sample(n)
    counts = dict.fromkeys(POLICIES, 0)
    for events in events_of(draw):
        counts[events] += 1
    expected = [probability(p, events).item() * n for events in POLICIES]
    assert stats.chisquare(list(counts.values()), expected).pvalue > 1e-3
    again = draw_of(*events_of(draw))
    assert torch.equal(draw.ops, again.ops) and torch.equal(draw.index, again.index)
    on = draw.choices[..., 1].bool()
    assert torch.equal(draw.magnitude[on], again.magnitude[on])


def test_a_shared_draw_is_one_for_the_batch_and_otherwise_every_image_has_its_own():
    assert len(set(events_of(policy(policies=1).sample(64)))) == 1
    assert len(set(events_of(policy().sample(64)))) > 10


@pytest.mark.parametrize("shared", [False, True])
def test_derived_draws_operations_as_learned_at_the_likeliest_magnitude_for_every_image(shared: bool):
    p, n = policy(policies=int(shared)), 4000
    draw = p.derived(n)
    place, applied, bins = draw.choices.unbind(2)
    assert torch.equal(bins, p.delta.detach().argmax(1)[place]) and len(set(p.delta.detach().argmax(1).tolist())) == 2
    assert torch.equal(draw.magnitude, bins * 10.0)
    expected = [
        p.pi[0].softmax(0)[a]
        * p.pi[1].softmax(0)[b]
        * (p.apply_logit[a].sigmoid() if on else 1 - p.apply_logit[a].sigmoid())
        for a, b, on in itertools.product(range(2), range(2), (0, 1))
    ]
    counts = torch.bincount(place[:, 0] * 4 + place[:, 1] * 2 + applied[:, 0], minlength=8)
    assert stats.chisquare(counts.tolist(), [e.item() * n for e in expected]).pvalue > 1e-3


def test_a_policy_adopted_from_its_record_is_the_same_policy():
    p = policy()
    found = {name: values.tolist() for name, values in p.snapshot().items() if name != "counts"}
    q = PolicyGradient(Basics(), stream(9), tau_lr=0.1, ops=OPS, bins=BINS)
    q.adopt(json.loads(json.dumps(found)))
    torch.testing.assert_close(
        q.log_probability(draw_of(*POLICIES)).double(), p.log_probability(draw_of(*POLICIES)), rtol=0, atol=1e-5
    )
    for name, values in q.snapshot().items():
        torch.testing.assert_close(values.tolist(), found.get(name, [[0.0] * 2] * 2), rtol=0, atol=1e-6)
    assert torch.equal(q.delta.argmax(1), p.delta.argmax(1))


# ---- what is learned -----------------------------------------------------------------------------


def test_the_papers_form_is_the_gradient_of_the_enumerated_expectation(scene: Scene):
    """One policy for the batch, its reward ⟨v, ∇L_train⟩ the mean over the images: Σ_Γ p(Γ) estimate(Γ) = −∇_γ E_Γ[…]
    to 1e-10.
    """
    p = policy(policies=1)
    found = [torch.zeros_like(v) for v in p.variables()]
    for events, r in zip(POLICIES, scene.rewards):
        estimate = p.estimate(draw_of(*[events] * 3), rewards=lambda r=r: r)
        found = [f + probability(p, events).detach() * e for f, e in zip(found, estimate)]
    assert_close(found, enumerated(p, scene.rewards))


def test_the_per_image_form_has_the_same_expectation_despite_its_baseline(scene: Scene):
    """Two images, each with a policy of its own: all 36² pairs. The mean of the others as baseline adds no bias: to
    1e-10.
    """
    p = policy()
    with torch.no_grad():
        chances = torch.stack([probability(p, events) for events in POLICIES])
    found = [torch.zeros_like(v) for v in p.variables()]
    for i, j in itertools.product(range(len(POLICIES)), repeat=2):
        r = torch.stack([scene.rewards[i, 0], scene.rewards[j, 1]])
        estimate = p.estimate(draw_of(POLICIES[i], POLICIES[j]), rewards=lambda r=r: r)
        found = [f + chances[i] * chances[j] * e for f, e in zip(found, estimate)]
    assert_close(found, enumerated(p, scene.rewards[:, :2]))


def test_both_forms_draw_and_learn_alike_over_many_samples():
    """Batches of three from the policy's own sampler, rewards of some table: both means are within four standard errors
    of the gradient.
    """
    table = torch.sin(torch.arange(36.0).double())[:, None] + torch.tensor([0.0, 0.1, 0.2])
    for shared in (True, False):
        p, estimates = policy(policies=int(shared)), []
        for _ in range(600):
            draw = p.sample(3)
            r = torch.stack([table[POLICIES.index(events), k] for k, events in enumerate(events_of(draw))])
            estimates.append(torch.cat([e.flatten() for e in p.estimate(draw, rewards=lambda r=r: r)]))
        found, expected = torch.stack(estimates), torch.cat([g.flatten() for g in enumerated(p, table)])
        error = found.std(0) / math.sqrt(len(found))
        assert ((found.mean(0) - expected).abs() < 4 * error).all() and expected.abs().max() > 4 * error.max()


# ---- one step ahead ------------------------------------------------------------------------------


class Ahead:
    """A small network, two images and a validation batch; steps of length ξ, float64."""

    def __init__(self, p: PolicyGradient, normed: bool, xi: float):
        self.p, self.net, self.child, self.xi = p, Normed() if normed else Plain(), Child(()), xi
        (self.x, self.y), self.held_out = batch(13, n=2, **SMALL), batch(4, n=6, **SMALL)
        self.theta = {name: q.detach() for name, q in self.net.named_parameters()}

    def gradients(self, of: slice) -> Tensor:
        """∇_θ of the mean loss of these images, of each policy for all of them: [policies, weights]."""
        rows, y, n = [], self.y[of], len(self.y[of])
        for events in POLICIES:
            with self.net.frozen_statistics(()):
                loss = self.net.losses(self.p.apply(self.x[of], draw_of(*[events] * n)), y, self.child)[0].mean()
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(self.net.parameters()))]))
        return torch.stack(rows)

    def validation_loss(self, step: Tensor) -> Tensor:
        """At θ − step; step [weights]."""
        parts = step.split([q.numel() for q in self.theta.values()])
        there = {name: q - part.view(q.shape) for (name, q), part in zip(self.theta.items(), parts)}
        with self.net.frozen_statistics(()):
            scores = torch.func.functional_call(self.net, there, (self.held_out[0], self.child))
        return torch.nn.functional.cross_entropy(scores, self.held_out[1])

    def mean_outer(self, first: Tensor, second: Tensor, chances: Tensor) -> Gradient:
        """E[∇L_val(θ')] over every pair of policies, θ' = θ − ξ/2 of both gradients."""
        steps = 0.5 * self.xi * (first[:, None] + second).flatten(0, 1)
        by_step = torch.func.vmap(torch.func.grad(self.validation_loss))(steps)
        mean = -torch.outer(chances, chances).flatten() @ by_step
        parts = mean.split([q.numel() for q in self.theta.values()])
        return Gradient(
            list(self.net.parameters()), [part.view(q.shape) for part, q in zip(parts, self.theta.values())]
        )

    def rewards(self, draw: Draw, outer: Gradient) -> Tensor:
        return grads.directional(self.net, self.p.apply(self.x, draw), self.y, self.child, outer)


@pytest.mark.parametrize("xi", [1e-6, 0.1])
@pytest.mark.parametrize(("shared", "normed"), [(True, False), (True, True), (False, False)])
def test_daas_gradient_is_that_of_the_validation_loss_one_step_ahead(shared: bool, normed: bool, xi: float):
    """∇_γ L_val(θ − ξ Σ_Γ p(Γ) ∇L_train(θ, Γ)) by autograd through the enumerated expectation, and the mean of what the
    step estimates over all that it may draw: for θ' two policies (two of the batch's, or one of each image), apart from
    those that are rewarded. Within 2%, also at a finite step.

    With BatchNorm an image's policy also moves the losses of the others, which its own reward does not see: the form by
    image then has another direction (docs/settings.md)."""
    p = policy(policies=int(shared))
    scene, chances = Ahead(p, normed, xi), torch.stack([probability(p, events) for events in POLICIES])
    of_batch = scene.gradients(slice(None))
    exact = torch.autograd.grad(scene.validation_loss(xi * chances @ of_batch) / xi, p.variables())
    chances, found = chances.detach(), [torch.zeros_like(v) for v in p.variables()]
    if shared:
        outer = scene.mean_outer(of_batch, of_batch, chances)
        pairs = [(events, events) for events in POLICIES]
    else:
        outer = scene.mean_outer(scene.gradients(slice(0, 1)), scene.gradients(slice(1, 2)), chances)
        pairs, chances = list(itertools.product(POLICIES, repeat=2)), torch.outer(chances, chances).flatten()
        by_policy = torch.stack([scene.rewards(draw_of(events, events), outer) for events in POLICIES])
    for i, (pair, chance) in enumerate(zip(pairs, chances)):
        draw = draw_of(*pair)
        known = None if shared else by_policy[[i // 36, i % 36], [0, 1]]
        rewards = lambda draw=draw, known=known: scene.rewards(draw, outer) if known is None else known
        found = [f + chance * e for f, e in zip(found, p.estimate(draw, rewards=rewards))]
    a, b = (torch.cat([g.flatten() for g in gradient]) for gradient in (found, exact))
    assert (a - b).norm() < 0.02 * b.norm()


# ---- rewards -------------------------------------------------------------------------------------


def explicit(net, x: Tensor, y: Tensor, child: Child, direction: Gradient) -> Tensor:
    """One backward pass for every image."""
    with net.frozen_statistics(child.picks):
        losses, _ = net.losses(x, y, child.detached())
    return torch.stack(
        [
            sum(
                (g * v).sum()
                for g, v in zip(torch.autograd.grad(loss, direction.parameters, retain_graph=True), direction.theta)
            )
            for loss in losses
        ]
    )


def gradient_of(net, child: Child, seed: int) -> Gradient:
    with net.frozen_statistics(child.picks):
        return grads.backward(net.losses(*batch(seed, n=3), child)[0].mean(), net, child)


def gated(net, child: Child, kind: str) -> Child:
    if kind == "unit gates":
        return Child(
            child.picks,
            tuple(torch.ones(len(p), dtype=torch.float64, requires_grad=True) for p in child.picks),
            unit=True,
        )
    if kind == "weights":
        return Child(child.picks, tuple(0.5 + normal(len(p), seed=7).abs().requires_grad_() for p in child.picks))
    mixture = Darts(net.slots, stream(), Limits(net), arch_lr=0.1).sample()
    return Child(mixture.picks, tuple(g.detach().double().requires_grad_() for g in mixture.gates))


@pytest.mark.parametrize("where", ["cell", "choice", "mobile"])
@pytest.mark.parametrize("kind", ["unit gates", "weights", "mixture"])
def test_one_forward_derivative_is_every_images_inner_product(where: str, kind: str):
    """BatchNorm in training mode, where images depend on each other: to 1e-10; running statistics are left alone."""
    net = supernet(where, auxiliary=0.4) if where == "cell" else supernet(where)
    child = gated(net, child_of(net), kind)
    direction = gradient_of(net, child.detached(), 1)
    x, y = batch(2, n=3)
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    expected = explicit(net, x, y, child, direction)
    torch.testing.assert_close(grads.directional(net, x, y, child, direction), expected, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(b, buffers[name]) for name, b in net.named_buffers()) and net.training
    assert all(m.track_running_stats for m in net.norms_of(child.picks))
    assert expected.abs().min() > 1e-6 and len(set(expected.tolist())) == 3
    mean = gradient_of(net, child.detached(), 2)  # and their mean is ⟨v, ∇L⟩, the paper's reward of a shared draw
    product = sum((g * v).sum() for g, v in zip(mean.theta, direction.theta))
    assert float(expected.mean()) == pytest.approx(float(product), rel=1e-10)


def rewards_of(net, held_out, augmented, child, lr) -> Tensor:
    """Of a policy that changes nothing, so that θ' is a step along the same images' gradient."""
    changes_nothing = SimpleNamespace(sample=lambda n: None, apply=lambda images, draw: images)
    parts = SimpleNamespace(net=net, augment=changes_nothing)
    return signals.policy_rewards(parts, augmented, lambda: next(held_out), child, lr)(None)


@pytest.mark.parametrize("where", ["cell", "choice", "mobile"])
def test_the_reward_is_taken_one_step_ahead_and_the_training_gradient_at_the_weights(where: str):
    """DAAS eq. 13: v = ∇L_val(θ − lr g) on the validation batch, inner product with ∇ℓ_k(θ)."""
    net = supernet(where)
    child, lr = gated(net, child_of(net), "unit gates"), torch.tensor(0.05, dtype=torch.float64)
    x, y = batch(2, n=3)
    inner = gradient_of(net, child, 2)
    before = {name: p.detach().clone() for name, p in net.state_dict().items()}
    moved = copy.deepcopy(net)
    names = {id(p): name for name, p in net.named_parameters()}
    with torch.no_grad():
        for p, g in zip(inner.parameters, inner.theta):
            moved.get_parameter(names[id(p)]).sub_(0.05 * g)
    there = gradient_of(moved, Child(child.picks), 30)
    v = Gradient(inner.parameters, there.theta)
    found = rewards_of(net, batches(30, n=3), (x, y), child, lr)
    torch.testing.assert_close(found, explicit(net, x, y, child, v), rtol=1e-8, atol=1e-11)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
    here = explicit(net, x, y, child, gradient_of(net, Child(child.picks), 30))
    assert (found - here).abs().max() > 1e-4  # the step ahead is no formality


def test_many_rewards_cost_one_backward_pass_where_explicit_ones_cost_one_each(monkeypatch: pytest.MonkeyPatch):
    net = supernet("cell")
    child, (x, y) = child_of(net), batch(2, n=12)
    inner = gradient_of(net, child, 2)
    passes = {"forward": 0, "backward": 0}

    def counting(name: str, function):
        def counted(*args, **kwargs):
            passes[name] += 1
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(torch.autograd, "grad", counting("backward", torch.autograd.grad))
    monkeypatch.setattr(net, "scores", counting("forward", net.scores))
    rewards = rewards_of(net, batches(30, n=12), (x, y), child, torch.tensor(0.05, dtype=torch.float64))
    # the gradients of θ' and of the validation loss, and one forward derivative
    assert len(rewards) == 12 and passes == {"forward": 3, "backward": 2}
    explicit(net, x, y, child, inner)
    assert passes == {"forward": 4, "backward": 2 + 12}


# ---- there and back ------------------------------------------------------------------------------


class Broken(Exception):
    pass


def unchanged(net) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("breaks", [False, True])
def test_ahead_is_one_plain_step_and_then_exactly_back(breaks: bool):
    net = supernet("mobile").float()  # in float32 θ − s + s is not θ
    child = child_of(net)
    inner, before = gradient_of(net, child, 2), unchanged(net)
    expected = [p.detach() - 0.1 * g for p, g in zip(inner.parameters, inner.theta)]
    try:
        with grads.ahead(inner, torch.tensor(0.1)):
            assert all(torch.allclose(p, e) for p, e in zip(inner.parameters, expected))
            assert not all(torch.equal(a, b) for a, b in zip(unchanged(net), before))
            if breaks:
                raise Broken
    except Broken:
        pass
    assert all(torch.equal(a, b) for a, b in zip(unchanged(net), before))
