"""PBA, population-based augmentation (Ho et al. 2019): a schedule of policies by PBT. With it the papers' tables have
WRN-28-10 at 97.4 on CIFAR-10 and 83.3 on CIFAR-100, PyramidNet + ShakeDrop at 98.5 (DHA 4, DiffAutoML 2)."""

from typing import Any

import torch
from torch import Tensor

from kit.augment import DAAS_OPS, OPS, Draw, Policy, operations, register
from kit.augment.policy import share
from kit.errors import KitError
from kit.hyper import HYPER
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method
from kit.search import ranks


@register("pba", title="Population-based augmentation")
class Pba(Policy):
    """A setting: a probability and a magnitude, in tenths, of two copies of 15 operations, float [30, 2], first 0. An
    image gets 0, 1 or 2 operations (chances 0.2, 0.3, 0.5): the first that apply, in an order drawn for it. hyper="pbt"
    trains networks with a setting each; retraining passes through the settings of the best, `past`, in turn. Paper:
    16 networks, 66 exploits, 200 epochs for each on 4,000 images."""

    kept = ("past", "used")
    ops = DAAS_OPS
    at = -1  # of the settings, the one in use
    snapshot = lambda self: {"setting": self.past[self.at].cpu()}

    @classmethod
    def check(cls, config: Any) -> None:
        if config.hyper != "pbt":
            raise KitError(f"augment='pba' with hyper={config.hyper!r} never learns: use method='pba'")

    def __init__(self, *at: Any, **given: Any):
        super().__init__(*at, **given)
        device = self.generator.device
        self.places = torch.tensor([operations().index(name) for name in self.ops * 2], device=device)
        self.past, self.used = (torch.zeros(len(self.places), 2, device=device),), 0  # used: draws of the retraining

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def explored(self) -> Tensor:
        """The last setting with each number drawn anew, with a chance of 0.2, or 0 to 3 tenths higher or lower."""
        anew, fresh, size, up = self.uniform(4, *self.past[-1].shape)
        most = torch.tensor([10.0, 9.0], device=up.device)  # of the probabilities, of the magnitudes
        moved = self.past[-1].to(up.device) + (4 * size).floor() * torch.where(up < 0.5, -1, 1)
        return torch.where(anew < 0.2, ((most + 1) * fresh).floor(), moved.clamp(min=0).minimum(most))

    def draw(self, n: int, at: int = -1) -> Draw:
        chance, magnitude = self.past[at].to(self.places.device).T
        order = self.uniform(n, len(chance)).masked_fill_(self.uniform(n, len(chance)) >= chance / 10, 2)
        first, entry = order.topk(2, largest=False)  # 2: does not apply
        on = (first < 2) & (self.uniform(n, 1) >= torch.where(torch.arange(2, device=first.device) < 1, 0.2, 0.5))
        return self.complete(torch.where(on, self.places[entry], OPS.index("Identity")), magnitude[entry])

    def derived(self, n: int) -> Draw:
        self.at, self.used = min(self.used * len(self.past) // self.steps, len(self.past) - 1), self.used + 1
        return share(self.draw(n * ranks.count(), self.at))


STAGES = (Stage("search", step="population"), RETRAIN)
STILL = {"hyper_space": "mixup=0:0"}  # nothing of η is moved
if "pbt" in HYPER:  # of members.py, which is read before: a zoo without it has no such row
    register_method("pba", "PBA: DA, retrained", arch="given", stages=STAGES, augment="pba", hyper="pbt", values=STILL)
