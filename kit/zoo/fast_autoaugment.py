"""Fast AutoAugment (Lim et al. 2019): policies under which networks recognise images that they never saw. The papers'
tables have WRN-28-10 with it at 97.3 on CIFAR-10 and 82.9 on CIFAR-100, WRN-40-2 at 96.4 and 79.3."""

import math
from typing import Any, Literal

import torch
from pydantic import Field

from kit import registry
from kit.augment import DAAS_OPS, OPS, Draw, Policy, operations, register
from kit.errors import KitError
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method
from kit.search import ranks
from kit.search.step import STEPS, one_level

SUB, BEST, NOTHING = 5, 10, OPS.index("Identity")  # sub-policies of a policy, policies kept of a fold


@register("fast-autoaugment", title="Fast AutoAugment")
class FastAutoAugment(Policy):
    """For each fold, a random split, a network learns three fifths of the training images with the basics alone, from
    the same weights, by a cosine of its own. TPE (Optuna's) then tries policies of 5 sub-policies, two operations each,
    on the other two fifths. Retraining draws a sub-policy of all folds' 10 best ones. Paper: 5 folds, of 200, twice."""

    kept = ("found", "passed", "start")  # found: sub-policies [n, 2, 3], of place among ops, probability, magnitude
    ops = DAAS_OPS
    snapshot = lambda self: {"found": self.found.cpu().clone()}

    class Options(registry.Options):
        folds: int = Field(5, ge=2, le=20, description="fast-autoaugment: networks that share the search's epochs")
        policy_trials: int = Field(20, ge=2, le=10_000, description="fast-autoaugment: policies tried on each fold")
        rank_by: Literal["loss", "accuracy"] = Field("loss", description="fast-autoaugment: paper's, or its code's")

    @classmethod
    def check(cls, config: Any) -> None:
        if config.stages[0].step != "folds":
            raise KitError(f"augment='fast-autoaugment' in method={config.method!r} finds nothing: use it as method")
        if (epochs := config.stage_epochs[0]) < (n := config.folds):
            raise KitError(f"folds={n} networks share search_epochs={epochs}: set search_epochs={n} or more")

    def __init__(self, *at: Any, **given: Any):
        super().__init__(*at, **given)
        size, device = self.options.folds * min(BEST, self.options.policy_trials) * SUB, self.generator.device
        self.places = torch.tensor([operations().index(name) for name in self.ops], device=device)
        self.found, self.passed, self.start = torch.zeros(size, 2, 3, device=device), 0, {}

    def draw(self, n: int, found: torch.Tensor | None = None) -> Draw:
        found = found if found is not None else self.found[:1] * 0 if self.start else self.found
        uniform = lambda *shape: torch.rand(shape, generator=self.generator, device=found.device)
        place, chance, magnitude = found[(uniform(n) * len(found)).long()].unbind(2)
        return self.complete(torch.where(uniform(n, 2) < chance, self.places[place.long()], NOTHING), magnitude)

    def train(self, parts: Any, batches: Any, schedule: float) -> Any:
        """A step of the current fold's network; after its last one, the fold's search."""
        net, train, seed, folds = parts.net, batches["train"], self.generator.initial_seed() % 2**31, self.options.folds
        before, fold, after = ((self.passed + i) * folds // self.steps for i in (-1, 0, 1))
        if before < fold:
            self.start = self.start or {name: value.clone() for name, value in net.state_dict().items()}
            net.load_state_dict(self.start)
            parts.sgd.load_state_dict({"moments": {}, "trace": None})
        stream = lambda of: torch.Generator().manual_seed(seed + of)
        learned, held = torch.randperm(n := len(train.data), generator=stream(fold)).split([n - 2 * n // 5, 2 * n // 5])
        rows = learned[torch.randint(len(learned), (train.batch_size,), generator=stream(folds + self.passed))]
        cosine = 0.5 * (1 + math.cos(math.pi * (self.passed * folds / self.steps - fold)))
        outcome = one_level(parts, batches | {"train": train.data.batches([ranks.own(rows)])}, cosine)
        self.passed += 1
        if fold < after:
            self.found.view(folds, -1, 2, 3)[fold] = self.search(parts, train.data.take(held), seed + fold)
            self.start = self.start if after < folds else {}
        return outcome

    @torch.no_grad()
    def search(self, parts: Any, held: Any, seed: int) -> torch.Tensor:
        from optuna import create_study, distributions, logging, samplers  # takes a second

        logging.set_verbosity(logging.WARNING)
        place, number = distributions.CategoricalDistribution(range(len(self.ops))), distributions.FloatDistribution
        one = {"place": place, "probability": number(0, 1), "magnitude": number(0, 10)}
        space = {f"{name}{i}": values for i in range(2 * SUB) for name, values in one.items()}
        policy = lambda of: torch.tensor([of.params[name] for name in space], device=self.found.device).view(SUB, 2, 3)
        study, net = create_study(sampler=samplers.TPESampler(seed=seed, multivariate=False)), parts.net.eval()
        for _ in range(self.options.policy_trials):
            asked, score = study.ask(space), 0.0
            for x, y in held.chunks(256):
                losses, predicted = net.losses(self.apply(x, self.draw(len(x), policy(asked))), y, parts.arch.derived())
                score = score + (losses if self.options.rank_by == "loss" else -(predicted == y).float()).sum()
            study.tell(asked, float(ranks.total(score)))  # the less, the better; the same on all ranks
        net.train()
        return torch.cat([policy(best) for best in sorted(study.trials, key=lambda tried: tried.value)[:BEST]])


@STEPS.register("folds", title="Folds in turn (Fast AutoAugment)", brings={"policy_trials": {"paper": 200}})
def folds(parts: Any, *at: Any) -> Any:
    return (parts.augment.train if isinstance(parts.augment, FastAutoAugment) else one_level)(parts, *at)


TITLE, STAGES = "Fast AutoAugment: DA by TPE on folds, retrained", (Stage("search", step="folds"), RETRAIN)
register_method("fast-autoaugment", TITLE, arch="given", stages=STAGES, augment="fast-autoaugment")
