"""How to add a learner: one τ and one α learner of at most 60 lines each, put into their tables by one entry, and
searched with.

Both are bandits. They show what the contract asks for: `sample` what the next pass uses, `estimate` and `move` from the
signals of a step
that the learner names, all state in `state_dict`, and what the history records.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from tests_micro import Stop, StopAfterEachEpoch, assert_same_run, micro_config
from tests_toy import FREE, block_slots, normal, priced, stream
from torch import Tensor

import kit
from kit import arch, augment
from kit.arch import ARCH, ArchLearner, strongest_picks
from kit.augment import ALL_OPS, AUGMENT, OPS, Basics, Draw, Policy
from kit.search.progress import Silent
from kit.space import Child, Slot
from kit.space.limits import Limits


class Exp3(Policy):
    """EXP3 (Auer et al. 2002) over the ordered pairs of operations, magnitudes uniform: after a draw of probability p
    with reward r in
    [−1, 1] its log-weight grows by `rate` · r / p, which is the gradient of E[r] by the probabilities, without bias.

    explore: the share of draws that is uniform, so that no p is smaller than explore / K². The reward says whether the
    image's gradient
    points along the validation gradient (DAAS eq. 13).
    """

    needs = frozenset({"val"})

    def __init__(
        self,
        basics: Basics,
        generator: torch.Generator,
        *,
        rate: float,
        explore: float = 0.2,
        ops: tuple[str, ...] = OPS,
    ):
        super().__init__(basics, generator)
        self.ops, self.rate, self.explore = ops, rate, explore
        self.places = torch.tensor([ALL_OPS.index(name) for name in ops], device=generator.device)
        self.log_weight = torch.zeros(len(ops) ** 2, device=generator.device)
        self.counts = torch.zeros_like(self.log_weight)

    def variables(self) -> list[Tensor]:
        return [self.log_weight]

    def probabilities(self) -> Tensor:
        return (1 - self.explore) * self.log_weight.softmax(0) + self.explore / len(self.log_weight)

    def sample(self, n: int) -> Draw:
        index = torch.multinomial(self.probabilities(), n, replacement=True, generator=self.generator)
        magnitude = torch.rand(n, 2, generator=self.generator, device=index.device) * 10
        return self._fill(
            self.places[torch.stack([index // len(self.ops), index % len(self.ops)], dim=1)], magnitude, index
        )

    def estimate(self, draw: Draw, *, rewards, **_: object) -> list[Tensor]:
        reward = rewards().to(self.log_weight.dtype)
        reward = reward / reward.abs().max().clamp(min=1e-12)
        self.counts.index_add_(0, draw.index, torch.ones_like(reward))
        share = reward / self.probabilities()[draw.index] / len(reward)
        return [torch.zeros_like(self.log_weight).index_add_(0, draw.index, -share)]

    def move(self, gradient: list[Tensor]) -> None:
        for step in gradient:
            self.log_weight.sub_(self.rate * step)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "log_weight": self.log_weight, "counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        for name in ("log_weight", "counts"):
            getattr(self, name).copy_(state[name])

    def snapshot(self) -> dict[str, Tensor]:
        square, counts = (len(self.ops),) * 2, self.counts.clone()
        self.counts.zero_()
        return {"probabilities": self.probabilities().view(square).cpu(), "counts": counts.view(square).cpu()}


class Ucb(ArchLearner):
    """UCB1 (Auer et al. 2002) in every slot: take the candidates with the highest mean validation accuracy plus width ·
    √(log t / n), where
    n of t children had them. Its variables are the sums of rewards and of draws, [slots, widest] each, on the CPU."""

    needs = frozenset({"val"})

    def __init__(self, slots: tuple[Slot, ...], generator: torch.Generator, limits: Limits, *, width: float = 0.3):
        self.slots, self.generator, self.limits, self.width = slots, generator, limits, width
        shape = len(slots), max(len(slot.candidates) for slot in slots)
        self.rewards, self.draws = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        self.frozen = torch.zeros(len(slots), dtype=torch.bool)

    def variables(self) -> list[Tensor]:
        return [self.rewards, self.draws]

    @property
    def alpha(self) -> Tensor:
        return self.rewards / self.draws.clamp(min=1)

    @property
    def picks(self):
        return strongest_picks(self.slots, self.alpha, self.limits)

    def sample(self) -> Child:
        if self.finished:
            return Child(self.picks)
        tries = 1 + self.draws.sum(1, keepdim=True) / torch.tensor([[slot.takes] for slot in self.slots])
        bonus = self.width * (tries.log() / self.draws).sqrt()  # infinite for what was never tried
        ties = 1e-9 * torch.rand(bonus.shape, generator=self.generator, dtype=bonus.dtype)
        return Child(
            strongest_picks(self.slots, self.alpha + bonus.nan_to_num(nan=1e6, posinf=1e6) * (1 + ties), self.limits)
        )

    def estimate(self, child: Child, *, reward, **_: object) -> list[Tensor]:
        taken = torch.zeros_like(self.draws)
        for slot, chosen in enumerate(child.picks):
            taken[slot, list(chosen)] = 1.0
        return [] if self.finished else [-reward() * taken, -taken]

    def move(self, gradient: list[Tensor]) -> None:
        for variable, step in zip(self.variables(), gradient):
            variable.sub_(step)

    def end_epoch(self, last: bool) -> list[int]:
        return list(range(len(self.slots))) if last else []

    def freeze(self, slots: list[int]) -> None:
        self.frozen[slots] = True

    @property
    def finished(self) -> bool:
        return bool(self.frozen.all())

    def state_dict(self) -> dict:
        return {
            "rewards": self.rewards,
            "draws": self.draws,
            "frozen": self.frozen,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        for name in ("rewards", "draws", "frozen"):
            getattr(self, name).copy_(state[name])
        self.generator.set_state(state["generator"].cpu())


EXP3 = augment.Entry(Exp3, lambda s: Exp3(s.basics, s.generator, rate=s.lr), learns=True)
UCB = arch.Entry(Ucb, lambda s: Ucb(s.slots, s.generator, s.limits))


@pytest.fixture
def added(micro: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an author writes into the tables of kit/augment/__init__.py and kit/arch/__init__.py."""
    monkeypatch.setitem(AUGMENT, "exp3", EXP3)
    monkeypatch.setitem(ARCH, "ucb", UCB)


@pytest.mark.parametrize("learner", [Exp3, Ucb])
def test_a_learner_takes_at_most_sixty_lines(learner: type):
    assert len(inspect.getsource(learner).splitlines()) <= 60


def test_without_their_entries_the_names_are_refused(micro: str):
    for field, name in (("augment", "exp3"), ("arch", "ucb")):
        with pytest.raises(kit.KitError, match=f"{name}'"):
            micro_config("dsnas", **{field: name})


@pytest.mark.parametrize("space", ["cell", "mobile"])
def test_a_search_with_both_runs_is_recorded_and_resumes(space: str, added: None, tmp_path: Path):
    cells = {"cell": 3, "mobile": 4}[space]
    config = micro_config(
        "dsnas", arch="ucb", augment="exp3", space=space, cells=cells, tau_lr=1e-3, epochs=3, search_epochs=2
    )
    run = kit.search(config, out=tmp_path / "whole", progress=Silent())
    assert run.policy["name"] == "exp3" and run.policy["ops"] == list(OPS)
    p = run.tau["probabilities"]
    assert p.shape == (4, 14, 14) and abs(p.sum((1, 2)) - 1).max() < 1e-5 and p.min() >= 0.2 / 196 * 0.999
    assert p[0].std() < 1e-9 < p[-1].std()  # uniform at first, then it has learned
    assert (run.tau["counts"][1:].sum((1, 2)) == 180).all()  # 3 steps of 60 images
    alpha, support = run.alpha["alpha"], run.alpha["support"]
    assert (alpha[0] == 0).all() and 0 < alpha[-1].max() <= 1 and (alpha[2:] == alpha[2]).all()
    for slot in range(len(support[-1])):  # what stands is what had the best mean
        taken = support[-1][slot]
        assert alpha[-1][slot][taken].min() >= alpha[-1][slot][~taken].max()
    with pytest.raises(Stop):
        kit.search(config, out=tmp_path / "stopped", progress=StopAfterEachEpoch())
    assert_same_run(run, kit.search(config, out=tmp_path / "stopped", progress=Silent()))


def test_exp3_estimates_the_reward_of_every_pair_without_bias_and_finds_the_best():
    learner = Exp3(Basics(), stream(1), rate=0.02, ops=("Invert", "Solarize"))
    table = torch.tensor([0.1, 1.0, -0.4, 0.3])
    learner.log_weight.copy_(normal(4, seed=2))
    p = learner.probabilities()
    draws = [
        Draw(*[torch.zeros(1, 2)] * 4, index=torch.tensor([i, 1])) for i in range(4)
    ]  # the second image's reward, 1, is the largest
    found = sum(p[i] * learner.estimate(d, rewards=lambda d=d: table[d.index])[0] for i, d in enumerate(draws))
    expected = -table / 2
    expected[1] -= 1 / p[1] / 2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for _ in range(400):
        draw = learner.sample(16)
        learner.update(draw, rewards=lambda draw=draw: table[draw.index])
    assert learner.probabilities()[1] > 0.8 and learner.probabilities().min() >= 0.05 - 1e-6


def test_ucb_tries_everything_and_finds_the_best_within_the_limits():
    """The later of four candidates, the better and the dearer; 2,000 multiply-adds exclude the last."""
    slots = block_slots(4)
    for limits, best in ((FREE, 3), (Limits(priced(slots), max_macs=2000), 2)):
        learner = Ucb(slots, stream(1), limits)
        for _ in range(200):
            child = learner.sample()
            assert limits.allow(child.picks)
            learner.update(child, reward=lambda child=child: child.picks[0][0] / 4)
        assert learner.picks == ((best,),) and (learner.draws[0, : best + 1] > 0).all() and learner.draws[0, best] > 100
