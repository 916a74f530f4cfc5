"""Sparse coding of the architecture (DHA eq. 5–7, ISTA-NAS; METHOD section 2a)."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kit.arch.base import Searcher, register
from kit.errors import KitError
from kit.space.network import Child

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
    kept = (*Searcher.kept, "A", "alpha", "alpha_before", "moved", "picks")

    class Options(Searcher.Options):
        recover: Literal["step", "epoch"] = Field("epoch", description="when α is recovered from b")
        freeze_tol: float = Field(1e-2, ge=0, description="a node freezes when its α moves less than this in an epoch")
        b_std: float = Field(1e-3, gt=0, description="of b at the start (the public ISTA-NAS code: 1e-3)")
        lam: float = Field(1e-5, gt=0, description="λ of the LASSO")

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        slots, widest = self.valid.shape
        A = torch.randn(slots, WIDTH, widest, generator=self.generator, dtype=torch.float64)
        b = torch.randn(slots, WIDTH, generator=self.generator, dtype=torch.float64) * self.options.b_std
        # unit columns, so that no candidate starts with a larger weight; columns of padding are zero, and so is their α
        self.A = (A / A.norm(dim=1, keepdim=True) * self.valid.unsqueeze(1)).to(self.device)
        self.b = b.to(self.device)
        self.optimize(self.b)
        self.alpha = self.alpha_before = self.recovered()  # alpha_before: at the end of the epoch before
        self.moved = torch.full((slots,), torch.inf, dtype=torch.float64)
        self.picks = self.strongest(self.alpha.abs())

    def recovered(self, start: Tensor | None = None) -> Tensor:
        """α of b by the LASSO (eq. 6): on the CPU, for twenty small solves are bound by kernel launches on a GPU."""
        A, b = self.A.cpu(), self.b.detach().cpu()
        return lasso(A, b, self.options.lam, start=start).to(self.device)

    def recover(self) -> None:
        """Take b's α up where it is open, and its entries of largest magnitude S where those keep to the limits."""
        if self.finished or not torch.isfinite(self.b).all():
            return  # the engine reports what is not finite
        alpha = self.recovered(self.alpha.cpu())
        alpha[self.frozen] = self.alpha[self.frozen]
        self.alpha = alpha
        picks = self.largest(alpha.abs())
        if picks == self.picks or self.limits.allow(picks):
            self.picks = picks
        else:
            self.refused += 1

    def child(self) -> Child:
        # eq. 5 with E = AᵀA − I (eq. 7): w = bᵀA − αᵀE = (b − Aα)ᵀA + α
        rest = self.b.detach().unsqueeze(2) - self.A @ self.alpha.unsqueeze(2)
        w = (self.A.mT @ rest).squeeze(2) + self.alpha
        gates = w.gather(1, torch.tensor(self.picks, device=self.device)).float()
        return Child(self.picks, self.leaves(list(gates)))

    def sample(self) -> Child:
        if self.options.recover == "step":
            self.recover()
        return self.child()

    def derived(self) -> Child:
        """The current architecture, with the gates that the weights are trained with."""
        return self.child().detached()

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂w per slot [picks]."""
        if self.finished:
            return []
        rests = torch.zeros(len(child.picks[0]), device=self.device)
        by_weight = torch.stack([rests if gate is None else gate for gate in gates]).to(torch.float64)
        # eq. 7, exact for constant α: ∂L/∂b = A_S ∂L/∂w_S
        index = torch.tensor(child.picks, device=self.device)
        columns = self.A.gather(2, index.unsqueeze(1).expand(-1, WIDTH, -1))
        return [(columns @ by_weight.unsqueeze(-1)).squeeze(-1)]

    def end_epoch(self, last: bool) -> list[int]:
        """Recover α, and return the slots whose α has moved by no more than `freeze_tol` (all when `last`).

        The paper compares α between recoveries. Recovered after every step, α moves by less than any threshold from the
        first step on, so movement is measured over an epoch in both modes.
        """
        self.recover()
        self.moved, self.alpha_before = (self.alpha - self.alpha_before).norm(dim=1).cpu(), self.alpha
        return super().end_epoch(last)

    def settled(self) -> Tensor:
        return self.moved <= self.options.freeze_tol

    def distributions(self) -> Tensor:
        return self.alpha.abs() / self.alpha.abs().sum(1, keepdim=True).clamp(min=1e-12)

    def summary(self) -> dict[str, float]:
        return super().summary() | {"alpha/change": float(self.moved.max())}


# ---- the LASSO -----------------------------------------------------------------------------------


def lasso(A: Tensor, b: Tensor, lam: float = 1e-5, tol: float = 1e-9, start: Tensor | None = None) -> Tensor:
    """argmin_α ½‖A α − b‖² + λ‖α‖₁ for a batch of problems, exactly.

    A: float [..., m, n]; b: float [..., m]; start: [..., n], a warm start: where its support and signs still hold, one
    solve suffices. Columns of zeros are allowed (padding); their α is 0. tol: largest allowed `violation` of the
    optimality conditions, in the units of Aᵀb. Returns α [..., n] in the dtype of A; computed in float64. Raises
    KitError on wrong shapes, negative λ, non-finite input, or where tol is not reached.
    """
    if A.ndim < 2 or b.shape != A.shape[:-1]:
        raise KitError(f"lasso needs A [..., m, n] and b [..., m]; got A {tuple(A.shape)} and b {tuple(b.shape)}")
    if not lam >= 0:
        raise KitError(f"lasso needs λ ≥ 0, got {lam}")
    if not (torch.isfinite(A).all() and torch.isfinite(b).all()):
        raise KitError("lasso needs finite A and b")
    dtype, shape = A.dtype, A.shape
    A, b = A.double().reshape(-1, *shape[-2:]), b.double().reshape(-1, shape[-2])
    alpha = torch.zeros(len(A), shape[-1], dtype=torch.float64, device=A.device)
    if start is not None:
        alpha = solve_on_support(A, b, start.double().reshape(alpha.shape), lam)
    # the conditions cannot be met more exactly than rounding in Aᵀb allows
    tol = max(tol, 1e-13 * float(_times(A.mT, b).abs().max()))
    if (wrong := ~(violation(A, b, alpha, lam) <= tol)).any():
        alpha[wrong] = homotopy(A[wrong], b[wrong], lam)
    if (wrong := ~(violation(A, b, alpha, lam) <= tol)).any():
        # tied columns, of which the path takes any: of slightly different lengths, they come one after another
        A, b, tilt = A[wrong], b[wrong], 1 - 1e-9 * torch.arange(shape[-1], dtype=A.dtype, device=A.device)
        path = homotopy(A * tilt, b, lam) if lam else _times(torch.linalg.pinv(A), b)
        alpha[wrong] = solve_on_support(A, b, path, lam)
        if not (worst := float(violation(A, b, alpha[wrong], lam).max())) <= tol:
            raise KitError(f"lasso: violation {worst:.1e} > tol {tol:.1e}; raise tol or λ")
    return alpha.reshape(*shape[:-2], shape[-1]).to(dtype)


def violation(A: Tensor, b: Tensor, alpha: Tensor, lam: float) -> Tensor:
    """How far α [B, n] is from optimal, per problem [B]: 0 exactly when 0 ∈ Aᵀ(Aα − b) + λ ∂‖α‖₁ (largest residual)."""
    gradient = _times(A.mT, _times(A, alpha) - b)
    inactive = (gradient.abs() - lam).clamp(min=0)
    active = (gradient + lam * alpha.sign()).abs()
    return torch.where(alpha == 0, inactive, active).amax(dim=-1)


def homotopy(A: Tensor, b: Tensor, lam: float) -> Tensor:
    """The exact solution by its path from λ = ‖Aᵀb‖∞ (where it is 0) down to `lam`: piecewise linear, one entry joins
    or leaves at each knot (Osborne, Presnell & Turlach 2000; Efron et al. 2004). float64 [B, n]; not reliable for tied
    columns. About twenty small solves for the cell space at λ = 1e-5, where the papers' shrinkage takes 10⁴ steps."""
    alpha = torch.zeros(len(A), A.shape[-1], dtype=A.dtype, device=A.device)
    correlation = _times(A.mT, b)
    level = correlation.abs().amax(dim=-1, keepdim=True)
    active = (correlation.abs() >= level) & (level > 0)
    signs = correlation.sign() * active
    left = torch.zeros_like(active)  # the entry that left at the last knot sits on the boundary: it must not rejoin yet
    far = torch.full_like(alpha, torch.inf)
    for _ in range(8 * A.shape[-1]):
        remaining = (level - lam).clamp(min=0)
        if not bool((remaining > 0).any()):
            break
        direction = _solve_active(A, active, signs)
        slope = _times(A.mT, _times(A, direction))
        rest = ~active & ~left
        up = torch.where(rest & (1 - slope > 1e-14), (level - correlation) / (1 - slope), far)
        down = torch.where(rest & (1 + slope > 1e-14), (level + correlation) / (1 + slope), far)
        leave = torch.where(active & (alpha * direction < 0), -alpha / direction, far)
        moves = torch.stack([up.clamp(min=0), down.clamp(min=0), leave], dim=-1).flatten(1)
        knot, which = moves.min(dim=-1, keepdim=True)
        last = knot >= remaining
        gamma = torch.minimum(knot, remaining)
        alpha = alpha + gamma * direction
        level = level - gamma
        correlation = correlation - gamma * slope
        chosen = torch.zeros_like(active).scatter(1, which // 3, True) & ~last
        kind = which % 3
        left = chosen & (kind == 2)
        joined = chosen & (kind < 2)
        active = (active | joined) & ~left
        signs = torch.where(joined, torch.where(kind == 0, 1.0, -1.0).to(signs.dtype), signs) * active
        alpha = alpha * active
    return alpha


def solve_on_support(A: Tensor, b: Tensor, alpha: Tensor, lam: float) -> Tensor:
    """The exact minimiser that has α's support and signs; α itself where that is no improvement."""
    active = alpha != 0
    solution = _solve_active(A, active, _times(A.mT, b) - lam * alpha.sign())
    better = (solution.sign() == alpha.sign()).all(-1) & (violation(A, b, solution, lam) <= violation(A, b, alpha, lam))
    return torch.where(better.unsqueeze(-1), solution, alpha)


def _solve_active(A: Tensor, active: Tensor, right: Tensor) -> Tensor:
    """x with A_Sᵀ A_S x_S = right_S on the active set S, zero elsewhere; zero where the system is singular."""
    masked = A * active.unsqueeze(-2)
    system = masked.mT @ masked + torch.diag_embed((~active).to(A.dtype))
    solution, info = torch.linalg.solve_ex(system, (right * active).unsqueeze(-1))
    usable = (info == 0).unsqueeze(-1) & torch.isfinite(solution.squeeze(-1))
    return torch.where(usable & active, solution.squeeze(-1), torch.zeros_like(right))


def _times(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)
