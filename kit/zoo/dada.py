"""DADA (Li et al. 2020): a policy by RELAX (Grathwohl et al. 2018). Its error in DAAS's Table 5: WRN-40-2 3.6 on
CIFAR-10 and 20.9 on CIFAR-100, WRN-28-10 2.7 and 17.5, PyramidNet 1.7 and 11.2."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kit.augment import DAAS_OPS, OPS, Draw, LearnedPolicy, register
from kit.augment.policy import share
from kit.methods import DAAS_GIVEN
from kit.methods import register as register_method
from kit.search import ranks
from kit.search.learner import Adam

TEMPERATURE, BEST, NOTHING = 0.5, 25, OPS.index("Identity")  # of the relaxation; sub-policies of the retraining


def relax(log_p: Tensor, z: Tensor, f: Tensor, phi: Tensor, uniform: Tensor) -> Tensor:
    """A sum over n draws whose gradient by log_p estimates that of Σ_k E f_k without bias, for any φ. log_p: of C
    categories, float [n, C], differentiable; z: with the Gumbel noise by which the draw is its arg max; f: float [n],
    what the draws gave; phi: [n, C], of the control variate c(z) = ⟨φ, softmax(z / 0.5)⟩; uniform: [n, C] in (0, 1),
    for z̃, which has the same arg max."""
    drawn, v = z.argmax(1, keepdim=True), -uniform.log()
    largest = v.gather(1, drawn)
    again = -(v / log_p.exp().clamp(min=1e-30) + largest).log().scatter(1, drawn, largest.log())
    c = lambda x: ((x / TEMPERATURE).softmax(1) * phi).sum(1)
    score = (f - c(again.detach())) * log_p.gather(1, drawn).squeeze(1)
    return (score + c(log_p + (z - log_p).detach()) - c(again)).sum()


@register("dada", title="DADA", colour="#D55E00", brings={"tau_lr": {"paper": 5e-3, "server": 5e-3, "laptop": 2e-2}})
class Dada(LearnedPolicy):
    """Logits of ordered pairs [K²], and for each its operations' being left out or applied [K², 2, 2] and magnitudes
    [K², 2]; φ of the first two descends the estimate's variance. The loss is L_val one step ahead, by DAAS's derivative
    of each image. DADA moves magnitudes by the image's gradient, which policies are not given here: one is drawn from
    N(m, 1), and m moved by its score function. Retraining draws the 25 likeliest pairs alike."""

    needs = frozenset({"val"})
    usual_ops = DAAS_OPS

    def __init__(self, *at: Any, **options: Any):
        super().__init__(*at, **options)
        k, device = len(self.ops) ** 2, self.generator.device
        leaves = [torch.zeros(k, *rest, device=device, requires_grad=True) for rest in ((), (2, 2), (2,), (), (2, 2))]
        self.pi, self.on, self.level, self.phi, self.phi_on = leaves
        self.adam = Adam(leaves, lr=self.options.tau_lr or 5e-3, betas=(0.5, 0.999))

    def probabilities(self) -> Tensor:
        return self.pi.softmax(0).view(len(self.ops), -1)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device).clamp(1e-20, 1 - 1e-7)

    @torch.no_grad()
    def draw(self, n: int, index: Tensor | None = None) -> Draw:
        k, gumbel = len(self.ops), lambda *shape: -(-self.uniform(*shape).log()).log()
        z = self.pi.log_softmax(0) + gumbel(n, k * k)
        index = z.argmax(1) if index is None else index
        z_on = self.on[index].log_softmax(2) + gumbel(n, 2, 2)
        noise = torch.randn(n, 2, generator=self.generator, device=z.device)
        ops = torch.where(z_on.argmax(2) == 1, self.places[torch.stack([index // k, index % k], 1)], NOTHING)
        magnitude = (10 * self.level[index].sigmoid() + noise).clamp(0, 10)
        return self.complete(ops, magnitude, index=index, choices=torch.cat([z, z_on.flatten(1), noise], 1))

    def derived(self, n: int) -> Draw:
        whole, best = n * ranks.count(), self.pi.topk(min(BEST, len(self.pi))).indices
        return share(self.draw(whole, best[(self.uniform(whole) * len(best)).long()]))

    def gradient(self, draw: Draw, *, rewards: Callable[[], Tensor], **_: object) -> list[Tensor]:
        self.count(draw)
        f, index = -rewards().to(self.pi.dtype), draw.index  # L_val's derivative along the step, but for its length
        n, (z, z_on, noise) = len(f), draw.choices.split([len(self.pi), 4, 2], dim=1)
        pairs = relax(self.pi.log_softmax(0).expand_as(z), z, f, self.phi.expand_as(z), self.uniform(*z.shape))
        log_on, phi_on = self.on[index].flatten(0, 1).log_softmax(1), self.phi_on[index].flatten(0, 1)
        applied = relax(log_on, z_on.reshape(-1, 2), f.repeat_interleave(2), phi_on, self.uniform(2 * n, 2))
        levels = ((f - f.mean())[:, None] * noise * 10 * self.level[index].sigmoid()).sum() / max(1, n - 1)
        gradients = torch.autograd.grad((pairs + applied) / n + levels, self.variables()[:3], create_graph=True)
        variance = sum(g.square().sum() for g in gradients[:2])  # and the mean's square, which φ does not move
        return [*(g.detach() for g in gradients), *torch.autograd.grad(variance, [self.phi, self.phi_on])]

    @torch.no_grad()
    def adopt(self, found: dict) -> None:
        self.pi.copy_(torch.tensor(found["probabilities"]).flatten().clamp(min=1e-30).log())
        self.on.copy_(torch.tensor(found["apply"]).clamp(min=1e-30).log())
        self.level.copy_(torch.tensor(found["magnitude"]).div(10).clamp(1e-7, 1 - 1e-7).logit())

    @torch.no_grad()
    def snapshot(self) -> dict[str, Tensor]:
        return super().snapshot() | {"apply": self.on.softmax(2).cpu(), "magnitude": 10 * self.level.sigmoid().cpu()}


register_method("dada", "DADA: DA by RELAX, retrained", arch="given", stages=DAAS_GIVEN, augment="dada")
