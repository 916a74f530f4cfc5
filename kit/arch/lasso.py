"""LASSO for a few small problems: sparse recovery of the architecture (DHA eq. 6, ISTA-NAS; METHOD section 2a)."""

import numpy as np
import scipy  # loads its parts when they are first used
import torch
from torch import Tensor

from kit.errors import KitError


def lasso(A: Tensor, b: Tensor, lam=1e-5, tol=1e-9, start: Tensor | None = None) -> Tensor:
    """argmin_α ½‖A α − b‖² + λ‖α‖₁ for a batch of problems.

    A: float [..., m, n]; b: float [..., m]; start: [..., n], a warm start: where its support and signs still hold, one
    solve suffices. Columns of zeros are allowed (padding); their α is 0. tol: largest `violation` of the optimality
    conditions, in the units of Aᵀb. Returns α [..., n] in the dtype of A; computed in float64, anew on the CPU. Raises
    KitError on wrong shapes, negative λ, non-finite input, or where tol is not reached."""
    finite = torch.isfinite(A).all() and torch.isfinite(b).all()
    if A.ndim < 2 or b.shape != A.shape[:-1] or not lam >= 0 or not finite:
        given = f"{tuple(A.shape)} and {tuple(b.shape)}, {'' if finite else 'not '}finite, λ = {lam}"
        raise KitError(f"lasso needs finite A [..., m, n] and b [..., m], and λ ≥ 0; got {given}")
    dtype, shape = A.dtype, A.shape
    A, b = A.detach().double().reshape(-1, *shape[-2:]), b.detach().double().reshape(-1, shape[-2])
    alpha = torch.zeros(len(A), shape[-1], dtype=torch.float64, device=A.device)
    if start is not None:
        alpha = solve_on_support(A, b, start.double().reshape(alpha.shape), lam)
    # the conditions cannot be met more exactly than rounding in Aᵀb allows
    tol = max(tol, 1e-13 * float(_apply(A.mT, b).abs().max()))
    for i in (~(violation(A, b, alpha, lam) <= tol)).nonzero().flatten().tolist():
        found = torch.from_numpy(_solved(A[i].cpu().numpy(), b[i].cpu().numpy(), lam)).to(A.device)
        alpha[i] = solve_on_support(A[i : i + 1], b[i : i + 1], found[None], lam)[0]
    if not (worst := float(violation(A, b, alpha, lam).max())) <= tol:
        raise KitError(f"lasso: the optimality conditions are violated by {worst:.1e}, tol is {tol:.1e}: raise tol")
    return alpha.reshape(*shape[:-2], shape[-1]).to(dtype)


def _solved(A: np.ndarray, b: np.ndarray, lam: float) -> np.ndarray:
    """α [n] by the dual problem, the point nearest to b with −λ ≤ Aᵀθ ≤ λ, which is one of non-negative least squares
    (Lawson & Hanson 1974, ch. 23, least distance programming): exact, also where columns are tied."""
    unit = np.linalg.norm(b) or 1.0  # the solver's tolerances are absolute
    both = np.hstack([-A, A])
    bounds = -(lam + b @ both) / unit  # of bothᵀ(θ − b)
    multipliers, _ = scipy.optimize.nnls(np.vstack([both, bounds]), np.eye(len(A) + 1)[-1], maxiter=10_000)
    plus, minus = np.split(multipliers, 2)
    return unit * (plus - minus) / (1 - bounds @ multipliers)


def violation(A: Tensor, b: Tensor, alpha: Tensor, lam: float) -> Tensor:
    """How far α [B, n] is from optimal, per problem [B]: 0 exactly when 0 ∈ Aᵀ(Aα − b) + λ ∂‖α‖₁ (largest residual)."""
    gradient = _apply(A.mT, _apply(A, alpha) - b)
    inactive = (gradient.abs() - lam).clamp(min=0)
    active = (gradient + lam * alpha.sign()).abs()
    return torch.where(alpha == 0, inactive, active).amax(dim=-1)


def solve_on_support(A: Tensor, b: Tensor, alpha: Tensor, lam: float) -> Tensor:
    """The exact minimiser that has α's support and signs; α itself where that is no improvement."""
    active = alpha != 0
    masked, right = A * active.unsqueeze(-2), (_apply(A.mT, b) - lam * alpha.sign()) * active
    system = masked.mT @ masked + torch.diag_embed((~active).to(A.dtype))  # A_Sᵀ A_S x_S = right_S; x = 0 elsewhere
    # of a singular system something that is no number, or no improvement
    found = torch.linalg.solve_ex(system, right.unsqueeze(-1)).result.squeeze(-1)
    solution = torch.where(active, found, 0.0)
    better = (solution.sign() == alpha.sign()).all(-1) & (violation(A, b, solution, lam) <= violation(A, b, alpha, lam))
    return torch.where(better.unsqueeze(-1), solution, alpha)


def _apply(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)
