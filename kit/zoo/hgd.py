"""Hypergradient descent of the learning rate (Baydin et al. 2018), one of AutoHAS's comparisons (its Fig. 2)."""

import torch
from torch import Tensor

from kit.hyper import LookAhead, register
from kit.methods import TRAIN
from kit.methods import register as register_method
from kit.search.grads import Gradient, Trace


@register("hgd", title="Hypergradient descent of the learning rate", brings={"hyper_lr": 0.01})
class Hgd(LookAhead):
    """On the learning rate alone, in its multiplicative form: −∂L(θ')/∂lr = ⟨g', v'⟩ is divided by both norms, so that
    hyper_lr is a relative change of the rate, lr ← lr · exp(hyper_lr · cos(g', v'))."""

    optimizer = torch.optim.SGD

    @torch.no_grad()
    def by_log(self, trace: Trace, outer: Gradient) -> list[Tensor]:
        velocity = {id(p): v for p, v in zip(trace.parameters, trace.momentum)}
        pairs = [(g, velocity[id(p)]) for p, g in zip(outer.parameters, outer.theta) if id(p) in velocity]
        product = lambda terms: sum((a * b).sum() for a, b in terms)
        norms = product((g, g) for g, _ in pairs).sqrt() * product((v, v) for _, v in pairs).sqrt()
        cosine = product(pairs) / norms.clamp(min=1e-30)
        return [torch.stack([-cosine, torch.zeros_like(cosine)]).to(self.log.dtype)]


register_method(
    "hgd", "Hypergradient descent of lr on MobileNetV2", arch="given", stages=TRAIN, hyper="hgd", space="mobile"
)
