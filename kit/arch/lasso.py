"""LASSO for many small problems at once: sparse recovery of the architecture (DHA eq. 6, ISTA-NAS; METHOD section 2a).

`homotopy` follows the exact solution path in λ: about twenty small solves for the cell space's problems, where `fista`,
the papers' iteration, takes tens of thousands of steps. That solves degenerate problems, whose path is not unique."""

import torch
from torch import Tensor

from kit.errors import KitError


def lasso(A: Tensor, b: Tensor, lam=1e-5, tol=1e-9, start: Tensor | None = None, max_iterations=200_000) -> Tensor:
    """argmin_α ½‖A α − b‖² + λ‖α‖₁ for a batch of problems.

    A: float [..., m, n]; b: float [..., m]; start: [..., n], a warm start: where its support and signs still hold, one
    solve suffices. Columns of zeros are allowed (padding); their α is 0. tol: largest `violation` of the optimality
    conditions, in the units of Aᵀb. Returns α [..., n] in the dtype of A; computed in float64. Raises KitError on wrong
    shapes, negative λ, non-finite input, or where max_iterations of the fallback do not reach tol."""
    finite = torch.isfinite(A).all() and torch.isfinite(b).all()
    if A.ndim < 2 or b.shape != A.shape[:-1] or not lam >= 0 or not finite:
        given = f"{tuple(A.shape)} and {tuple(b.shape)}, {'' if finite else 'not '}finite, λ = {lam}"
        raise KitError(f"lasso needs finite A [..., m, n] and b [..., m], and λ ≥ 0; got {given}")
    dtype, shape = A.dtype, A.shape
    A, b = A.double().reshape(-1, *shape[-2:]), b.double().reshape(-1, shape[-2])
    alpha = torch.zeros(len(A), shape[-1], dtype=torch.float64, device=A.device)
    if start is not None:
        alpha = solve_on_support(A, b, start.double().reshape(alpha.shape), lam)
    # the conditions cannot be met more exactly than rounding in Aᵀb allows
    tol = max(tol, 1e-13 * float(_apply(A.mT, b).abs().max()))
    for solver in (homotopy, lambda A, b, lam: fista(A, b, lam, tol, max_iterations)):
        wrong = ~(violation(A, b, alpha, lam) <= tol)
        if not wrong.any():
            break
        alpha[wrong] = solver(A[wrong], b[wrong], lam)
    return alpha.reshape(*shape[:-2], shape[-1]).to(dtype)


def violation(A: Tensor, b: Tensor, alpha: Tensor, lam: float) -> Tensor:
    """How far α [B, n] is from optimal, per problem [B]: 0 exactly when 0 ∈ Aᵀ(Aα − b) + λ ∂‖α‖₁ (largest residual)."""
    gradient = _apply(A.mT, _apply(A, alpha) - b)
    inactive = (gradient.abs() - lam).clamp(min=0)
    active = (gradient + lam * alpha.sign()).abs()
    return torch.where(alpha == 0, inactive, active).amax(dim=-1)


def fista(A: Tensor, b: Tensor, lam: float, tol: float = 1e-9, max_iterations: int = 200_000) -> Tensor:
    """Iterative shrinkage-thresholding with momentum (Beck & Teboulle 2009), restarted when it goes uphill; float64
    [B, n]. Step 1/L with L the largest eigenvalue of AᵀA. Raises KitError where max_iterations do not reach tol."""
    step = 1.0 / torch.linalg.matrix_norm(A, ord=2).square().clamp(min=1e-12).unsqueeze(-1)
    gram, target = A.mT @ A, _apply(A.mT, b)
    alpha = previous = point = torch.zeros(len(A), A.shape[-1], dtype=A.dtype, device=A.device)
    t = torch.ones_like(step)
    for iteration in range(1, max_iterations + 1):
        moved = point - step * (_apply(gram, point) - target)
        alpha = moved.sign() * (moved.abs() - lam * step).clamp(min=0)  # soft thresholding
        # restart the momentum of a problem whose last move went uphill (O'Donoghue & Candès 2015)
        uphill = ((point - alpha) * (alpha - previous)).sum(-1, keepdim=True) > 0
        t = torch.where(uphill, torch.ones_like(t), t)
        t_next = (1 + (1 + 4 * t * t).sqrt()) / 2
        point = alpha + ((t - 1) / t_next) * (alpha - previous)
        previous, t = alpha, t_next
        if iteration % 200 == 0:
            exact = solve_on_support(A, b, alpha, lam)
            if bool((violation(A, b, exact, lam) <= tol).all()):
                return exact
    worst = f"violation {float(violation(A, b, alpha, lam).max()):.1e} > tol {tol:.1e}"
    raise KitError(f"lasso: {worst} after {max_iterations} iterations; raise tol, λ or max_iterations")


def homotopy(A: Tensor, b: Tensor, lam: float) -> Tensor:
    """The exact solution by its path from λ = ‖Aᵀb‖∞, where it is 0: piecewise linear, an entry joins or leaves at each
    knot (Osborne et al. 2000; Efron et al. 2004). float64 [B, n]; not reliable for tied columns: check it."""
    alpha = torch.zeros(len(A), A.shape[-1], dtype=A.dtype, device=A.device)
    correlation = _apply(A.mT, b)
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
        slope = _apply(A.mT, _apply(A, direction))
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
        chosen, kind = torch.zeros_like(active).scatter(1, which // 3, True) & ~last, which % 3
        left, joined = chosen & (kind == 2), chosen & (kind < 2)
        active = (active | joined) & ~left
        signs = torch.where(joined, torch.where(kind == 0, 1.0, -1.0).to(signs.dtype), signs) * active
        alpha = alpha * active
    return alpha


def solve_on_support(A: Tensor, b: Tensor, alpha: Tensor, lam: float) -> Tensor:
    """The exact minimiser that has α's support and signs; α itself where that is no improvement."""
    active = alpha != 0
    solution = _solve_active(A, active, _apply(A.mT, b) - lam * alpha.sign())
    better = (solution.sign() == alpha.sign()).all(-1) & (violation(A, b, solution, lam) <= violation(A, b, alpha, lam))
    return torch.where(better.unsqueeze(-1), solution, alpha)


def _solve_active(A: Tensor, active: Tensor, right: Tensor) -> Tensor:
    """x with A_Sᵀ A_S x_S = right_S on the active set S, zero elsewhere; zero where the system is singular."""
    masked = A * active.unsqueeze(-2)
    system = masked.mT @ masked + torch.diag_embed((~active).to(A.dtype))
    solution, info = torch.linalg.solve_ex(system, (right * active).unsqueeze(-1))
    usable = (info == 0).unsqueeze(-1) & torch.isfinite(solution.squeeze(-1))
    return torch.where(usable & active, solution.squeeze(-1), torch.zeros_like(right))


def _apply(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)
