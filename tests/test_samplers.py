"""What the architecture learners draw: frequencies against probabilities (χ², fixed seed, p > 1e-3), limits, frozen
slots; and that a single path is one in memory."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch
from scipy import stats
from tests_toy import (
    FREE,
    batches,
    block_slots,
    edge_slots,
    normal,
    ordered_draws,
    priced,
    probability,
    stream,
    supernet,
)
from torch import Tensor

from kit import space
from kit.arch import ARCH, Dsnas, Given, Gumbel, Reinforce
from kit.augment import Basics, Plain
from kit.hyper import Fixed
from kit.search.grads import Momentum
from kit.search.signals import Parts
from kit.search.step import STEPS, TwoLevelOptions
from kit.space.limits import Limits
from kit.zoo.gdas import Gdas

COPIES, TIMES = 2500, 8  # slots with the same logits, drawn so often: 20,000 draws


def tied(kind, slot, logits: Tensor, **settings):
    """A learner of `COPIES` slots like the one given, all with the same logits [candidates]."""
    learner = kind((slot,) * COPIES, stream(0), FREE, arch_lr=0.1, **settings)
    with torch.no_grad():
        learner.logits.copy_(logits)
    return learner


def assert_frequencies(counts: dict, expected: dict) -> None:
    assert set(counts) <= set(expected)
    observed, n = [counts.get(key, 0) for key in expected], sum(counts.values())
    p = stats.chisquare(observed, [float(expected[key]) * n for key in expected]).pvalue
    assert n >= 20_000 and p > 1e-3, p


def counted(keys) -> dict:
    counts: dict = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return counts


# ---- frequencies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("picks", [1, 2])
def test_categorical_draws_ordered_candidates_by_plackett_luce(picks: int):
    (slot,), logits = block_slots(4, picks=picks), normal(4, seed=1)
    learner = tied(Dsnas, slot, logits)
    counts = counted(tuple(row) for _ in range(TIMES) for row in learner.draw()[1].tolist())
    assert_frequencies(counts, {order: probability(logits, order) for order in ordered_draws(slot)})


def test_hard_gumbel_draws_operations_by_softmax_and_edges_by_plackett_luce():
    """DAAS: 3 edges of 2 operations, two edges taken: the set of edges, and each taken edge's operation
    independently.
    """
    (slot,), logits, beta = edge_slots(3), normal(6, seed=2), normal(3, seed=3)
    learner = tied(Gumbel, slot, logits)
    with torch.no_grad():
        learner.beta.copy_(beta)
    operation = logits.view(3, 2).softmax(1)
    expected = {}
    for a, b in itertools.combinations(range(3), 2):
        both = probability(beta, (a, b)) + probability(beta, (b, a))
        for x, y in itertools.product(range(2), repeat=2):
            expected[(2 * a + x, 2 * b + y)] = both * operation[a, x] * operation[b, y]
    assert float(sum(expected.values())) == pytest.approx(1.0, abs=1e-12)
    assert_frequencies(counted(picks for _ in range(TIMES) for picks in learner.sample().picks), expected)


def test_gdas_runs_every_edge_with_one_operation_drawn_by_softmax():
    (slot,), logits = edge_slots(3), normal(6, seed=2)
    learner = tied(Gdas, slot, logits)
    operation = logits.view(3, 2).softmax(1)
    expected = {
        (x, 2 + y, 4 + z): operation[0, x] * operation[1, y] * operation[2, z]
        for x, y, z in itertools.product(range(2), repeat=3)
    }
    assert_frequencies(counted(picks for _ in range(TIMES) for picks in learner.sample().picks), expected)


# ---- padding, limits, frozen slots ---------------------------------------------------------------

LEARNERS = {
    "dsnas": (Dsnas, {}),
    "reinforce": (Reinforce, {}),
    "daas": (Gumbel, {}),
    "gdas": (Gdas, {}),
}


def learner_of(name: str, slots, limits=FREE, seed: int = 0):
    kind, settings = LEARNERS[name]
    learner = kind(slots, stream(seed), limits, arch_lr=0.1, **settings)
    with torch.no_grad():
        learner.logits.copy_(normal(*learner.logits.shape, seed=4))
    return learner


@pytest.mark.parametrize("name", LEARNERS)
def test_padded_candidates_are_never_drawn_and_frozen_slots_keep_theirs(name: str):
    slots = edge_slots(2, 4, 3)
    learner = learner_of(name, slots)
    with torch.no_grad():
        learner.logits[~learner.valid] = 50.0  # what is not there may look as good as it likes
    standing = learner.picks
    learner.freeze([1])
    seen = set()
    for _ in range(60):
        child = learner.sample()
        assert child.picks[1] == standing[1] and child.gate(1) is None
        assert all(max(p) < len(slot.candidates) and len(set(p)) == len(p) for p, slot in zip(child.picks, slots))
        seen.add(child.picks)
    assert len(seen) > 5 and learner.picks[1] == standing[1]
    learner.freeze([0, 2])
    assert learner.finished and learner.sample().picks == learner.picks and learner.sample().gates == ()


@pytest.mark.parametrize("name", ["dsnas", "reinforce", "daas"])
def test_under_a_limit_children_are_drawn_by_their_probability_among_those_that_keep_to_it(name: str):
    slots = block_slots(3, 3)
    network = priced(slots)
    limits = Limits(network, max_macs=2000)
    learner = learner_of(name, slots, limits)
    p = learner.logits.detach().softmax(1)
    allowed = {
        ((a,), (b,)): p[0, a] * p[1, b] for a in range(3) for b in range(3) if network.cost(((a,), (b,))).macs <= 2000
    }
    assert 2 <= len(allowed) < 8
    total, n = sum(allowed.values()), 400
    counts = counted(learner.sample().picks for _ in range(n))
    assert set(counts) <= set(allowed) and learner.refused > 0
    assert (
        stats.chisquare([counts.get(k, 0) for k in allowed], [float(v / total) * n for v in allowed.values()]).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("name", ["dsnas", "reinforce", "daas"])
def test_when_every_draw_breaks_the_limit_the_admissible_child_that_stands_is_taken(name: str):
    slots = block_slots(3, 3)
    learner = learner_of(name, slots, Limits(priced(slots), max_macs=1300))  # the cheapest child alone
    with torch.no_grad():
        learner.logits.copy_(torch.tensor([0.0, 0.0, 60.0]))
    child = learner.sample()
    assert child.picks == ((0,), (0,)) == learner.picks and learner.refused == 50
    learner.estimate(child, gates=[torch.ones(1)] * 2, reward=lambda: 0.5)  # does not fail


def test_gdas_learns_under_a_limit_that_all_edges_together_break():
    """What is limited is the derived child: 2 of 4 edges."""
    slots = edge_slots(4, 4)
    network = priced(slots)
    learner = learner_of("gdas", slots, Limits(network, max_macs=9000))
    for _ in range(10):
        child = learner.sample()
        assert network.cost(child.picks).macs > 9000 and all(len(p) == 4 for p in child.picks)
        assert learner.estimate(child, gates=[torch.ones(4)] * 2)[0].abs().max() > 0
    assert learner.refused == 0 and network.cost(learner.picks).macs <= 9000


# ---- memory --------------------------------------------------------------------------------------


class Kept:
    """The most bytes that autograd holds for backward passes at one time: storages, counted once, parameters and images
    apart.
    """

    def __init__(self, *apart: Tensor):
        self.apart = {t.untyped_storage().data_ptr() for t in apart}
        self.live: dict[int, list[int]] = {}
        self.now = self.most = 0

    def pack(self, t: Tensor) -> _Held:
        held, storage = _Held(t), t.untyped_storage()
        key = storage.data_ptr()
        if key not in self.apart:
            entry = self.live.setdefault(key, [0, storage.nbytes()])
            if not entry[0]:
                self.now += entry[1]
                self.most = max(self.most, self.now)
            entry[0] += 1
            weakref.finalize(held, self.release, key)
        return held

    def release(self, key: int) -> None:
        self.live[key][0] -= 1
        if not self.live[key][0]:
            self.now -= self.live.pop(key)[1]

    def of(self, work) -> int:
        gc.collect()
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda held: held.tensor):
            work()
        return self.most


class _Held:
    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def step_bytes(net: space.Network, arch, step: str) -> int:
    """Of one search step with fixed τ and η, 8 images."""
    streams = {name: batches(i, n=8) for i, name in enumerate(("train", "val", "fresh"))}
    samples = TwoLevelOptions(children=2, arch_samples=2)
    policy, hyper, sgd = Plain(Basics(), stream()), Fixed(0.05, 1e-3), Momentum(net, 0.9, 5.0)
    parts = Parts(net, arch, policy, hyper, sgd, samples)
    return Kept(*net.parameters()).of(lambda: STEPS[step].make(parts, streams, 1.0))


def searcher(name: str, net: space.Network):
    return ARCH[name].make(net.slots, stream(3), Limits(net), arch_lr=0.01)


def search(name: str, where: str, step: str) -> tuple[int, int]:
    """Bytes of a search step, and of training the largest of the children that it sampled, each built alone."""
    net = supernet(where).float()
    learner, sampled = searcher(name, net), set()

    def watched(sample=learner.sample):
        child = sample()
        sampled.add(child.picks)
        return child

    learner.sample = watched
    found = step_bytes(net, learner, step)
    alone = 0
    for picks in sampled:
        taken = tuple(p[: slot.takes] for p, slot in zip(picks, net.slots))  # of a mixture, some child
        single = space.build(**net.spec(taken)).train()
        alone = max(alone, step_bytes(single, Given(single.slots, single.only_child().picks), "one-level"))
    return found, alone


@pytest.mark.parametrize(
    ("name", "step", "where"),
    [
        ("dsnas", "one-level", "cell"),
        ("daas", "bi-level", "choice"),
        ("reinforce", "reward", "mobile"),
    ],
)
def test_a_single_path_keeps_no_more_than_training_the_sampled_child_alone(name: str, step: str, where: str):
    found, alone = search(name, where, step)
    assert 0.9 * alone < found <= 1.1 * alone


def test_the_mixture_keeps_several_times_that():
    found, alone = search("darts", "cell", "bi-level")
    assert found > 2 * alone
