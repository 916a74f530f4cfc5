"""The learners of τ and η in kit/zoo against enumeration, brute force and the laws they draw by."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats
from tests_micro import micro_config
from torch import Tensor, nn

from kit import Config, KitError, augment
from kit.augment import DAAS_OPS, OPS, operations
from kit.data import Batches, ImageSet, load_dataset
from kit.hyper import HYPER
from kit.search import build, signals
from kit.zoo import adversarial_autoaugment, dada, fast_autoaugment, members

IDENTITY = OPS.index("Identity")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy(name: str, **options: Any) -> Any:
    return augment.build(name, stream(5), (8, 8), **options)


def fits(counts: Counter, law: dict) -> bool:
    """A chi-square test; what the law excludes has not been drawn."""
    names, n = list(law), sum(counts.values())
    assert set(counts) <= set(law)
    return stats.chisquare([counts[name] for name in names], [law[name] * n for name in names]).pvalue > 1e-3


# ---- UniformAugment ------------------------------------------------------------------------------


def test_uniformaugment_draws_operations_probabilities_and_magnitudes_uniformly():
    draw = policy("uniformaugment").sample(20_000)
    law = {operations().index(name): 0.5 / 15 for name in DAAS_OPS} | {IDENTITY: 0.5}  # half are not applied
    assert all(fits(Counter(column.tolist()), law) for column in draw.ops.T)
    assert stats.kstest(draw.magnitude.flatten().numpy(), stats.uniform(0, 10).cdf).pvalue > 1e-3


# ---- PBT and PBA ---------------------------------------------------------------------------------


def test_pba_applies_the_first_operations_that_apply_in_a_drawn_order():
    learner = policy("pba")
    setting = torch.zeros(30, 2)
    setting[3], setting[9 + 15] = torch.tensor([10.0, 7.0]), torch.tensor([5.0, 2.0])  # always, and every second time
    learner.past = (setting,)
    draw = learner.sample(40_000)
    a, b = (operations().index(DAAS_OPS[i]) for i in (3, 9))
    law = {(IDENTITY, IDENTITY): 0.2, (a, IDENTITY): (0.3 + 0.5) / 2 + 0.3 / 4, (b, IDENTITY): 0.3 / 4}
    law |= {(a, b): 0.5 / 4, (b, a): 0.5 / 4}
    assert fits(Counter(map(tuple, draw.ops.tolist())), law)
    assert (draw.magnitude[draw.ops == a] == 7).all() and (draw.magnitude[draw.ops == b] == 2).all()


@pytest.mark.parametrize("before", [5, 0])
def test_pba_explores_as_its_paper_says(before: int):
    learner = policy("pba")
    learner.past = (torch.full((30, 2), float(before)),)
    drawn = torch.stack([learner.explored() for _ in range(700)]).int()
    for column, most in ((0, 10), (1, 9)):  # tenths of a probability, of the largest magnitude
        law = dict.fromkeys(range(most + 1), 0.2 / (most + 1))
        for amount, sign in itertools.product(range(4), (-1, 1)):
            law[min(max(before + sign * amount, 0), most)] += 0.8 / 8
        assert fits(Counter(drawn[:, :, column].flatten().tolist()), law)


def test_pbas_retraining_passes_through_the_settings_in_turn():
    learner = policy("pba", steps=6)
    learner.past = tuple(torch.full((30, 2), float(i)) for i in range(3))
    assert [(learner.derived(2), learner.at)[1] for _ in range(6)] == [0, 0, 1, 1, 2, 2]
    assert (learner.snapshot()["setting"] == 2).all()


def pbt(**options: Any) -> members.Pbt:
    given = {"hyper_space": "lr=0.01:1,mixup=0:0.2", "members": 8, "exploits": 3} | options
    return HYPER["pbt"].make(0.1, 1e-3, stream(1), steps=96, **given)


def test_pbt_exploits_by_truncation_selection():
    learner = pbt()
    scores = [0.5, 0.1, 0.9, 0.4, 0.2, 0.8, 0.3, 0.6]  # worst: 1 and 4; best: 2 and 5
    learner.members = tuple({"score": score} for score in scores)
    assert all(learner.parent(who) == who for who in (0, 2, 3, 5, 6, 7) for _ in range(5))
    for loser in (1, 4):
        assert fits(Counter(learner.parent(loser) for _ in range(300)), {2: 0.5, 5: 0.5})


def test_pbt_explores_by_factors_or_anew_within_the_bases():
    learner, moved = pbt(), Counter()
    for _ in range(3000):
        assert 0.01 <= (eta := learner.explored({"lr": 0.5, "mixup": 0.19}))["lr"] <= 1 and 0 <= eta["mixup"] <= 0.2
        moved[round(eta["lr"] / 0.5, 9) if eta["lr"] in (0.4, 0.6) else "anew"] += 1
    assert fits(moved, {0.8: 0.375, 1.2: 0.375, "anew": 0.25})


class Counted(nn.Linear):
    """Its weight counts the steps it has had."""

    def __init__(self):
        super().__init__(1, 1, bias=False)
        nn.init.zeros_(self.weight)


def test_networks_of_a_population_train_in_turn_and_bad_ones_go_on_as_good_ones(monkeypatch: pytest.MonkeyPatch):
    learner, trained = pbt(members=2, exploits=3), []
    learner.steps = 12  # turns of two steps: members 0 1 0 1 0 1
    sgd = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
    net, plain = Counted(), SimpleNamespace()
    parts = SimpleNamespace(net=net, sgd=sgd, augment=plain, arch=SimpleNamespace(derived=lambda: None), hyper=learner)

    def step(*_: Any) -> str:
        trained.append((net.weight.item(), learner.eta["lr"]))
        with torch.no_grad():
            net.weight.add_(1)
        return "outcome"

    scores = iter([0.9, 0.2, 0.8, 0.7, 0.6, 0.95])
    monkeypatch.setattr(members, "one_level", step)
    monkeypatch.setattr(signals, "accuracy", lambda *_: next(scores))
    batches = {"val": type("Val", (), {"steps_per_epoch": 1, "__next__": lambda self: None})()}
    assert all(members.population(parts, batches, 1.0) == "outcome" for _ in range(12))
    # the second turn of member 1 is a copy of member 0, which has had four steps by then; 0 then is the worse one
    assert [steps for steps, _ in trained] == [0, 1, 0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    rates = [rate for _, rate in trained[::2]]
    assert rates[0] != rates[1] and rates[0] == rates[2] == rates[4] and len(set(rates)) == 3
    assert net.weight.item() == 8 and learner.best()["lr"] == rates[5] and learner.members == ()


# ---- Fast AutoAugment ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("rank_by", ["loss", "accuracy"])
def test_fast_autoaugment_keeps_the_policies_that_are_best_by_brute_force(rank_by: str):
    learner, tried, now = policy("fast-autoaugment", policy_trials=14, rank_by=rank_by), [], []

    def draw(n: int, found: Tensor) -> None:
        if not tried or tried[-1] is not found:
            tried.append(found)

    def losses(x: Tensor, y: Tensor, child: Any) -> tuple[Tensor, Tensor]:
        right = int(tried[-1][:, :, 0].sum()) % 5  # of five images; the loss says the opposite
        return torch.full((5,), float(right)), torch.where(torch.arange(5) < right, y, y + 1)

    learner.draw, learner.apply = draw, lambda x, drawn: x
    net = SimpleNamespace(eval=lambda: net, train=lambda: now.append("trains again"), losses=losses)
    parts = SimpleNamespace(net=net, arch=SimpleNamespace(derived=lambda: None))
    held = ImageSet(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    found = learner.search(parts, held, 0)
    by = lambda one: (1 if rank_by == "loss" else -1) * (int(one[:, :, 0].sum()) % 5)
    assert len(tried) == 14 and torch.equal(found, torch.cat(sorted(tried, key=by)[:10])) and now == ["trains again"]
    assert found[..., 0].max() < 15 and found[..., 1].max() <= 1 and found[..., 2].max() <= 10


def test_a_fold_never_learns_the_images_that_it_is_judged_on(monkeypatch: pytest.MonkeyPatch):
    learner = policy("fast-autoaugment", folds=3, policy_trials=2, steps=10)
    images = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1)
    train = Batches(ImageSet(images, torch.zeros(50, dtype=torch.int64)), 8, stream())
    net, learned, held, factors = Counted(), [set()], [], []
    sgd = SimpleNamespace(load_state_dict=lambda state: None)
    parts = SimpleNamespace(net=net, sgd=sgd, augment=learner)

    def step(parts: Any, batches: Any, schedule: float) -> float:
        learned[-1] |= set(next(batches["train"])[0].flatten().tolist())
        factors.append((net.weight.item(), schedule))
        with torch.no_grad():
            net.weight.add_(1)

    def search(parts: Any, of: ImageSet, seed: int) -> Tensor:
        held.append(set(of.images.flatten().tolist()))
        learned.append(set())
        return torch.full((10, 2, 3), float(len(held)))

    monkeypatch.setattr(fast_autoaugment, "one_level", step)
    learner.search = search
    for _ in range(10):
        assert (learner.draw(4).ops == IDENTITY).all() or not learner.start
        fast_autoaugment.folds(parts, {"train": train}, 1.0)
    assert len(held) == 3 and all(len(h) == 20 and not h & seen for h, seen in zip(held, learned))
    assert len(set.union(*held)) > 30 and held[0] != held[1]
    assert [steps for steps, _ in factors] == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]  # new weights, and a cosine, for each
    assert [factor for steps, factor in factors if not steps] == pytest.approx([1, 0.904508, 0.975528], abs=1e-5)
    assert learner.found[:, 0, 0].tolist() == [1.0] * 10 + [2.0] * 10 + [3.0] * 10 and learner.start == {}


# ---- DADA ----------------------------------------------------------------------------------------


def within(estimates: Tensor, exact: Tensor, errors: float = 4.5) -> bool:
    """Whether the mean over axis 0 is the exact value, by its standard error."""
    spread = estimates.std(0) / len(estimates) ** 0.5
    return bool(((estimates.mean(0) - exact).abs() <= errors * spread + 1e-9).all())


@pytest.mark.parametrize("phi", [[0.0, 0.0, 0.0], [0.9, 2.0, -0.5], [-0.3, 0.4, 0.6]])
def test_relax_is_unbiased_whatever_the_control_variate(phi: list[float]):
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([1.0, 2.5, -0.7], dtype=torch.float64)
    (exact,) = torch.autograd.grad(logits.softmax(0) @ values, logits)
    n, g = 60_000, stream(3)
    uniform = lambda: torch.rand(n, 3, generator=g, dtype=torch.float64).clamp(1e-20, 1 - 1e-7)
    rows = logits.detach().expand(n, -1).clone().requires_grad_()  # the gradient of each draw for itself
    log_p = rows.log_softmax(1)
    z = (log_p - (-uniform().log()).log()).detach()
    f, noise, control = values[z.argmax(1)], uniform(), torch.tensor(phi, dtype=torch.float64, requires_grad=True)
    estimates = lambda phi: torch.autograd.grad(
        dada.relax(rows.log_softmax(1), z, f, phi.expand(n, -1), noise), rows, create_graph=True
    )[0]
    each = estimates(control)
    assert within(each.detach(), exact)
    # φ takes no part in the mean, so that the squares' gradient is the variance's: a step against it lowers that
    square = each.square().mean()
    (by_phi,) = torch.autograd.grad(square, control)
    assert estimates(control - 1e-2 * by_phi).square().mean() < square


def test_dadas_gradient_is_that_of_the_expected_loss_by_enumeration():
    """Of pairs of two operations, and of each operation's being applied: 4 × 2 × 2 outcomes."""
    learner = policy("dada", operations="Invert,Rotate")
    with torch.no_grad():
        for variable in learner.variables():
            variable.copy_(0.5 * torch.randn(variable.shape, generator=stream(8)))
    table = torch.randn(4, 2, 2, generator=stream(9))
    p, on = learner.pi.softmax(0), learner.on.softmax(2)
    expected = (p[:, None, None] * on[:, 0, :, None] * on[:, 1, None, :] * table).sum()
    exact = torch.autograd.grad(expected, [learner.pi, learner.on])
    found = []
    for _ in range(150):
        draw = learner.draw(400)
        applied = (draw.ops != IDENTITY).long()
        rewards = partial(torch.neg, table[draw.index, applied[:, 0], applied[:, 1]])
        found.append(learner.gradient(draw, rewards=rewards))
    for i in range(2):
        assert within(torch.stack([g[i] for g in found]), exact[i])
    assert within(torch.stack([g[2] for g in found]), torch.zeros(4, 2))  # magnitudes had no part in the loss
    assert draw.index.unique().numel() == 4 and all(g.abs().sum() > 0 for g in found[0][3:])


def test_dada_moves_magnitudes_by_their_score_and_retrains_with_the_likeliest_pairs():
    learner = policy("dada", operations="Invert,Rotate")
    draw = learner.draw(4000)
    reward = draw.magnitude.sum(1)  # the higher, the better
    assert (learner.gradient(draw, rewards=lambda: reward)[2] < 0).all()  # so that a step raises them
    whole = policy("dada")
    with torch.no_grad():
        whole.pi[7] = 3.0
    drawn = Counter(whole.derived(5000).index.tolist())
    assert len(drawn) == 25 and 7 in drawn and stats.chisquare(list(drawn.values())).pvalue > 1e-3
    again = policy("dada")
    again.adopt(
        {"probabilities": whole.probabilities().tolist(), **{k: v.tolist() for k, v in whole.snapshot().items()}}
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(again.snapshot().values(), whole.snapshot().values()))


# ---- Adversarial AutoAugment ---------------------------------------------------------------------


def written_out(learner: Any, decisions: tuple[int, ...]) -> float:
    """p of a sub-policy by the LSTM's equations, one factor for each decision."""
    x, w, u, embedded, heads = (v.detach() for v in learner.variables())
    x, h, c, p, k = x[0], u.new_zeros(len(u.T)), u.new_zeros(len(u.T)), 1.0, len(learner.ops)
    for i, taken in enumerate(decisions):
        gate_in, gate_forget, cell, gate_out = (w @ x + u @ h).chunk(4)
        c = gate_forget.sigmoid() * c + gate_in.sigmoid() * cell.tanh()
        h = gate_out.sigmoid() * c.tanh()
        p *= float((heads @ h)[k:].softmax(0)[taken] if i % 2 else (heads @ h)[:k].softmax(0)[taken])
        x = embedded[k + taken if i % 2 else taken]
    return p


@pytest.fixture
def adversary(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of two copies and two operations, with one sub-policy each and two magnitudes: 16 policies."""
    for name, value in {"SUB": 1, "LEVELS": 2, "INPUT": 3, "UNITS": 4, "ENTROPY": 0.0}.items():
        monkeypatch.setattr(adversarial_autoaugment, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float64)
        learner = policy("adversarial-autoaugment", operations="Invert,Rotate", copies=2)
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for i, variable in enumerate(learner.variables()):
            variable.copy_(torch.randn(variable.shape, generator=stream(i), dtype=torch.float64))
    return learner


def test_the_adversarys_lstm_has_the_probabilities_of_its_equations_and_draws_by_them(adversary: Any):
    every = list(itertools.product(range(2), repeat=4))
    _, log_p, entropy = adversary.decide(16, torch.tensor(every))
    p, entropy = log_p.detach().exp(), entropy.detach()
    assert p.tolist() == pytest.approx([written_out(adversary, one) for one in every], rel=1e-6)
    assert float(p.sum()) == pytest.approx(1) and float((p * entropy).sum()) == pytest.approx(-float(p @ p.log()))
    state = adversary.generator.get_state()
    pairs = p.view(2, 2, 2, 2).sum((1, 3))
    torch.testing.assert_close(adversary.probabilities(), pairs)
    assert torch.equal(state, adversary.generator.get_state())  # to look at it moves nothing
    drawn = Counter(map(tuple, adversary.decide(4000)[0].tolist()))
    assert fits(drawn, dict(zip(every, p.tolist())))


def test_the_adversary_ascends_the_chance_that_its_policys_loss_is_the_higher_one_by_enumeration(adversary: Any):
    """Of two standardised losses one is 1/√2 and the other −1/√2: the estimate's mean over all pairs of policies is the
    gradient of −Σ_ab p_a p_b s_ab / √2, the second p constant, s_ab the sign of ℓ_a − ℓ_b."""
    every = torch.tensor(list(itertools.product(range(2), repeat=4)))
    loss = torch.randn(16, generator=stream(4), dtype=torch.float64)
    p = adversary.decide(16, every)[1].exp()
    sign = (loss[:, None] - loss[None]).sign()
    wanted = torch.autograd.grad(-(p @ sign @ p.detach()) / 2**0.5, adversary.variables())
    found, noise = (
        [torch.zeros_like(v) for v in adversary.variables()],
        torch.tensor([0.3, -0.3] * 2).repeat_interleave(2),
    )
    for a, b in itertools.product(range(16), repeat=2):
        adversary.policies = every[[a, b]]
        draw = adversary.draw(8)
        assert draw.choices.tolist() == [0, 1] * 4
        losses = loss[[a, b]][draw.choices] + (noise if a != b else 0)  # of the images, which all copies have
        for total, g in zip(found, adversary.gradient(draw, losses=losses)):
            total += (p[a] * p[b]).detach() * g
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)  # the deviation is divided by with 1e-5 added
    assert max(float(g.abs().max()) for g in wanted) > 0.02


def test_the_adversary_adds_entropy_and_draws_others_after_each_step():
    learner = policy("adversarial-autoaugment", steps=10)
    assert learner.policies.shape == (40, 4) and learner.adam.rates["lr"] == pytest.approx(600 * 3.5e-4 / 10)
    draw, before = learner.sample(80), learner.policies.clone()
    _, log_p, entropy = learner.decide(40, learner.policies)
    losses = torch.rand(80, generator=stream(2))
    mean = losses.view(10, 8).mean(0)
    reward = (mean - mean.mean()) / mean.std()
    value = (reward * log_p.view(8, 5).sum(1) + 1e-5 * entropy.view(8, 5).sum(1)).mean()
    for a, b in zip(learner.gradient(draw, losses=losses), torch.autograd.grad(-value, learner.variables())):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)
    assert torch.equal(before, learner.policies)
    learner.update(draw, losses=losses)
    assert (learner.policies != before).any()
    again = policy("adversarial-autoaugment")
    again.adopt({name: value.tolist() for name, value in learner.snapshot().items()})
    assert torch.equal(again.policies, learner.policies)
    torch.testing.assert_close(again.probabilities(), learner.probabilities())


def test_each_image_is_there_eight_times_each_time_by_another_policy(micro: str):
    config = micro_config("adversarial-autoaugment", batch_size=6)
    plan = build.Plan(config, config.stages[0], load_dataset(micro), torch.device("cpu"), steps=9, horizon=9)
    parts, seen = plan.parts(), {}
    train = Batches(plan.sets.train, 6, stream())
    images, labels = next(Batches(plan.sets.train, 6, stream()))
    usual = parts.augment.apply

    def apply(x: Tensor, draw: Any) -> Tensor:
        seen.update(x=x, draw=draw)
        return usual(x, draw)

    parts.augment.apply = apply
    policies = {tuple(row) for row in parts.augment.policies.tolist()}
    outcome = adversarial_autoaugment.copies(parts, {"train": train}, 1.0)
    assert config.copies == 8 and len(outcome.losses) == 48
    assert all(torch.equal(seen["x"][8 * i : 8 * i + 8], images[i].expand(8, -1, -1, -1)) for i in range(6))
    assert seen["draw"].choices.tolist() == [*range(8)] * 6 and len(policies) > 30
    other = micro_config("adversarial-autoaugment", batch_size=6, augment="flip-crop")
    plain = build.Plan(other, other.stages[0], plan.sets, torch.device("cpu"), steps=9, horizon=9).parts()
    assert len(adversarial_autoaugment.copies(plain, {"train": train}, 1.0).losses) == 6  # nothing to copy for


def test_the_adversary_finds_what_raises_the_loss():
    learner = policy("adversarial-autoaugment", steps=150)
    worst, noise = learner.ops.index("Invert"), stream(3)
    for _ in range(150):
        draw = learner.sample(64)
        hit = (draw.index // len(learner.ops) == worst) | (draw.index % len(learner.ops) == worst)
        learner.update(draw, losses=hit + torch.rand(64, generator=noise))
    p = learner.probabilities()
    assert float(p[worst].sum() + p[:, worst].sum() - p[worst, worst]) > 0.5  # 0.13 at first


# ---- what cannot work ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "pba", "search_epochs": 3}, "members=4 networks share search_epochs=3: set search_epochs=4"),
        ({"method": "pbt", "epochs": 6, "members": 9}, "members=9 networks share epochs=6: set epochs=9"),
        ({"method": "dha", "hyper": "pbt"}, "use method='pbt' or 'pba'"),
        ({"method": "pbt", "hyper_space": "lr,optimizer"}, "evolves numbers, no optimizer"),
        ({"method": "plain", "augment": "pba"}, "never learns: use method='pba'"),
        ({"method": "fast-autoaugment", "search_epochs": 4}, "folds=5 networks share search_epochs=4: set .*=5"),
        ({"method": "dha", "augment": "fast-autoaugment"}, "finds nothing: use it as method"),
    ],
)
def test_what_cannot_work_is_refused_with_what_does(given: dict, message: str):
    with pytest.raises(KitError, match=message):
        Config(**given)
