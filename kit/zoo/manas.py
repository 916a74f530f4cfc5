"""MANAS (Carlucci et al. 2019: 97.18% on CIFAR-10 in DHA's Table 1): an agent on every edge, a bandit that chooses its
operation. No code of it is public: this is rebuilt from the paper."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kit.arch import Edges, register
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method
from kit.space import Child, Picks


@register("manas", title="A bandit per edge (MANAS)")
class Manas(Edges):
    """Each agent plays Exp3 (Auer et al. 2002): it draws operation k with probability π_k, all suffer the child's
    validation error ℓ in [0, 1], and the agent's estimate of k's loss grows by ℓ / π_k, whose mean is the loss that k
    would give it. π is the softmax of −lr × these sums, lr is `arch_lr` or Exp3's √(2 ln K / (K · steps)) for the most
    operations K of an edge. All edges run, as in GDAS; the strongest are derived."""

    needs, retrain, limited = frozenset({"val"}), True, False

    def optimize(self, *variables: Tensor) -> None:
        super().optimize(*variables)
        k = max(len(slot.candidates) // len({edge for _, edge in slot.candidates}) for slot in self.slots)
        lr = self.options.arch_lr or math.sqrt(2 * math.log(max(2, k)) / (k * max(1, self.steps)))
        self.adam = torch.optim.SGD(self.variables(), lr=lr)

    def child(self, picks: Picks, memory: Any) -> Child:
        return Child(picks, memory=self.to_candidates(self.operations()))

    def estimate(self, child: Child, *, reward: Callable[[], float], **_: object) -> list[Tensor]:
        """reward: the validation accuracy in [0, 1] after a step with this child."""
        if child.memory is None:
            return []
        drawn = torch.zeros_like(child.memory)
        for row, chosen in zip(drawn, child.picks):
            row[list(chosen)] = 1.0
        return [drawn * (1 - reward()) / child.memory.clamp(min=1e-12)]


STAGES = (Stage("search", search=True), RETRAIN)
register_method("manas", "MANAS: a bandit per edge, retrained", arch="manas", stages=STAGES)
