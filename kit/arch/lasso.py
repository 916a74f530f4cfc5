"""LASSO for many small problems at once: sparse recovery of the architecture (DHA eq. 6, ISTA-NAS; METHOD section 2a).

`homotopy` follows the exact solution path in λ, for the whole batch at once: about twenty small solves for the 7×35
problems of the cell space at λ = 1e-5. `least_distance` solves the degenerate ones, whose path is not unique. The
papers' iterative shrinkage-thresholding needs tens of thousands of steps there.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from kit.errors import KitError


def lasso(A: Tensor, b: Tensor, lam: float = 1e-5, tol: float = 1e-9, start: Tensor | None = None) -> Tensor:
    """argmin_α ½‖A α − b‖² + λ‖α‖₁ for a batch of problems.

    A: float [..., m, n]; b: float [..., m]; start: [..., n], a warm start: where its support and signs still hold, one
    solve suffices. Columns of zeros are allowed (padding); their α is 0. tol: largest allowed `violation` of the
    optimality conditions, in the units of Aᵀb. Returns α [..., n] in the dtype of A; computed in float64. Raises
    KitError on wrong shapes, negative λ, non-finite input, or when tol is not reached.
    """
    if A.ndim < 2 or b.shape != A.shape[:-1] or not lam >= 0:
        raise KitError(f"lasso needs A [..., m, n], b [..., m], λ ≥ 0; got {list(A.shape)}, {list(b.shape)}, {lam}")
    if not (torch.isfinite(A).all() and torch.isfinite(b).all()):
        raise KitError("lasso needs finite A and b")
    dtype, shape = A.dtype, A.shape
    A, b = A.double().reshape(-1, *shape[-2:]), b.double().reshape(-1, shape[-2])
    alpha = torch.zeros(len(A), shape[-1], dtype=torch.float64, device=A.device)
    if start is not None:
        alpha = solve_on_support(A, b, start.double().reshape(alpha.shape), lam)
    # the conditions cannot be met more exactly than rounding in Aᵀb allows
    tol = max(tol, 1e-13 * float(_times(A.mT, b).abs().max()))
    for solver in (homotopy, least_distance):
        wrong = ~(violation(A, b, alpha, lam) <= tol)
        if not wrong.any():
            break
        alpha[wrong] = solver(A[wrong], b[wrong], lam)
    else:
        if not (worst := violation(A, b, alpha, lam).max()) <= tol:
            raise KitError(f"lasso reached a violation of {worst:.1e}, not tol={tol:.1e}: raise tol or λ")
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
    columns: check it."""
    alpha = torch.zeros(len(A), A.shape[-1], dtype=A.dtype, device=A.device)
    correlation = _times(A.mT, b)
    level = correlation.abs().amax(dim=-1, keepdim=True)
    active = (correlation.abs() >= level) & (level > 0)
    signs = correlation.sign() * active
    left = torch.zeros_like(active)  # the entry that left at the last knot sits on the boundary: it must not rejoin yet
    far = torch.full_like(alpha, torch.inf)
    for _ in range(8 * A.shape[-1]):
        remaining = (level - lam).clamp(min=0)
        if not (remaining > 0).any():
            break
        direction = _solve_active(A, active, signs)
        slope = _times(A.mT, _times(A, direction))
        rest = ~active & ~left
        up = torch.where(rest & (1 - slope > 1e-14), (level - correlation) / (1 - slope), far).clamp(min=0)
        down = torch.where(rest & (1 + slope > 1e-14), (level + correlation) / (1 + slope), far).clamp(min=0)
        leave = torch.where(active & (alpha * direction < 0), -alpha / direction, far)
        knot, which = torch.stack([up, down, leave], dim=-1).flatten(1).min(dim=-1, keepdim=True)
        gamma = torch.minimum(knot, remaining)
        alpha = alpha + gamma * direction
        level, correlation = level - gamma, correlation - gamma * slope
        changed = torch.zeros_like(active).scatter(1, which // 3, knot < remaining)
        kind = which % 3  # up, down, leave
        left, joined = changed & (kind == 2), changed & (kind < 2)
        active = (active | joined) & ~left
        signs = torch.where(joined, 1.0 - 2.0 * kind, signs) * active
        alpha = alpha * active
    return alpha


def least_distance(A: Tensor, b: Tensor, lam: float) -> Tensor:
    """The exact solution by the dual, one problem at a time: Aα is b less its projection on {r: |Aᵀr| ≤ λ}, which
    non-negative least squares gives (Lawson & Hanson 1974, chapter 23). float64 [B, n]."""
    solutions = []
    for columns, target in zip(A.cpu().numpy(), b.cpu().numpy()):
        signed = np.concatenate([columns, -columns], axis=1)
        level = np.abs(columns.T @ target).max()
        excess = (signed.T @ target - lam) / level
        rows, right = np.vstack([-signed, excess]), np.append(np.zeros(len(target)), 1.0)
        u, _ = optimize.nnls(rows, right, maxiter=100 * len(excess))
        up, down = level / (1 - excess @ u) * u.reshape(2, -1)
        solutions.append(up - down)
    return solve_on_support(A, b, torch.from_numpy(np.stack(solutions)).to(A.device), lam)


def solve_on_support(A: Tensor, b: Tensor, alpha: Tensor, lam: float) -> Tensor:
    """The exact minimiser that has α's support and signs; α itself where that is no improvement."""
    solution = _solve_active(A, alpha != 0, _times(A.mT, b) - lam * alpha.sign())
    better = (solution.sign() == alpha.sign()).all(-1) & (violation(A, b, solution, lam) <= violation(A, b, alpha, lam))
    return torch.where(better.unsqueeze(-1), solution, alpha)


def _solve_active(A: Tensor, active: Tensor, right: Tensor) -> Tensor:
    """x with A_Sᵀ A_S x_S = right_S on the active set S, zero elsewhere; zero where the system is singular."""
    masked = A * active.unsqueeze(-2)
    system = masked.mT @ masked + torch.diag_embed((~active).to(A.dtype))
    solution, info = torch.linalg.solve_ex(system, right * active)
    usable = (info == 0).unsqueeze(-1) & torch.isfinite(solution)
    return torch.where(usable & active, solution, 0.0)


def _times(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)
