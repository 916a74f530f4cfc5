"""Sparse coding of the architecture (DHA eq. 5–7, ISTA-NAS; METHOD section 2a)."""

import functools
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kit.arch.base import Searcher, register
from kit.arch.lasso import lasso
from kit.space.network import Child

WIDTH = 7  # m, the length of the compressed b: as many as there are operations on an edge
REACH = {"paper": 94.0, "server": 30.0, "laptop": 10.0}
BRINGS = {"arch_reach": REACH, "recover": {"paper": "step"}, "freeze_tol": {"paper": 1e-3}}
# int64 [slots, picks]; kept, since a GPU would have to be waited for with a copy in every step
_on_device = functools.lru_cache(8)(lambda picks, device: torch.tensor(picks, device=device))


@register("sparse-coding", title="Sparse coding (DHA, ISTA-NAS)", brings=BRINGS)
class SparseCoding(Searcher):
    """Each slot trains a short dense vector b; its α is the sparse vector that b compresses, recovered by the LASSO, of
    all slots, padded to the widest, in one batch. A child that breaks the limits is not taken: the last one stays."""

    draws = False
    weighs = True
    kept = (*Searcher.kept, "A", "alpha", "alpha_before", "moved", "picks")

    class Options(Searcher.Options):
        recover: Literal["step", "epoch"] = Field("epoch", description="when α is recovered from b")
        freeze_tol: float = Field(1e-2, ge=0, description="a node freezes when α's direction turns less in an epoch")
        b_std: float = Field(1e-3, gt=0, description="of b at the start (the public ISTA-NAS code: 1e-3)")
        lam: float = Field(1e-5, gt=0, description="λ of the LASSO")

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        self.A, slots = self.columns(), len(self.slots)
        b = torch.randn(slots, WIDTH, generator=self.generator, dtype=torch.float64) * self.options.b_std
        self.b = b.to(self.device)
        self.optimize(self.b)
        self.alpha = self.alpha_before = self.recovered()  # alpha_before: at the end of the epoch before
        self.moved = torch.full((slots,), torch.inf, dtype=torch.float64)
        self.picks = self.strongest(self.alpha.abs())

    def columns(self) -> Tensor:
        """A draw of A, float64 [slots, m, most candidates]: unit columns, so that no candidate starts with a larger
        weight; those of padding are zero, and so is their α."""
        slots, widest = self.valid.shape
        A = torch.randn(slots, WIDTH, widest, generator=self.generator, dtype=torch.float64)
        return (A / A.norm(dim=1, keepdim=True) * self.valid.unsqueeze(1)).to(self.device)

    def recovered(self, start: Tensor | None = None) -> Tensor:
        """α of b by the LASSO (eq. 6), which is solved on the CPU."""
        return lasso(self.A.cpu(), self.b.detach().cpu(), self.options.lam, start=start).to(self.device)

    def recover(self) -> None:
        """Take b's α up where it is open, and its entries of largest magnitude S where those keep to the limits."""
        if self.finished or not torch.isfinite(self.b).all():
            return  # the engine reports what is not finite
        alpha = self.recovered(self.alpha.cpu())
        alpha[self.frozen] = self.alpha[self.frozen]
        self.alpha, picks = alpha, self.largest(alpha.abs())
        if picks == self.picks or self.limits.allow(picks):
            self.picks = picks
        else:
            self.refused += 1

    def child(self) -> Child:
        # eq. 5 with E = AᵀA − I (eq. 7): w = bᵀA − αᵀE = (b − Aα)ᵀA + α
        rest = self.b.detach().unsqueeze(2) - self.A @ self.alpha.unsqueeze(2)
        w = (self.A.mT @ rest).squeeze(2) + self.alpha
        gates = w.gather(1, _on_device(self.picks, self.device)).float()
        return Child(self.picks, self.leaves(list(gates)))

    def sample(self) -> Child:
        if self.options.recover == "step":
            self.recover()
        return self.child()

    def derived(self) -> Child:
        return self.child().detached()  # with the gates that the weights are trained with

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂w per slot [picks]."""
        if self.finished:
            return []
        rests = torch.zeros(len(child.picks[0]), device=self.device)
        by_weight = torch.stack([rests if gate is None else gate for gate in gates]).to(torch.float64)
        # eq. 7, exact for constant α: ∂L/∂b = A_S ∂L/∂w_S
        columns = self.A.gather(2, _on_device(child.picks, self.device).unsqueeze(1).expand(-1, WIDTH, -1))
        return [(columns @ by_weight.unsqueeze(-1)).squeeze(-1)]

    def end_epoch(self, last: bool) -> list[int]:
        """Recover α, and return the slots where it has turned by no more than `freeze_tol` (all when `last`). The paper
        compares recoveries; α recovered in every step hardly moves in one, so here it is an epoch in both modes. And
        its direction: the normalization that follows a node takes the length out."""
        self.recover()
        before, now = (torch.nn.functional.normalize(alpha, dim=1) for alpha in (self.alpha_before, self.alpha))
        self.moved, self.alpha_before = (now - before).norm(dim=1).cpu(), self.alpha
        return super().end_epoch(last)

    def settled(self) -> Tensor:
        return self.moved <= self.options.freeze_tol

    def distributions(self) -> Tensor:
        return self.alpha.abs() / self.alpha.abs().sum(1, keepdim=True).clamp(min=1e-12)

    def summary(self) -> dict[str, float]:
        return super().summary() | {"alpha/change": float(self.moved.max())}
