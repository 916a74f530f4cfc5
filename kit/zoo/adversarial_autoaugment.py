"""Adversarial AutoAugment (Zhang et al. 2020): policies that raise the network's loss while it trains. ResNet-50 has
79.4 on ImageNet by it, WRN-28-10 98.1 on CIFAR-10, 84.5 on CIFAR-100, PyramidNet 98.6 (DiffAutoML's Table 2)."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit.augment import DAAS_OPS, Draw, LearnedPolicy, register
from kit.methods import Stage
from kit.methods import register as register_method
from kit.search.learner import Adam
from kit.search.step import STEPS, one_level

SUB, LEVELS = 5, 10  # sub-policies of a policy; magnitudes, from 0 to 10
INPUT, UNITS, ENTROPY = 32, 100, 1e-5  # of the LSTM; the weight of its entropy


@register("adversarial-autoaugment", title="Adversarial AutoAugment", colour="#882255")
class AdversarialAutoAugment(LearnedPolicy):
    """An LSTM draws sub-policies: operation, magnitude, operation, magnitude (in the paper a policy's five in one go).
    Row i of a batch meets one of the five of policy i mod `copies`: with the step "copies" each image is there under
    every policy, and costs as much. REINFORCE ascends the policies' mean losses, standardised, and others are drawn,
    after every step (paper: every epoch; a run goes as far here). A run that is given a policy has the last ones."""

    kept, usual_ops = (*LearnedPolicy.kept, "policies"), DAAS_OPS

    class Options(LearnedPolicy.Options):
        copies: int = Field(8, ge=2, le=64, description="adversarial-autoaugment: of each image, a policy for each")

    def __init__(self, *at: Any, **options: Any):
        super().__init__(*at, **options)
        k, g, device = len(self.ops), self.generator, self.generator.device
        shapes = ((1, INPUT), (4 * UNITS, INPUT), (4 * UNITS, UNITS), (k + LEVELS, INPUT), (k + LEVELS, UNITS))
        leaves = [torch.rand(shape, generator=g, device=device).sub_(0.5).div_(5).requires_grad_() for shape in shapes]
        self.adam = Adam(leaves, lr=self.options.tau_lr or 600 * 3.5e-4 / max(1, self.steps))
        self.policies = self.decide(self.options.copies * SUB)[0]

    def decide(self, n: int, given: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """n sub-policies, int64 [n, 4], or the given decisions [n, 1 to 4]; log p and the entropy of each: [n]."""
        start, w, u, embedded, heads = self.variables()
        x, state, k = start.expand(n, -1), (start.new_zeros(n, UNITS),) * 2, len(self.ops)
        taken, log_p, entropy = [], 0.0, 0.0
        for i, known in enumerate([None] * 4 if given is None else given.unbind(1)):
            own = slice(k, None) if i % 2 else slice(k)
            state = torch.lstm_cell(x, state, w, u)
            law = (state[0] @ heads[own].T).log_softmax(1)
            if known is None:  # the first of independent exponential times at these rates
                known = (law.exp() / torch.empty_like(law).exponential_(generator=self.generator)).argmax(1)
            log_p = log_p + law.gather(1, known[:, None]).squeeze(1)
            entropy = entropy + torch.special.entr(law.exp()).sum(1)
            x = embedded[own][known]
            taken.append(known)
        return torch.stack(taken, 1), log_p, entropy

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        k = len(self.ops)
        every = torch.cartesian_prod(*(torch.arange(m, device=self.places.device) for m in (k, LEVELS, k)))
        return self.decide(len(every), every)[1].exp().view(k, LEVELS, k).sum(1)

    def draw(self, n: int) -> Draw:
        policy = torch.arange(n, device=self.places.device) % (len(self.policies) // SUB)
        which = torch.randint(SUB, (n,), generator=self.generator, device=policy.device)
        first, level, second, other = self.policies[policy * SUB + which].unbind(1)
        ops, magnitude = torch.stack([first, second], 1), torch.stack([level, other], 1) * (10 / (LEVELS - 1))
        return self.complete(self.places[ops], magnitude, index=first * len(self.ops) + second, choices=policy)

    def gradient(self, draw: Draw, *, losses: Tensor, **_: object) -> list[Tensor]:
        self.count(draw)
        _, log_p, entropy = (x.view(-1, SUB).sum(1) for x in self.decide(len(self.policies), self.policies))
        member = torch.nn.functional.one_hot(draw.choices, len(log_p)).to(log_p.dtype)
        mean = (
            (losses - losses.mean()).to(log_p.dtype) @ member / member.sum(0).clamp(min=1)
        )  # 0 of one without an image
        reward = (mean - mean.mean()) / (mean.std() + 1e-5)
        return list(torch.autograd.grad(-(reward * log_p + ENTROPY * entropy).mean(), self.variables()))

    def move(self, gradient: list[Tensor]) -> None:
        super().move(gradient)
        self.policies = self.decide(len(self.policies))[0] if gradient else self.policies

    def adopt(self, found: dict) -> None:
        self.policies, known = (torch.tensor(found[x]).to(self.places.device) for x in ("policies", "probabilities"))
        self.probabilities = lambda: known  # not those of the LSTM, which did not learn them

    def snapshot(self) -> dict[str, Tensor]:
        return super().snapshot() | {"policies": self.policies.cpu().clone()}


@STEPS.register("copies", title="Copies of each image (Adversarial AutoAugment)")
def copies(parts: Any, batches: Any, schedule: float) -> Any:
    """One level, with `copies` of each image, one after the other, if the policy says how many."""
    several = tuple(x.repeat_interleave(getattr(parts.augment.options, "copies", 1), 0) for x in next(batches["train"]))
    return one_level(parts, batches | {"train": iter([several])}, schedule)


TITLE, STAGES = "Adversarial AutoAugment: DA, 8 copies", (Stage("training", step="copies"),)
register_method("adversarial-autoaugment", TITLE, arch="given", stages=STAGES, augment="adversarial-autoaugment")
