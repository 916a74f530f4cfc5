"""α's estimators against their definitions, by enumeration of every path of a tiny space, in float64.

What a loss is does not matter to an estimator: it is a smooth function of the gates here, and ∂L/∂gate comes from
autograd.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests_toy import FREE, block_slots, edge_slots, normal, ordered_draws, priced, probability, stream
from torch import Tensor

from kit import Config
from kit.arch import ARCH, Dsnas, Gumbel, Reinforce
from kit.errors import KitError
from kit.space import Child, Slot
from kit.space.limits import Limits, Target
from kit.space.network import everything
from kit.zoo.darts import Darts, Snas
from kit.zoo.dsnas_sgd import DsnasSgd
from kit.zoo.gdas import Gdas

SIZES = {"one pick": block_slots(3, 2, 4), "two picks": block_slots(4, 3, picks=2)}


def loss(z: list[Tensor], seed: int = 0) -> Tensor:
    """Of every slot's candidates' weights, each [candidates]: smooth, not linear, and no slot is for itself."""
    mixed = [weights @ normal(len(weights), 5, seed=seed + s) for s, weights in enumerate(z)]
    return (torch.stack(mixed).prod(0) + torch.stack(mixed).sum(0).tanh()).square().sum()


def with_logits(learner, seed: int = 5):
    with torch.no_grad():
        for i, v in enumerate(learner.variables()):
            v.copy_(normal(*v.shape, seed=seed + i))
    return learner


def dsnas(slots: tuple[Slot, ...], limits: Limits = FREE, **settings) -> Dsnas:
    return with_logits(Dsnas(slots, stream(), limits, arch_lr=0.1, **settings))


def paths(slots: tuple[Slot, ...]) -> list[tuple[tuple[int, ...], ...]]:
    """Every slot's ordered draw."""
    return list(itertools.product(*map(ordered_draws, slots)))


def rewards(slots: tuple[Slot, ...], path: tuple[tuple[int, ...], ...], of=loss) -> list[Tensor]:
    """r = ∂L/∂gate [candidates] of every slot at the path, where gates are 1; autograd."""
    z = [
        torch.zeros(len(slot.candidates), dtype=torch.float64).index_fill(0, torch.tensor(order), 1.0).requires_grad_()
        for slot, order in zip(slots, path)
    ]
    return list(torch.autograd.grad(of(z), z))


def child_for(path: tuple[tuple[int, ...], ...]) -> Child:
    return Child(tuple(tuple(sorted(order)) for order in path), unit=True, memory=torch.tensor(path))


def measured(path: tuple[tuple[int, ...], ...], r: list[Tensor]) -> list[Tensor]:
    """As a backward pass hands them out: in the order of the candidates."""
    return [by_candidate[sorted(order)] for order, by_candidate in zip(path, r)]


def chance(logits: Tensor, slots: tuple[Slot, ...], path: tuple[tuple[int, ...], ...]) -> Tensor:
    return torch.stack(
        [probability(row[: len(slot.candidates)], order) for row, slot, order in zip(logits, slots, path)]
    ).prod()


# ---- DSNAS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIZES)
def test_the_probabilities_of_all_ordered_draws_are_plackett_luce_and_sum_to_one(kind: str):
    slots = SIZES[kind]
    learner = dsnas(slots)
    total = 0.0
    for path in paths(slots):
        ours = learner.log_probability(torch.tensor(path)).sum().exp()
        torch.testing.assert_close(ours, chance(learner.logits, slots, path), rtol=1e-12, atol=0)
        total += ours.item()
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("kind", SIZES)
def test_dsnas_is_its_definition_over_all_paths(kind: str):
    """Σ_Z p(Z) r(Z) ∇ log p(Z) (eq. 5): the gradient of Σ_Z Π_k p(z_k | z_<k) r_k(Z) with r, and all factors but the
    pick's own, constant. Within 1e-10."""
    slots = SIZES[kind]
    learner = dsnas(slots)
    found, expected = torch.zeros_like(learner.logits), torch.zeros_like(learner.logits)
    for path in paths(slots):
        r = rewards(slots, path)
        p = chance(learner.logits, slots, path).detach()
        found += p * learner.estimate(child_for(path), gates=measured(path, r))[0]
        for s, order in enumerate(path):
            for k, c in enumerate(order):
                # p(z_k | z_<k), differentiated as it stands: no logarithm
                logits = learner.logits.detach().clone().requires_grad_()
                row = logits[s, : len(slots[s].candidates)]
                pick = probability(row, order[: k + 1]) / (probability(row, order[:k]) if k else 1.0)
                others = (p / pick).detach()
                expected += torch.autograd.grad(others * pick * r[s][c], logits)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert found.abs().max() > 1e-2 and float(found.sum(1).abs().max()) < 1e-10  # a softmax does not see a constant
    assert (found[~learner.valid] == 0).all()


def test_a_frozen_slot_has_no_gradient_and_the_others_keep_theirs():
    slots = SIZES["one pick"]
    learner = dsnas(slots)
    path = tuple((p[0],) for p in learner.picks)
    r = measured(path, rewards(slots, path))
    before = learner.estimate(child_for(path), gates=r)[0]
    learner.freeze([1])
    after = learner.estimate(child_for(path), gates=[r[0], None, r[2]])[0]
    assert (after[1] == 0).all() and torch.equal(after[[0, 2]], before[[0, 2]])
    logits = learner.logits.detach().clone()
    learner.move([after])
    assert (
        torch.equal(learner.logits[1], logits[1])
        and (learner.logits[[0, 2]] != logits[[0, 2]])[learner.valid[[0, 2]]].all()
    )


def test_ever_fewer_steps_of_the_architecture_warm_up_run_all_candidates():
    slots, steps = SIZES["one pick"], 2000
    learner = with_logits(Reinforce(slots, stream(), FREE, arch_lr=0.1, arch_warm_up=0.5, steps=steps))
    children = [learner.sample() for _ in range(steps)]
    whole = torch.tensor([child.picks == everything(slots) for child in children], dtype=torch.float64)
    shares = whole.view(8, -1).mean(1).tolist()  # the probability falls from 1 to 0 over the first half
    assert shares == pytest.approx([0.875, 0.625, 0.375, 0.125, 0, 0, 0, 0], abs=4 * (0.25 / 250) ** 0.5)
    mixed = children[0]
    assert [gate.tolist() for gate in mixed.gates] == [
        [pytest.approx(1 / len(s.candidates))] * len(s.candidates) for s in slots
    ]
    assert learner.estimate(mixed, reward=lambda: 1.0) == []  # a step of all candidates says nothing about one
    assert ARCH["reinforce"].values("paper")["arch_warm_up"] == 0.25


def test_reinforce_learns_nothing_of_a_frozen_slot():
    learner = with_logits(Reinforce(SIZES["one pick"], stream(), FREE, arch_lr=0.1))
    learner.freeze([1])
    learner.baseline = 0.0
    (found,) = learner.estimate(child_for(tuple((p[0],) for p in learner.picks)), reward=lambda: 0.9)
    assert (found[1] == 0).all() and (found[[0, 2]].abs().sum(1) > 0).all()


def test_the_temperature_falls_linearly_over_the_search():
    learner = Gdas(edge_slots(2), stream(), FREE, temperature=10.0, last_temperature=0.1)
    assert learner.temperature == 10.0
    for share, expected in ((0.0, 10.0), (0.5, 5.05), (1.0, 0.1)):
        learner.anneal(share)
        assert learner.temperature == pytest.approx(expected)


# ---- SNAS ----------------------------------------------------------------------------------------

TEMPERATURES = (1.0, 0.3, 0.1, 0.03)


def couple(n: int) -> Tensor:
    return normal(n, n, seed=11)


def snas(copies: int, size: int, row: Tensor, temperature: float) -> Snas:
    """`copies` slots with the same logits: one draw is as many samples."""
    learner = Snas(block_slots(*[size] * copies), stream(3), FREE, arch_lr=0.1, temperature=temperature)
    with torch.no_grad():
        learner.logits.copy_(row)
    return learner


def test_the_gradient_of_snas_tends_to_that_of_dsnas():
    """Two slots of three candidates under a loss that is linear in each slot's gates (what one takes is added up), so
    that ∂L/∂gate says all of it: E over Gumbel noise of eq. 4 → E_Z[r(Z) ∇ log p(Z)] as λ → 0. The distance falls with
    λ, and at 0.1 and 0.03 every entry is within four standard errors of 8,000 samples (at 0.03 one is up to 7% of the
    gradient's norm: the variance grows as 1/λ)."""
    n, samples = 3, 8000
    rows, c = normal(2, n, seed=5), couple(n)
    slots = block_slots(n, n)
    exact = dsnas(slots)
    with torch.no_grad():
        exact.logits.copy_(rows)
    limit = torch.zeros(2, n, dtype=torch.float64)
    for path in paths(slots):
        r = rewards(slots, path, lambda z: z[0] @ c @ z[1])
        limit += chance(rows, slots, path) * exact.estimate(child_for(path), gates=measured(path, r))[0]

    learner = snas(2 * samples, n, rows.repeat(samples, 1), 1.0)
    distances = []
    for temperature in TEMPERATURES:
        learner.temperature = temperature
        learner.generator.manual_seed(3)  # the same noise for all: what differs is λ
        picks, weights = learner.draw()
        z = weights.detach().view(samples, 2, n)
        gates = torch.stack([z[:, 1] @ c.T, z[:, 0] @ c], dim=1).view(-1, n)
        found = learner.estimate(Child(picks, memory=weights), gates=list(gates))[0].view(samples, 2, n)
        distances.append(float((found.mean(0) - limit).norm()))
        error = found.std(0) / math.sqrt(samples)
        near = ((found.mean(0) - limit).abs() < 4 * error).all()
        assert near if temperature <= 0.1 else temperature < 1 or not near  # at 1 the distance is no noise
    assert distances[0] > 5 * distances[1] > 5 * distances[2] and error.max() < 0.08 * limit.norm()


def quadrature(value, logits: Tensor, temperature: float, points: int = 4000) -> Tensor:
    """E[∇ value(z)] of two candidates without chance: the difference of two Gumbel variables is logistic, taken at its
    quantiles.
    """
    learner = snas(points, 2, logits, temperature)
    u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    learner.gumbel = lambda shape: torch.stack([u.logit(), torch.zeros_like(u)], dim=1).view(shape)
    picks, weights = learner.draw()
    z = weights.detach().clone().requires_grad_()
    (gates,) = torch.autograd.grad(value(z).sum(), z)
    return learner.estimate(Child(picks, memory=weights), gates=list(gates))[0].mean(0)


@pytest.mark.parametrize("linear", [True, False])
def test_without_chance_the_distance_vanishes_with_the_temperature(linear: bool):
    """Two candidates, integrated at 4,000 quantiles. The limit is ∇ Σ_c p_c L(c). DSNAS's estimate is the same with r_c
    for L(c), its first order: equal where the loss is linear in the gate, else apart by that remainder however low λ
    is."""
    logits, v = torch.tensor([0.4, -0.3], dtype=torch.float64), torch.tensor([1.3, -0.7], dtype=torch.float64)

    def value(z: Tensor) -> Tensor:
        return z @ v if linear else (z @ v) ** 2

    ends = torch.eye(2, dtype=torch.float64).requires_grad_()
    r = torch.autograd.grad(value(ends).sum(), ends)[0].diagonal()
    leaf = logits.clone().requires_grad_()
    (limit,) = torch.autograd.grad((leaf.softmax(0) * value(ends).detach()).sum(), leaf)
    (by_gates,) = torch.autograd.grad((leaf.softmax(0) * r).sum(), leaf)
    estimate = sum(logits.softmax(0)[c] * dsnas_of_two(logits, c, r[c]) for c in range(2))
    torch.testing.assert_close(estimate, by_gates, rtol=0, atol=1e-12)
    distances = [float((quadrature(value, logits, t) - limit).norm()) for t in TEMPERATURES]
    assert distances[1] > 2 * distances[2] > 4 * distances[3] and distances[3] < (1e-3 if linear else 0.05) * float(
        limit.norm()
    )
    apart = float((by_gates - limit).norm())
    assert apart < 1e-12 if linear else apart > 20 * distances[3]


def dsnas_of_two(logits: Tensor, c: int, r: Tensor) -> Tensor:
    learner = dsnas(block_slots(2))
    with torch.no_grad():
        learner.logits.copy_(logits)
    return learner.estimate(child_for(((c,),)), gates=[r.view(1)])[0][0]


@pytest.mark.parametrize("slots", [block_slots(3, 2), edge_slots(2, 3)], ids=["blocks", "edges"])
def test_the_mixtures_gradients_are_autograds_through_the_softmax_of_every_edge(slots: tuple[Slot, ...]):
    """DARTS, and SNAS with the noise that it drew (eq. 4): to 1e-12."""
    for kind, temperature in ((Darts, 1.0), (Snas, 0.3)):
        learner = with_logits(
            kind(slots, stream(7), FREE, arch_lr=0.1, **({"temperature": temperature} if kind is Snas else {}))
        )
        noise = torch.zeros(learner.members.shape, dtype=torch.float64)
        if kind is Snas:
            noise = learner.gumbel(learner.members.shape)
            learner.generator.manual_seed(7)
        child = learner.sample()
        leaf = learner.logits.detach().clone().requires_grad_()
        z = []
        for s, slot in enumerate(slots):
            weights: dict[int, Tensor] = {}
            for edge in {e for _, e in slot.candidates}:
                members = [c for c, (_, e) in enumerate(slot.candidates) if e == edge]
                soft = ((leaf[s, members] + noise[s, edge, : len(members)]) / temperature).softmax(0)
                weights |= dict(zip(members, soft))
            z.append(torch.stack([weights[c] for c in range(len(slot.candidates))]))
            torch.testing.assert_close(child.gates[s], z[s].detach().float())
        still = [w.detach().requires_grad_() for w in z]
        found = learner.estimate(child, gates=list(torch.autograd.grad(loss(still), still)))[0]
        torch.testing.assert_close(found, torch.autograd.grad(loss(z), leaf)[0], rtol=0, atol=1e-12)


# ---- hard Gumbel ---------------------------------------------------------------------------------


@pytest.mark.parametrize("all_edges", [False, True], ids=["daas", "gdas"])
def test_straight_through_is_the_gradient_through_the_relaxed_softmax_of_what_was_sampled(all_edges: bool):
    """Gate = A · B with A = onehot + soft − const(soft) for the operation (eq. 7) and B alike for the edge (eq. 8): to
    1e-12.
    """
    slots, temperature = edge_slots(2, 3), 0.7
    learner = with_logits((Gdas if all_edges else Gumbel)(slots, stream(1), FREE, arch_lr=0.1, temperature=temperature))
    for _ in range(5):
        child = learner.sample()
        noise, edge_noise = child.memory
        alpha = learner.logits.detach().clone().requires_grad_()
        beta = (
            torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
            if all_edges
            else learner.beta.detach().clone().requires_grad_()
        )
        gates = []
        for s, slot in enumerate(slots):
            edges = sorted({e for _, e in slot.candidates})
            soft_edge = ((beta[s, edges] + edge_noise[s, edges]) / temperature).softmax(0)
            for c in child.picks[s]:
                edge = slot.candidates[c][1]
                members = [i for i, (_, e) in enumerate(slot.candidates) if e == edge]
                scores = alpha[s, members] + noise[s, edge]
                assert members[int(scores.argmax())] == c
                soft = (scores / temperature).softmax(0)[members.index(c)]
                a, b = 1 + soft - soft.detach(), 1 + soft_edge[edge] - soft_edge[edge].detach()
                gates.append(a if all_edges else a * b)
            taken = {slot.candidates[c][1] for c in child.picks[s]}
            assert taken == (
                set(edges) if all_edges else set((beta[s, edges] + edge_noise[s, edges]).topk(2).indices.tolist())
            )
        sizes = [len(p) for p in child.picks]
        one = torch.ones(1, dtype=torch.float64)
        value = lambda g, sizes=sizes, one=one: loss([torch.cat([part, one]) for part in g.split(sizes)])
        leaf = torch.ones(sum(sizes), dtype=torch.float64, requires_grad=True)
        found = learner.estimate(child, gates=list(torch.autograd.grad(value(leaf), leaf)[0].split(sizes)))
        expected = torch.autograd.grad(value(torch.stack(gates)), [alpha, beta], allow_unused=True)
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert len(found) == (1 if all_edges else 2) and all(g.abs().max() > 1e-4 for g in found)


# ---- REINFORCE -----------------------------------------------------------------------------------


def quality(path: tuple[tuple[int, ...], ...]) -> float:
    """Of the set that was taken, as a validation accuracy is; the order does not count."""
    return 0.5 + 0.5 * math.sin(sum((s + 2) * (c + 1) ** 1.5 for s, order in enumerate(path) for c in order))


@pytest.mark.parametrize(("kind", "constant"), list(zip(SIZES, (0.0, 0.4))))
def test_the_mean_of_reinforce_is_the_gradient_of_the_expected_reward(kind: str, constant: float):
    """Σ_Z p(Z) estimate(Z) = −∇ E[Q] to 1e-10, whatever constant the baseline is."""
    slots = SIZES[kind]
    learner = with_logits(Reinforce(slots, stream(), FREE, arch_lr=0.1))
    learner.advantage = lambda reward: reward - constant
    leaf = learner.logits.detach().clone().requires_grad_()
    expected = torch.autograd.grad(-sum(chance(leaf, slots, path) * quality(path) for path in paths(slots)), leaf)[0]
    found = sum(
        chance(leaf, slots, path).detach()
        * learner.estimate(child_for(path), reward=lambda path=path: quality(path))[0]
        for path in paths(slots)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert found.abs().max() > 1e-2


def test_the_mean_over_many_samples_with_the_moving_baseline_agrees_too():
    """2,000 draws of its own, baseline 0.95: within four standard errors; the baseline does not know the draw that it
    is compared with.
    """
    slots, n = block_slots(3, 2), 2000
    learner = with_logits(Reinforce(slots, stream(2), FREE, arch_lr=0.1))
    leaf = learner.logits.detach().clone().requires_grad_()
    expected = torch.autograd.grad(-sum(chance(leaf, slots, path) * quality(path) for path in paths(slots)), leaf)[0]
    found = torch.stack(
        [
            learner.estimate(child, reward=lambda child=child: quality(child.picks))[0]
            for child in (learner.sample() for _ in range(n))
        ]
    )
    error = found.std(0) / math.sqrt(n)
    assert ((found.mean(0) - expected).abs() <= 4 * error + 1e-12).all()
    assert expected.abs().max() > 8 * error.max()  # the sign is beyond doubt


# ---- multiply-adds to steer to -------------------------------------------------------------------


def target(macs: int = 2500, weight: float = 0.3, slots: tuple[Slot, ...] = SIZES["one pick"]) -> Target:
    return Target(priced(slots), macs, weight)


def test_the_expected_cost_and_its_penalty_are_those_of_all_paths_enumerated():
    slots = SIZES["one pick"]
    learner = dsnas(slots)
    aim, network = target(), priced(slots)
    leaf = learner.logits.detach().clone().requires_grad_()
    expected = sum(chance(leaf, slots, path) * network.cost(path).macs for path in paths(slots))
    p, cost = learner.alpha, expected.item()
    assert cost > 2500 and float(aim.penalty(p)) == pytest.approx(0.3 * (cost / 2500 - 1), rel=1e-10)
    assert float(target(7500).penalty(p)) == 0.0  # only above the target

    steered = dsnas(slots, Limits(network), target_macs=2500, target_weight=0.3)
    path = ((0,), (1,), (2,))
    r = measured(path, rewards(slots, path))
    penalty = steered.estimate(child_for(path), gates=r)[0] - learner.estimate(child_for(path), gates=r)[0]
    torch.testing.assert_close(penalty, torch.autograd.grad(0.3 * (expected / 2500 - 1), leaf)[0], rtol=0, atol=1e-10)


def test_the_absolute_reward_is_added_to_the_quality():
    """Q + β |cost/target − 1|, β = −weight, on either side of the target."""
    slots = SIZES["one pick"]
    cheap, dear = ((0,), (0,), (0,)), ((2,), (1,), (3,))  # 1000 + 100 + 200 + 300, 1000 + 900 + 800 + 4800
    aim = target()
    assert aim.reward(cheap) == pytest.approx(-0.3 * (1 - 1600 / 2500)) and aim.reward(dear) == pytest.approx(
        -0.3 * (7500 / 2500 - 1)
    )
    limits, settings = Limits(priced(slots)), {"target_weight": 0.3, "arch_lr": 0.1}
    with_aim, without = (
        with_logits(Reinforce(slots, stream(), limits, target_macs=macs, **settings)) for macs in (2500, None)
    )
    for learner in (with_aim, without):
        learner.baseline = 0.0
    a, b = (learner.estimate(child_for(dear), reward=lambda: 0.9)[0] for learner in (with_aim, without))
    torch.testing.assert_close(a, b * (0.9 - 0.6) / 0.9, rtol=1e-12, atol=0)
    assert with_aim.baseline == pytest.approx(0.05 * 0.3) and without.baseline == pytest.approx(0.05 * 0.9)


@pytest.mark.parametrize("macs", [1599, 7501])
def test_a_target_that_no_architecture_meets_is_refused_with_the_range(macs: int):
    with pytest.raises(
        KitError, match=f"target_macs={macs:,} is met by no architecture: this space reaches 1,600 to 7,500"
    ):
        target(macs)
    assert [target(reached).macs for reached in (1600, 7500)] == [1600, 7500]


def test_diffautomls_own_optimizer_is_momentum_sgd():
    learner = with_logits(DsnasSgd(SIZES["one pick"], stream(), FREE, arch_lr=0.1, steps=3))
    expected, velocity = learner.logits.detach().clone(), 0.0
    for seed in range(3):
        gradient = normal(*learner.logits.shape, seed=seed)
        learner.move([gradient])
        velocity = 0.9 * velocity + gradient + 5e-4 * expected
        expected = expected - 0.1 * velocity
        torch.testing.assert_close(learner.logits.detach(), expected, rtol=0, atol=1e-14)
    assert Config(method="diffautoml", arch="dsnas-sgd").arch_lr == 1e-6


def test_dsnas_fixes_a_block_once_its_best_choice_is_likelier_than_the_next_by_the_margin():
    slots = tuple(Slot(f"block {i}", tuple((f"op {c}", 0) for c in range(4))) for i in range(2))
    learner = dsnas(slots, fix_margin=0.3)
    with torch.no_grad():
        for slot, ahead in enumerate((0.29, 0.31)):  # the others share the rest alike
            rest = (1 - ahead) / 4
            learner.logits[slot] = torch.tensor([rest, rest + ahead, rest, rest], dtype=torch.float64).log() + slot
    assert learner.end_epoch(last=False) == [1]
