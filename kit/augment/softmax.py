"""DHA's and DiffAutoML's learned distribution over pairs of operations (eq. 2; METHOD section 1)."""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kit.augment.ops import OPS
from kit.augment.policy import Draw, LearnedPolicy, register
from kit.errors import KitError

SMALL_OPS = ("ShearX", "ShearY", "TranslateX", "TranslateY")  # DiffAutoML's Table 3
BRINGS = {"tau_form": {"paper": "paper"}, "tau_lr": {"paper": 1e-5}}
MOMENTUM, POWER = 0.9, 0.99  # of the moving averages of the gradient and of its squared length
DECAY = 5e-4
SHRINK = 1 - torch.linspace(0, 1, 33).square()  # factors that are tried where τ has gone too far


@register("pair-softmax-4", title="Softmax over pairs of four operations", brings=BRINGS, ops=SMALL_OPS)
@register("pair-softmax", title="Softmax over ordered pairs", colour="#0072B2", brings=BRINGS)
class PairSoftmax(LearnedPolicy):
    """τ: float [K, K], logits of ordered pairs of operations; each image draws one, and two magnitudes in [0, 10].

    Of the images the share `applied` is transformed, at most as strongly as `magnitude`, and none of the last steps.

    τ climbs the expected training loss: by tau_form="score", the score-function gradient with a leave-one-out baseline,
    which is unbiased; by "paper", eq. 2 as printed, −Σ_k p_k(τ) L_k, which weighs each loss by p after having drawn it
    by p, and so feeds on itself. Its steps have equal lengths, with which it can go just tau_reach far, or are by
    tau_lr plain SGD with momentum and weight decay, as DHA prints it; farther than tau_reach it never goes."""

    kept = (*LearnedPolicy.kept, "velocity", "power", "updates", "passed")

    class Options(LearnedPolicy.Options):
        tau_form: Literal["score", "paper"] = Field("score", description="τ's gradient: score function, or DHA's eq. 2")
        tau_reach: float = Field(1.0, gt=0, description="how far from uniform τ may go in the run: KL, in nats")
        tau_entropy: float = Field(0.05, ge=0, description="weight of the policy's entropy beside the loss")
        applied: float = Field(1.0, gt=0, le=1, description="share of the images that τ's operations are applied to")
        magnitude: float = Field(10.0, gt=0, le=10, description="largest magnitude of τ's operations, of at most 10")
        clean: float = Field(0.0, ge=0, lt=1, description="last share of the steps, without τ's operations")

    def __init__(self, *at: Any, **options: Any):
        super().__init__(*at, **options)
        k, reach, device = len(self.ops), self.options.tau_reach, self.generator.device
        if reach >= 2 * math.log(k):
            farthest = f"log {k**2} = {2 * math.log(k):.2f}, the distance of one pair of {k} operations from uniform"
            raise KitError(f"tau_reach={reach:g} is not below {farthest}: nothing would bound τ; use tau_reach=1")
        self.tau = torch.zeros(k, k, device=device)
        self.velocity = torch.zeros_like(self.tau)
        self.power, self.updates, self.passed = torch.zeros((), device=device), 0, 0
        # near uniform the KL divergence of logits τ is ‖τ‖² / 2 K²: a straight path of this step goes just as far
        self.step = math.sqrt(2 * reach) * k / max(1, self.steps)
        self.shrink = SHRINK.to(device)

    def variables(self) -> list[Tensor]:
        return [self.tau]

    def probabilities(self) -> Tensor:
        return self.tau.flatten().softmax(0).view_as(self.tau)

    def draw(self, n: int) -> Draw:
        k, g, device = len(self.ops), self.generator, self.generator.device
        uniform = torch.rand(n, k * k, generator=g, device=device).clamp_(min=1e-20)
        index = torch.sub(self.tau.flatten(), uniform.log_().neg_().log_(), out=uniform).argmax(dim=1)  # Gumbel-max
        ops, (on, level) = self.places[torch.stack([index // k, index % k], dim=1)], self.strength(n)
        if self.options.clean and self.passed >= (1 - self.options.clean) * self.steps:
            on = torch.zeros_like(on)
        magnitude = torch.rand(n, 2, generator=g, device=device) * level[:, None]
        ops = torch.where(on[:, None], ops, OPS.index("Identity"))
        return self.complete(ops, magnitude, index=index, choices=torch.stack([on, level], dim=1))

    def strength(self, n: int) -> tuple[Tensor, Tensor]:
        """For each of n images whether its pair is applied, bool [n], and the largest magnitude, float [n]."""
        g, device, chosen = self.generator, self.generator.device, self.options
        on = torch.ones(n, dtype=torch.bool, device=device)
        if chosen.applied < 1:
            on = torch.rand(n, generator=g, device=device) < chosen.applied
        return on, torch.full((n,), chosen.magnitude, device=device)

    def gradient(self, draw: Draw, *, losses: Tensor, **_: object) -> list[Tensor]:
        """Of minus the expected loss of the drawn pairs, minus the weighted entropy: float [K, K]."""
        self.count(draw)
        self.passed += 1
        p = self.probabilities().flatten()
        on = draw.choices[:, 0].to(p.dtype)  # the others' losses say nothing about their pairs
        losses = losses.to(p.dtype) * on
        if self.options.tau_form == "paper":  # of Σ_k p_k L_k (eq. 2): c_T is the sum of the losses that drew T
            c = torch.zeros_like(p).scatter_add_(0, draw.index, losses)
            climbed = p * (c - torch.dot(c, p))
        else:  # of Σ_T p_T L_T, unbiased: the mean of (L_k − the others' mean loss) ∇ log p(T_k)
            n = on.sum()
            advantage = on * (losses - losses.sum() / n.clamp(min=1)) / (n - 1).clamp(min=1)
            climbed = torch.zeros_like(p).scatter_add_(0, draw.index, advantage)
        by_entropy = -p * (p.log() - torch.dot(p, p.log()))  # of H(p)
        return [-(climbed + self.options.tau_entropy * by_entropy).view_as(self.tau)]

    @torch.no_grad()
    def move(self, gradient: list[Tensor]) -> None:
        for g in gradient:
            if self.options.tau_lr is not None:
                self.velocity.mul_(MOMENTUM).add_(g + DECAY * self.tau)
                self.tau.sub_(self.options.tau_lr * self.velocity)
            else:
                self.updates += 1
                self.velocity.lerp_(g, 1 - MOMENTUM)
                self.power.lerp_(g.square().sum(), 1 - POWER)
                length = (self.power / (1 - POWER**self.updates)).sqrt().clamp(min=1e-20)
                self.tau.sub_(self.step / (1 - MOMENTUM**self.updates) * self.velocity / length)
            self._bound()

    def _bound(self) -> None:
        """Draw the logits together by the smallest factor at which p is within `reach` of uniform."""
        p = (self.shrink[:, None] * (self.tau.flatten() - self.tau.mean())).softmax(1)
        kl = (p * p.clamp(min=1e-30).log()).sum(1) + math.log(p.shape[1])
        self.tau.mul_(self.shrink.take((kl <= self.options.tau_reach).int().argmax()))  # [i] would wait for a GPU

    def adopt(self, found: dict) -> None:
        self.tau.copy_(torch.tensor(found["probabilities"]).clamp(min=1e-30).log())
