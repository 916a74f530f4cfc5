"""A policy of one's own: the first and the second operation are learned apart, 2 K logits in place of K².

papermill notebooks/search.ipynb out.ipynb -p plugins docs/recipes/learner.py -p augment two-softmax
"""

import torch
from pydantic import Field

import kit
from kit.augment import Basics, LearnedPolicy
from kit.search.learner import adam_state, load_adam_state


@kit.augment.register("two-softmax", title="A softmax for each operation", colour="#CC79A7")
class TwoSoftmax(LearnedPolicy):
    class Options(LearnedPolicy.Options):
        two_softmax_lr: float = Field(0.05, gt=0, description="Adam on the logits of each operation")

    def __init__(self, basics: Basics, generator: torch.Generator, *, ops: tuple[str, ...], lr: float):
        super().__init__(basics, generator, ops)
        self.logits = torch.zeros(2, len(ops), device=generator.device)
        self.adam = torch.optim.Adam([self.logits], lr=lr)

    @classmethod
    def chosen(cls, at, options):
        return {"lr": options.two_softmax_lr}

    def variables(self):
        return [self.logits]

    def probabilities(self):  # [K, K], of ordered pairs
        first, second = self.logits.softmax(1)
        return first[:, None] * second

    def draw(self, n):
        chosen = torch.multinomial(self.logits.softmax(1), n, replacement=True, generator=self.generator).T  # [n, 2]
        magnitude = 10 * torch.rand(n, 2, generator=self.generator, device=self.generator.device)
        return self.complete(self.places[chosen], magnitude, index=chosen[:, 0] * len(self.ops) + chosen[:, 1])

    def gradient(self, draw, *, losses, **_):  # climbs the expected loss: (L_k − mean) ∇ log p(T_k)
        self.count(draw)
        k, advantage = len(self.ops), losses - losses.mean()
        chosen = torch.stack([draw.index // k, draw.index % k])
        up = torch.zeros_like(self.logits).scatter_add_(1, chosen, advantage.expand(2, -1))
        return [-(up - self.logits.softmax(1) * advantage.sum()) / len(losses)]

    def move(self, gradient):
        for self.logits.grad in gradient:
            self.adam.step()

    def state_dict(self):
        kept = {"logits": self.logits, "counts": self.counts, "adam": adam_state(self.adam)}
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.logits.copy_(state["logits"]), self.counts.copy_(state["counts"])
        load_adam_state(self.adam, state["adam"])
