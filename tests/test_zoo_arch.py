"""The architecture baselines of kit/zoo against their definitions: by enumeration, by brute force, and written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests_micro import micro_config
from tests_toy import FREE, batch, block_slots, edge_slots, normal, ordered_draws, priced, stream
from torch import Tensor

from kit import Config, data, space
from kit.arch import ARCH
from kit.errors import KitError
from kit.search import build
from kit.search.engine import Search
from kit.space import Child
from kit.space.layers import gated
from kit.space.limits import Limits
from kit.zoo.enas import Enas
from kit.zoo.manas import Manas
from kit.zoo.p_darts import PDarts
from kit.zoo.pc_darts import K, PcDarts


def shaken(learner):
    """Its variables away from where they begin."""
    with torch.no_grad():
        for i, v in enumerate(learner.variables()):
            v.copy_(normal(*v.shape, seed=i))
    return learner


def quality(picks) -> float:
    """An accuracy that differs from child to child: of each candidate by itself, and of all together."""
    terms = [(s + 2) * (c + 1) ** 1.5 for s, chosen in enumerate(picks) for c in chosen]
    return 0.5 + sum(map(math.sin, terms)) / (3 * len(terms)) + 0.1 * math.sin(sum(terms))


# ---- ENAS ----------------------------------------------------------------------------------------

SLOTS = edge_slots(2, 3, operations=2)  # two of 4 and two of 6 candidates: 12 · 30 ordered paths


def enas(**settings) -> Enas:
    return shaken(Enas(SLOTS, stream(), FREE, arch_lr=0.1, controller_size=3, **settings))


def law(learner: Enas, path) -> Tensor:
    """p of a path, written out from the LSTM's equations, one factor for each pick."""
    start, w, u, operations, to_operation, edges, to_edge = (v.detach() for v in learner.variables())
    x, h, c, p = start[0], torch.zeros(3).double(), torch.zeros(3).double(), 1.0
    for slot, picks in zip(SLOTS, path):
        left = list(range(len(slot.candidates)))
        for pick in picks:
            gate_in, gate_forget, cell, gate_out = (w @ x + u @ h).chunk(4)
            c = gate_forget.sigmoid() * c + gate_in.sigmoid() * cell.tanh()
            h = gate_out.sigmoid() * c.tanh()
            a, b = (2.5 * (head @ h / 5).tanh() for head in (to_operation, to_edge))
            scores = torch.stack([a["ab".index(op)] + b[edge] for op, edge in slot.candidates])
            p *= float(scores[pick].exp() / scores[left].exp().sum())
            left.remove(pick)
            op, edge = slot.candidates[pick]
            x = operations["ab".index(op)] + edges[edge]
    return p


def test_the_lstms_paths_have_the_probabilities_of_its_equations_and_reinforce_is_the_gradient_of_the_mean_reward():
    learner = enas(entropy_weight=0.0)
    learner.advantage = lambda reward: reward - 0.3  # any constant
    total, expected, found = 0.0, 0.0, [torch.zeros_like(v) for v in learner.variables()]
    paths = list(itertools.product(*map(ordered_draws, SLOTS)))
    for i, path in enumerate(paths):
        again = iter(itertools.chain(*path))
        drawn, laws = learner.unroll(lambda _, again=again: next(again))
        assert [tuple(slot) for slot in drawn] == list(path)
        likely = laws.gather(2, torch.tensor(path).unsqueeze(2)).sum().exp()
        if i % 40 == 0:
            assert likely.item() == pytest.approx(law(learner, path), rel=1e-12)
        total, expected = total + likely.item(), expected + likely * quality(path)
        child = Child(path, memory=[list(slot) for slot in path])
        for sums, g in zip(found, learner.estimate(child, reward=lambda path=path: quality(path))):
            sums += likely.detach() * g
    assert total == pytest.approx(1.0, abs=1e-12)
    wanted = torch.autograd.grad(-expected, learner.variables(), materialize_grads=True)
    assert max(float(g.abs().max()) for g in wanted) > 1e-3
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_it_draws_by_them_and_adds_the_paths_entropy_to_the_reward():
    learner, counts = enas(), torch.zeros(4)
    for _ in range(300):
        counts[learner.sample().memory[0][0]] += 1
    first = learner.unroll(lambda law: int(law.argmax()))[1][0, 0, :4].detach().exp()
    assert ((counts / 300 - first).abs() < 4 * (first * (1 - first) / 300).sqrt()).all()
    child, seen = learner.sample(), []
    learner.advantage = lambda reward: seen.append(reward) or 0.0
    learner.estimate(child, reward=lambda: 0.5)
    steps, entropy = iter(sum(child.memory, [])), 0.0
    for row in learner.unroll(lambda law: next(steps))[1].detach().flatten(0, 1):
        entropy -= sum(p * math.log(p) for p in row.exp().tolist() if p > 0)
    assert seen == [pytest.approx(0.5 + 1e-4 * entropy, rel=1e-12)]


def test_the_best_of_what_it_draws_at_the_end_is_found():
    learner, seen = enas(candidates=20), []
    learner.choose(lambda picks: seen.append(picks) or quality(picks))
    assert learner.picks == max(seen, key=quality) and len(set(seen)) == len(seen) > 10


# ---- MANAS ---------------------------------------------------------------------------------------


def test_every_agent_estimates_its_own_operations_losses_and_plays_their_exponential_weights():
    """Exp3: Σ_a π(a) estimate(a) = E[ℓ | the agent's operation is k], and π ∝ exp(−lr · the sum of the estimates)."""
    slots = edge_slots(2, operations=3)  # two agents
    learner = shaken(Manas(slots, stream(), FREE, arch_lr=0.1))
    chance, mean = learner.operations()[0], torch.zeros(1, 6, dtype=torch.float64)
    for a, b in itertools.product(range(3), range(3)):
        picks = ((a, 3 + b),)
        child = learner.child(picks, None)
        mean += chance[0, a] * chance[1, b] * learner.estimate(child, reward=lambda picks=picks: quality(picks))[0]
    error = torch.tensor([[1 - quality(((a, 3 + b),)) for b in range(3)] for a in range(3)], dtype=torch.float64)
    torch.testing.assert_close(mean[0], torch.cat([error @ chance[1], chance[0] @ error]), rtol=0, atol=1e-12)
    start, sums = learner.logits.detach().clone(), torch.zeros(1, 6, dtype=torch.float64)
    for _ in range(5):
        child = learner.sample()
        sums += (step := learner.estimate(child, reward=lambda: 0.4))[0]
        assert [c for c, x in enumerate(step[0][0].tolist()) if x] == list(child.picks[0])
        learner.move(step)
    played = (start - 0.1 * sums).view(2, 3).softmax(1)
    torch.testing.assert_close(learner.operations()[0], played, rtol=1e-12, atol=0)


def test_without_a_rate_it_has_exp3s():
    learner = Manas(edge_slots(2, operations=3), stream(), FREE, steps=50)
    assert learner.adam.param_groups[0]["lr"] == math.sqrt(2 * math.log(3) / (3 * 50))


# ---- random search, SPOS, NSGA-Net ---------------------------------------------------------------

TOY = block_slots(4, 4, 4, 4)  # 256 children
EVERY = [tuple((c,) for c in picks) for picks in itertools.product(range(4), repeat=4)]


def evolved(name: str, candidates: int, seed: int, limits: Limits = FREE, slots=TOY):
    part = ARCH[name]
    return part.make(slots, stream(seed), limits, candidates=candidates, population=10, **part.settings)


def test_evolution_finds_the_best_of_all_children_and_scores_none_twice():
    best = max(EVERY, key=quality)
    for seed in range(3):
        learner, seen = evolved("spos", 60, seed), []
        learner.choose(lambda picks, seen=seen: seen.append(picks) or quality(picks))
        assert learner.picks == best and len(set(seen)) == len(seen) == 60
        assert learner.alpha.sum(1).tolist() == [1.0] * 4 and learner.alpha[0, best[0][0]] == 1


@pytest.mark.parametrize(("most", "candidates"), [(None, 150), (8000, 80)])
def test_the_front_of_nsga_2_is_that_of_brute_force(most: int | None, candidates: int):
    network = priced(TOY)
    limits = Limits(network, max_macs=most)
    score = {picks: (quality(picks), -network.cost(picks).macs) for picks in EVERY if limits.allow(picks)}
    beaten = lambda a: any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in score.values())
    front = {picks for picks, own in score.items() if not beaten(own)}
    learner, seen = evolved("nsga-net", candidates, 0, limits), []
    learner.choose(lambda picks: seen.append(picks) or quality(picks))
    assert set(learner.front) == front and 3 < len(front) < len(score) and all(map(limits.allow, seen))
    assert learner.picks == max(score, key=score.get)


def test_a_gene_is_all_that_a_slot_takes():
    learner, seen = evolved("nsga-net", 30, 0, Limits(priced(SLOTS)), SLOTS), []
    learner.choose(lambda picks: seen.append(picks) or quality(picks))
    assert all(len(set(slot)) == 2 and slot == tuple(sorted(slot)) for picks in seen for slot in picks)
    assert len(seen) == 30 and set(learner.front) <= set(seen)


def test_random_search_takes_the_best_of_so_many():
    learner, seen = evolved("random-shared", 30, 0), []
    assert len({learner.sample().picks for _ in range(60)}) > 30
    learner.choose(lambda picks: seen.append(picks) or quality(picks))
    assert learner.picks == max(seen, key=quality) and 15 < len(seen) <= 30


def test_a_child_is_scored_on_all_validation_images_by_batchnorm_statistics_of_its_own(micro: str, tmp_path):
    """The shared weights' own are of whatever child ran last."""
    config = micro_config("spos", cells=4, channels=8, search_channels=8, candidates=4, population=2)
    search, scored = Search(config, tmp_path), []
    search.parts.arch.choose = lambda score: scored.extend((picks, score(picks)) for picks in (a, b, a))
    a, b = (((i,) * 1,) * len(search.parts.arch.slots) for i in (0, 3))
    net, parts = search.parts.net, search.parts
    search.train_epoch()
    images = search.batches["train"].data.images if "train" in search.batches else None
    assert scored[0] == scored[2] and images is not None
    train, val = search.sets.train.images, search.sets.val
    for picks, accuracy in scored[:2]:
        for norm in net.norms_of(picks):
            norm.running_mean.normal_()  # anything
        net.recalibrate(Child(picks), [train[i : i + 60] for i in range(0, 180, 60)])
        right = net.eval()(val.images, Child(picks)).argmax(1) == val.labels
        assert accuracy == pytest.approx(float(right.float().mean())) and parts.net is net


# ---- P-DARTS -------------------------------------------------------------------------------------

CELL = space.outline("cell")


def progressive(**settings) -> PDarts:
    return shaken(PDarts(CELL.slots, stream(), FREE, **settings))


def test_the_weakest_operations_of_every_edge_are_dropped_stage_by_stage():
    learner, left = progressive(), [7, 4, 2]
    for stage, count in enumerate(left):
        assert learner.stage == stage and set(learner.alive.sum(1).tolist()) == {e * count for e in range(2, 6)}
        chance = learner.operations()
        runs = learner.sample()
        assert [len(picks) for picks in runs.picks] == learner.alive.sum(1).tolist()
        before, learner = learner, progressive()
        learner.inherit(before)
        if stage < 2:
            kept = learner.to_edges(learner.alive.double(), 0.0) > 0
            assert (
                chance.masked_fill(~kept, 2)[kept.any(2)].min(1).values
                >= chance.masked_fill(kept, 0)[kept.any(2)].max(1).values
            ).all()


def test_every_stage_is_deeper_on_new_weights(micro: str):
    config = micro_config("p-darts", epochs=7, search_epochs=6, search_cells=2, cells=3)
    sets = data.load_dataset(config.dataset)
    plans = [build.Plan(config, stage, sets, torch.device("cpu")) for stage in config.stages]
    assert [len(plan.network().cells) for plan in plans[:3]] == [2, 4, 7]  # 5, 11, 17 of 5
    assert len(plans[1].network(full=True).cells) == len(plans[3].network().cells) == 3
    assert [stage.restart for stage in config.stages] == [False, True, True, True] and config.stage_epochs == [
        2,
        2,
        2,
        1,
    ]


def test_a_normal_cell_keeps_the_two_strongest_of_its_skips():
    learner = progressive()
    with torch.no_grad():
        learner.logits[learner.skips] = torch.linspace(4, 8, int(learner.skips.sum()), dtype=torch.float64)
    skips = [[c for c in picks if learner.skips[s, c]] for s, picks in enumerate(learner.picks)]
    assert list(map(len, skips)) == [0, 0, 0, 2, 2, 2, 2, 2]  # of the normal cell's, the last node has the strongest
    assert all(len(picks) == 2 for picks in learner.picks)


def test_dropout_cuts_skips_off_and_keeps_their_mean():
    learner = progressive()
    learner.stage = 2
    learner.anneal(0.5)  # 0.7 has come down to 0.35
    weights = learner.to_candidates(learner.weights().detach())
    drawn = torch.stack([learner.draw()[1].detach() for _ in range(400)])
    there = drawn[:, learner.skips]
    torch.testing.assert_close(there.amax(0), weights[learner.skips] / 0.65)
    assert float((there == 0).double().mean()) == pytest.approx(0.35, abs=0.02)
    assert (drawn[:, ~learner.skips] == weights[~learner.skips]).all()


@pytest.mark.parametrize(("method", "rest"), [("p-darts", 4), ("pc-darts", 3), ("daas", 0)])
def test_weights_learn_alone_at_first(method: str, rest: int, micro: str):
    config = micro_config(method, epochs=4, search_epochs=3)
    plan = build.Plan(config, config.stages[0], data.load_dataset(config.dataset), torch.device("cpu"), steps=10)
    learner, moved = plan.parts().arch, []
    for _ in range(6):
        before, child = [v.detach().clone() for v in learner.variables()], learner.sample()
        learner.follow([learner.estimate(child, gates=[torch.ones(len(picks)) for picks in child.picks])])
        moved.append(any((v != old).any() for v, old in zip(learner.variables(), before)))
    assert moved == [False] * rest + [True] * (6 - rest)


# ---- PC-DARTS ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_a_node_is_the_edge_weighed_shuffle_of_a_mixed_quarter_and_the_rest(kind: str):
    """Σ_e β_e shuffle([Σ_o α_eo o(x_e[: C/K]), x_e[C/K :]]), of the first node of a cell, written out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = space.build("partial-cell", 3, (1, 8, 8), channels=8, cells=3, reductions=2, searches=True).double()
    cell, slot = net.cells[0 if kind == "normal" else 1], 0 if kind == "normal" else 4
    learner = shaken(PcDarts(net.slots, stream(), FREE))
    child, c = learner.sample(), 8 if kind == "normal" else 16
    xs = [normal(2, c, 6, 6, seed=seed) for seed in (1, 2)]
    alpha, beta = learner.logits.detach()[slot, :14].view(2, 7).softmax(1), learner.beta.detach()[slot, :2].softmax(0)
    wanted = 0.0
    for edge, x in enumerate(xs):
        mixed = 0.0
        for o in range(7):
            operation, _ = cell.operation(slot, 7 * edge + o)
            part = x[:, : c // K]
            for layer in [torch.nn.ReLU(), *operation] if operation.rectifies else operation:
                part = layer(part)
            mixed = mixed + alpha[edge, o] * part
        rest = x[:, c // K :] if kind == "normal" else torch.nn.functional.max_pool2d(x[:, c // K :], 2)
        both = torch.cat([mixed, rest], 1)
        order = [group * (c // K) + i for i in range(c // K) for group in range(K)]  # one of every group in turn
        wanted = wanted + beta[edge] * both[:, order]
    found, gates = 0.0, child.gates[slot].double()
    for candidate in range(14):
        operation, edge = cell.operation(slot, candidate)
        found = found + gated(operation, xs[edge], gates[candidate])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)  # gates are float32


def test_its_strengths_are_products_and_the_found_child_has_all_channels(micro: str):
    learner = shaken(PcDarts(CELL.slots, stream(), FREE))
    best = learner.to_edges(learner.alpha, 0.0).max(2).values
    for picks, row, slot in zip(learner.picks, best, CELL.slots):
        assert {slot.candidates[c][1] for c in picks} == set(row.topk(2).indices.tolist())
    config = micro_config("pc-darts", epochs=3, search_epochs=2, cells=2, reductions=1)
    plan = build.Plan(config, config.stages[0], data.load_dataset(config.dataset), torch.device("cpu"))
    plain = space.build("cell", 10, (1, 8, 8), channels=4, cells=2, reductions=1)
    picks = plain.picks_of(space.cell.DARTS_V2)
    assert plan.network(full=True).cost(picks) == plain.cost(picks)
    assert plan.network().cost(picks).macs < plain.cost(picks).macs
    losses, _ = plan.network().train().losses(*batch(n=6), PcDarts(CELL.slots, stream(), FREE).sample())
    assert losses.shape == (6,)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "p-darts", "search_epochs": 2}, "'p-darts' needs 3 or more"),
        ({"method": "pc-darts", "search_channels": 6}, "search_channels=6.*a multiple of 4"),
        ({"method": "dha", "space": "partial-cell"}, "method 'dha'.*trains its child anew"),
        ({"method": "spos", "population": 30}, "population=30 leaves no second .*=40: set candidates=60 or more"),
        ({"method": "nsga-net", "candidates": 19}, "population=10 leaves no second .*=19: set candidates=20 or more"),
        ({"method": "dha", "arch": "enas"}, "'enas' has to train its child anew"),
        ({"method": "enas", "target_macs": 1000}, "does not steer to target_macs"),
    ],
)
def test_what_cannot_work_is_refused_with_the_smallest_that_does(given: dict, message: str):
    with pytest.raises(KitError, match=message):
        Config(**given)
