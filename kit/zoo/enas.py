"""ENAS (Pham et al. 2018: 2.89% test error on CIFAR-10 with cells and cutout): an LSTM draws one decision after the
other, each in the knowledge of those before, and learns by REINFORCE while all children share their weights."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit.arch import register
from kit.arch.base import Searcher
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method
from kit.search.learner import Learner, Rewarded
from kit.space import Child, Picks

LARGEST, TEMPERATURE = 2.5, 5.0  # a score x counts as LARGEST · tanh(x / TEMPERATURE): no decision is ever certain
BRINGS = {"arch_lr": {"paper": 0.0035}, "arch_reach": 4.0, "reward_baseline": 0.99, "candidates": 10}
BRINGS |= {"epochs": {"paper": 150 + 630}, "search_share": {"paper": 150 / 780}}


@register("enas", title="LSTM by REINFORCE (ENAS)", brings=BRINGS)
class Enas(Rewarded, Searcher):
    """A pick is a step of the LSTM that reads the pick before, by the sum of an operation's and an edge's score (ENAS:
    two steps). It learns beside the weights (ENAS: in epochs of its own). The best of `candidates` children that it
    draws at the end is found. `alpha`: the picks' probabilities along its likeliest path."""

    needs, retrain, rates = frozenset({"val"}), True, {}  # Adam without weight decay
    kept = (*Searcher.kept, "baseline", "found")
    found: Picks | None = None
    move = Learner.move  # no variable belongs to one slot

    class Options(Searcher.Options, Rewarded.Options):
        controller_size: int = Field(64, ge=1, le=4096, description="units of ENAS's LSTM")
        entropy_weight: float = Field(1e-4, ge=0, description="of a path's entropy, which ENAS adds to the reward")
        candidates: int = Field(40, ge=1, le=100_000, description="children scored when the search stage ends")

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        columns = [tuple(zip(*slot.candidates)) for slot in self.slots]  # operations and edges
        names = [sorted({name for slot in columns for name in slot[i]}) for i in (0, 1)]
        self.codes = [[torch.tensor(list(map(names[i].index, slot[i]))) for i in (0, 1)] for slot in columns]
        size, (n, m) = self.options.controller_size, map(len, names)
        draw = lambda rows: (torch.rand(rows, size, generator=self.generator, dtype=torch.float64) - 0.5) / 5
        self.optimize(*map(draw, (1, 4 * size, 4 * size, n, n, m, m)))

    def unroll(self, decide: Callable[[Tensor], int]) -> tuple[list[list[int]], Tensor]:
        """The candidates of every slot in the order of their picks, and log p of all at each pick, float64 [slots,
        picks, most candidates]. decide: log p [candidates] → a candidate."""
        x, w, u, operations, to_operation, edges, to_edge = self.variables()
        state, path, laws = (torch.zeros_like(x), torch.zeros_like(x)), [], []
        for slot, (operation, edge) in zip(self.slots, self.codes):
            path.append([])
            for _ in range(slot.takes):
                state = torch.lstm_cell(x, state, w, u)
                heads = [LARGEST * (state[0] @ head.T / TEMPERATURE).tanh()[0] for head in (to_operation, to_edge)]
                taken = torch.tensor(path[-1]).long()
                law = (heads[0][operation] + heads[1][edge]).index_fill(0, taken, -torch.inf).log_softmax(0)
                laws.append(torch.nn.functional.pad(law, (0, self.valid.shape[1] - len(law)), value=-torch.inf))
                path[-1].append(pick := decide(law))
                x = (operations[operation[pick]] + edges[edge[pick]]).unsqueeze(0)
        return path, torch.stack(laws).unflatten(0, (len(self.slots), -1))

    @property
    def alpha(self) -> Tensor:
        return self.unroll(lambda law: int(law.argmax()))[1].detach().exp().sum(1)

    @property
    def picks(self) -> Picks:
        return self.found or self.strongest(self.alpha)

    def distributions(self) -> Tensor:
        return self.alpha / self.alpha.sum(1, keepdim=True)

    @torch.no_grad()
    def sample(self) -> Child:
        for _ in range(0 if self.finished else 50):  # that may break the limits
            path, _ = self.unroll(lambda law: int(torch.multinomial(law.exp(), 1, generator=self.generator)))
            if self.limits.allow(picks := tuple(tuple(sorted(slot)) for slot in path)):
                return Child(picks, memory=path)
            self.refused += 1
        return Child(self.picks)

    def estimate(self, child: Child, *, reward: Callable[[], float], **_: object) -> list[Tensor]:
        """reward: the validation accuracy in [0, 1] after a step with this child."""
        if child.memory is None:
            return []
        again = iter(sum(child.memory, []))
        laws = self.unroll(lambda law: next(again))[1]
        entropy = torch.special.entr(laws.detach().exp()).sum().item()
        advantage = self.advantage(reward() + self.options.entropy_weight * entropy)
        value = -advantage * laws.gather(2, torch.tensor(child.memory).unsqueeze(2)).sum()
        return list(torch.autograd.grad(value, self.variables(), materialize_grads=True))

    def choose(self, score: Callable[[Picks], float]) -> None:
        self.found = max(dict.fromkeys(self.sample().picks for _ in range(self.options.candidates)), key=score)


register_method("enas", "ENAS: by an LSTM, retrained", arch="enas", stages=(Stage("search", search=True), RETRAIN))
