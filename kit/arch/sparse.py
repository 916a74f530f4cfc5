"""Sparse coding of the architecture (DHA eq. 5–7, ISTA-NAS; METHOD section 2a)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kit.arch.base import RateOptions, Searcher, register, strongest_picks
from kit.arch.lasso import lasso
from kit.space.limits import Limits
from kit.space.network import Child, Picks, Slot

WIDTH = 7  # m, the length of the compressed b: as many as there are operations on an edge


@register(
    "sparse-coding",
    title="Sparse coding (DHA, ISTA-NAS)",
    brings={
        "arch_reach": {"paper": 94.0, "server": 30.0, "laptop": 10.0},
        "recover": {"paper": "step"},
        "freeze_tol": {"paper": 1e-3},
    },
)
class SparseCoding(Searcher):
    """Each slot trains a short dense vector b; its α is the sparse vector that b compresses, recovered by the LASSO.

    All slots are padded to the widest one and recovered in one batch. A recovered child that breaks the limits is not
    taken: the last one within them stays.
    """

    weighs = True

    class Options(RateOptions):
        recover: Literal["step", "epoch"] = Field("epoch", description="when α is recovered from b")
        freeze_tol: float = Field(1e-2, ge=0, description="a node freezes when its α moves less than this in an epoch")
        b_std: float = Field(1e-3, gt=0, description="of b at the start (the public ISTA-NAS code: 1e-3)")
        lam: float = Field(1e-5, gt=0, description="λ of the LASSO")

    def __init__(self, slots: tuple[Slot, ...], generator: torch.Generator, limits: Limits, **settings: Any):
        super().__init__(slots, generator, limits, **settings)
        A = torch.randn(len(slots), WIDTH, self.valid.shape[1], generator=generator, dtype=torch.float64)
        b = torch.randn(len(slots), WIDTH, generator=generator, dtype=torch.float64).mul_(self.options.b_std)
        # unit columns, so that no candidate starts with a larger weight; columns of padding are zero, and so is their α
        self._set_dictionary(A / A.norm(dim=1, keepdim=True) * self.valid.unsqueeze(1))
        self.b = self.optimize(b.to(self.device))
        self.alpha = lasso(self.A.cpu(), b.detach(), self.options.lam).to(self.device)
        self.alpha_before = self.alpha.clone()  # at the end of the epoch before
        self.moved = torch.full((len(slots),), torch.inf, dtype=torch.float64, device=self.device)
        self.picks = strongest_picks(slots, self.alpha.abs(), limits)

    def sample(self) -> Child:
        if self.options.recover == "step":
            self._recover()
        return Child(self.picks, self.leaves(self._gates()))

    def derived(self) -> Child:
        """The current architecture, with the gates that the weights are trained with."""
        gates = zip(self._gates(), self.frozen.tolist())
        return Child(self.picks, tuple(None if frozen else gate for gate, frozen in gates))

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂w per slot [picks]. ∂L/∂b_j = A_{j,S} ∂L/∂w_{j,S}, exact for constant α (eq. 7)."""
        if self.finished:
            return []
        frozen = torch.zeros(len(child.picks[0]), device=self.device)
        by_weight = torch.stack([frozen if gate is None else gate for gate in gates]).to(torch.float64)
        columns = self.A.gather(2, self._index(child.picks).unsqueeze(1).expand(-1, WIDTH, -1))
        return [(columns @ by_weight.unsqueeze(-1)).squeeze(-1)]

    def end_epoch(self, last: bool) -> list[int]:
        """Recover α, and return the slots whose α has moved by no more than `freeze_tol` (all when `last`).

        The paper compares α between recoveries. Recovered after every step, α moves by less than any threshold from the
        first step on, so movement is measured over an epoch in both modes.
        """
        self._recover()
        self.moved = (self.alpha - self.alpha_before).norm(dim=1)
        self.alpha_before = self.alpha.clone()
        return super().end_epoch(last)

    def settled(self) -> Tensor:
        return self.moved.cpu() <= self.options.freeze_tol

    def weights(self) -> Tensor:
        """w = bᵀA − αᵀE (eq. 5, with the E of eq. 7) of every candidate: float64 [slots, most candidates]."""
        b = self.b.detach()
        return (b.unsqueeze(1) @ self.A).squeeze(1) - (self.alpha.unsqueeze(1) @ self.E).squeeze(1)

    def distributions(self) -> Tensor:
        return self.alpha.abs() / self.alpha.abs().sum(1, keepdim=True).clamp(min=1e-12)

    def summary(self) -> dict[str, float]:
        return super().summary() | {"alpha/change": float(self.moved.max())}

    def _gates(self) -> list[Tensor]:
        return list(self.weights().gather(1, self._index(self.picks)).float())

    def _recover(self) -> None:
        # on the CPU: twenty small solves are bound by kernel launches on a GPU
        b = self.b.detach().cpu()
        if self.finished or not torch.isfinite(b).all():
            return  # the engine reports what is not finite
        alpha = lasso(self.A.cpu(), b, self.options.lam, start=self.alpha.cpu()).to(self.device)
        self.alpha = torch.where(self.open_rows(), alpha, self.alpha)
        # S_j: the entries of largest magnitude
        strongest = self.alpha.abs().cpu().masked_fill(~self.valid, -1.0)
        picks = tuple(
            self.picks[slot] if self.frozen[slot] else tuple(sorted(row[: self.slots[slot].takes]))
            for slot, row in enumerate(strongest.argsort(dim=1, descending=True, stable=True).tolist())
        )
        if picks == self.picks or self.limits.allow(picks):
            self.picks = picks
        else:
            self.refused += 1

    def _set_dictionary(self, A: Tensor) -> None:
        self.A = A.to(self.device)
        self.E = self.A.mT @ self.A - torch.eye(A.shape[-1], dtype=torch.float64, device=self.device)

    def _index(self, picks: Picks) -> Tensor:
        return torch.tensor(picks, device=self.device)

    def state_dict(self) -> dict:
        own = {"A": self.A, "alpha": self.alpha, "alpha_before": self.alpha_before, "moved": self.moved}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._set_dictionary(state["A"])
        for name in ("alpha", "alpha_before", "moved"):
            setattr(self, name, state[name].to(self.device, copy=True))
