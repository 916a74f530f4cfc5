"""Sparse coding of the architecture (DHA eq. 5–7, ISTA-NAS; METHOD section 2a)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kit.arch.base import ArchLearner, RateOptions, Setting, register, strongest_picks
from kit.arch.lasso import lasso
from kit.search.learner import adam_state, load_adam_state
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
class SparseCoding(ArchLearner):
    """α is never trained: each slot keeps a short dense b that is, and α is the sparse vector that b compresses.

    recover: "step" (DHA's Algorithm 1) or "epoch" (ISTA-NAS). lam: λ of the LASSO; freeze_tol: of the freeze. limits:
    children beyond them are not taken, the last admissible one stays. b moves by Adam; all slots are padded to the
    widest one and recovered in one batched LASSO.
    """

    weighs = True

    class Options(RateOptions):
        recover: Literal["step", "epoch"] = Field("epoch", description="when α is recovered from b")
        freeze_tol: float = Field(1e-2, ge=0, description="a node freezes when its α moves less than this in an epoch")
        b_std: float = Field(1e-3, gt=0, description="of b at the start (the public ISTA-NAS code: 1e-3)")
        lam: float = Field(1e-5, gt=0, description="λ of the LASSO")

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> SparseCoding:
        at.needs_choices("sparse-coding")
        c = at.config
        own = {"lr": at.lr, "std": c.b_std, "lam": c.lam, "recover": c.recover, "freeze_tol": c.freeze_tol}
        return cls(at.slots, at.generator, at.limits, device=at.device, **own, **settings)

    def __init__(
        self,
        slots: tuple[Slot, ...],
        generator: torch.Generator,
        limits: Limits,
        *,
        lr: float,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-3,
        lam: float = 1e-5,
        std: float = 1e-3,
        recover: str = "step",
        freeze_tol: float = 1e-3,
        device: torch.device | str = "cpu",
    ):
        self.slots, self.lam, self.recover, self.freeze_tol, self.limits = slots, lam, recover, freeze_tol, limits
        sizes = [len(slot.candidates) for slot in slots]
        self.valid = torch.arange(max(sizes)).unsqueeze(0) < torch.tensor(sizes).unsqueeze(1)
        A = torch.randn(len(slots), WIDTH, max(sizes), generator=generator, dtype=torch.float64)
        b = torch.randn(len(slots), WIDTH, generator=generator, dtype=torch.float64).mul_(std)
        self.device = torch.device(device)
        # unit columns: no candidate starts with a larger weight than another; padded columns are zero and recover to α
        # = 0
        self._set_A((A / A.norm(dim=1, keepdim=True)) * self.valid.unsqueeze(1))
        self.b = b.to(self.device, copy=True).requires_grad_()
        self.adam = torch.optim.Adam([self.b], lr=lr, betas=betas, weight_decay=weight_decay)
        self.frozen = torch.zeros(len(slots), dtype=torch.bool)
        self._open = self._mask()
        self.alpha = lasso(self.A.cpu(), b, lam).to(self.device)
        self.alpha_before = self.alpha.clone()
        self.picks = strongest_picks(slots, self.alpha.abs(), limits)
        self.refused = 0
        self.moved = torch.full((len(slots),), torch.inf, dtype=torch.float64, device=self.device)

    # ---- the contract ----------------------------------------------------------------------------

    def variables(self) -> list[Tensor]:
        return [self.b]

    def sample(self) -> Child:
        if self.recover == "step":
            self._recover()
        return Child(self.picks, self._gates())

    def derived(self) -> Child:
        """The architecture that stands, weighed as the weights have learned to expect."""
        gates = self._gates()
        return Child(self.picks, tuple(None if gate is None else gate.detach() for gate in gates))

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂w per slot [picks]. ∂L/∂b_j = A_{j,S} ∂L/∂w_{j,S}, exact for constant α (eq. 7)."""
        if not any(gate is not None for gate in gates):
            return []
        still = torch.zeros(len(child.picks[0]), device=self.device)
        weights = torch.stack([still if gate is None else gate for gate in gates]).to(torch.float64)
        return [(self._columns(child.picks) @ weights.unsqueeze(-1)).squeeze(-1)]

    def move(self, gradient: list[Tensor]) -> None:
        if not gradient:
            return
        self.b.grad = gradient[0]
        before = self.b.detach().clone()
        self.adam.step()
        with torch.no_grad():
            # Adam's momentum and decay must not move what is frozen
            self.b.copy_(torch.where(self._open, self.b, before))

    def end_epoch(self, last: bool) -> list[int]:
        """Recover, freeze what has settled (everything when `last`), and return the slots frozen now.

        The paper compares α between recoveries. Recovered after every step, α moves by less than any threshold from the
        first step on, so settling is judged over an epoch in both modes.
        """
        self._recover()
        self.moved = (self.alpha - self.alpha_before).norm(dim=1)
        self.alpha_before = self.alpha.clone()
        settled = (self.moved.cpu() <= self.freeze_tol) | last
        return torch.nonzero(settled & ~self.frozen).flatten().tolist()

    def freeze(self, slots: list[int]) -> None:
        self.frozen[slots] = True
        self._open = self._mask()

    @property
    def finished(self) -> bool:
        return bool(self.frozen.all())

    # ---- inside ----------------------------------------------------------------------------------

    def _recover(self) -> None:
        if self.finished:
            return
        # on the CPU: twenty small solves are a launch-bound trickle on a GPU
        b = self.b.detach().cpu()
        if not torch.isfinite(b).all():
            return  # broken gates break the loss: whoever looks at the losses names the step
        alpha = lasso(self.A.cpu(), b, self.lam, start=self.alpha.cpu()).to(self.device)
        self.alpha = torch.where(self._open, alpha, self.alpha)
        # S_j: the two entries of largest magnitude
        strongest = self.alpha.abs().cpu().masked_fill(~self.valid, -1.0)
        picks = tuple(
            self.picks[slot] if self.frozen[slot] else tuple(sorted(row[: self.slots[slot].takes]))
            for slot, row in enumerate(strongest.argsort(dim=1, descending=True, stable=True).tolist())
        )
        if picks == self.picks:
            return
        if self.limits.allow(picks):
            self.picks = picks
        else:
            self.refused += 1

    def weights(self) -> Tensor:
        """w = bᵀA − αᵀE (eq. 5 with eq. 7's E), for every candidate: float64 [slots, candidates]; only the kept ones
        are used.
        """
        b = self.b.detach()
        return (b.unsqueeze(1) @ self.A).squeeze(1) - (self.alpha.unsqueeze(1) @ self.E).squeeze(1)

    def _gates(self) -> tuple[Tensor | None, ...]:
        if self.finished:
            return (None,) * len(self.slots)
        picked = self.weights().gather(1, self._index(self.picks)).float()
        # every slot's gate is a leaf of its own, so that one backward pass gives each its gradient
        return tuple(
            None if frozen else picked[slot].clone().requires_grad_()
            for slot, frozen in enumerate(self.frozen.tolist())
        )

    def _mask(self) -> Tensor:
        """bool [slots, 1] on the device: which slots are not frozen."""
        return (~self.frozen).unsqueeze(1).to(self.device)

    def _set_A(self, A: Tensor) -> None:
        self.A = A.to(self.device)
        self.E = self.A.mT @ self.A - torch.eye(A.shape[-1], dtype=torch.float64, device=self.device)
        self._columns_of: tuple[Picks, Tensor] | None = None

    def _index(self, picks: Picks) -> Tensor:
        return torch.tensor(picks, device=self.device)

    def _columns(self, picks: Picks) -> Tensor:
        """A_{j,S} for all slots: float64 [slots, WIDTH, picks]; kept while the child stays the same."""
        if self._columns_of is None or self._columns_of[0] != picks:
            index = self._index(picks).unsqueeze(1).expand(-1, WIDTH, -1)
            self._columns_of = (picks, self.A.gather(2, index))
        return self._columns_of[1]

    def state_dict(self) -> dict:
        return {
            "A": self.A,
            "b": self.b.detach(),
            "alpha": self.alpha,
            "alpha_before": self.alpha_before,
            "frozen": self.frozen,
            "moved": self.moved,
            "picks": [list(p) for p in self.picks],
            "refused": self.refused,
            "adam": adam_state(self.adam),
        }

    def load_state_dict(self, state: dict) -> None:
        self._set_A(state["A"])
        with torch.no_grad():
            self.b.copy_(state["b"])
        self.alpha, self.alpha_before, self.moved = (
            state[name].to(self.device, copy=True) for name in ("alpha", "alpha_before", "moved")
        )
        self.frozen = state["frozen"].cpu().clone()
        self._open = self._mask()
        self.picks = tuple(tuple(p) for p in state["picks"])
        self.refused = state["refused"]
        load_adam_state(self.adam, state["adam"])

    def summary(self) -> dict[str, float]:
        names = [self.slots[s].candidates[c][0] for s, chosen in enumerate(self.picks) for c in chosen]
        share = self.alpha.abs() / self.alpha.abs().sum(1, keepdim=True).clamp(min=1e-12)
        entropy = -(share * share.clamp(min=1e-12).log()).sum(1)
        return {
            "alpha/frozen": float(self.frozen.sum()),
            "alpha/change": float(self.moved.max()),
            "alpha/entropy": float(entropy.mean()),
            "alpha/skips": names.count("skip_connect") / len(names),
            "alpha/refused": float(self.refused),
        }
