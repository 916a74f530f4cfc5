"""A policy of one's own: the first and the second operation are learned apart, 2 K logits in place of K².

papermill notebooks/search.ipynb out.ipynb -p plugins docs/recipes/learner.py -p augment two-softmax
"""

import torch
from pydantic import Field

import kit
from kit.augment import LearnedPolicy


@kit.augment.register("two-softmax", title="A softmax for each operation", colour="#CC79A7")
class TwoSoftmax(LearnedPolicy):
    class Options(LearnedPolicy.Options):
        two_softmax_lr: float = Field(0.05, gt=0, description="Adam on the logits of each operation")

    def __init__(self, *at, **options):
        super().__init__(*at, **options)
        self.logits = torch.zeros(2, len(self.ops), device=self.generator.device)
        self.adam = torch.optim.Adam([self.logits], lr=self.options.two_softmax_lr)  # moves them, and is kept

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
