"""The LASSO solver behind sparse coding, against scikit-learn, the papers' iteration, and the optimality conditions."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.linear_model import Lasso

from kit.arch import lasso
from kit.arch.lasso import solve_on_support, violation
from kit.errors import KitError


def problem(
    batch: tuple[int, ...], m: int, n: int, seed: int = 0, unit: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(*batch, m, n, generator=g, dtype=torch.float64)
    b = torch.randn(*batch, m, generator=g, dtype=torch.float64)
    return (A / A.norm(dim=-2, keepdim=True) if unit else A), b


def reference(A: torch.Tensor, b: torch.Tensor, lam: float) -> torch.Tensor:
    """scikit-learn minimises ‖Aα − b‖² / (2 m) + alpha ‖α‖₁, one problem at a time."""
    model = Lasso(alpha=lam / A.shape[0], fit_intercept=False, tol=1e-14, max_iter=500_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its duality gap cannot reach 1e-14: what it found is what is compared
        return torch.from_numpy(model.fit(A.numpy(), b.numpy()).coef_.copy())


def objective(A: torch.Tensor, b: torch.Tensor, alpha: torch.Tensor, lam: float) -> torch.Tensor:
    return 0.5 * ((A @ alpha.unsqueeze(-1)).squeeze(-1) - b).square().sum(-1) + lam * alpha.abs().sum(-1)


@pytest.mark.parametrize(("m", "n", "lam"), [(7, 14, 1e-2), (7, 35, 1e-3), (7, 35, 0.1), (5, 5, 1.0), (20, 6, 0.1)])
def test_equals_scikit_learn(m: int, n: int, lam: float):
    A, b = problem((3,), m, n, seed=m * n)
    alpha = lasso(A, b, lam)
    expected = torch.stack([reference(A[i], b[i], lam) for i in range(3)])
    assert expected.abs().max() > 0.05  # not a comparison of zeros
    torch.testing.assert_close(alpha, expected, atol=1e-5, rtol=0)


def test_batch_dimensions_are_independent_problems():
    A, b = problem((2, 3), 7, 21)
    alpha = lasso(A, b, 0.05)
    assert alpha.shape == (2, 3, 21)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(alpha[i, j], lasso(A[i, j], b[i, j], 0.05), atol=1e-9, rtol=0)


def test_dtype_is_that_of_A_and_single_precision_input_is_solved_in_double():
    A, b = problem((4,), 7, 28)
    single = lasso(A.float(), b.float(), 0.01)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), lasso(A.float().double(), b.float().double(), 0.01), atol=1e-6, rtol=0)


def test_the_papers_lambda_is_solved_to_optimality():
    """λ = 1e-5 on the cell space's shapes, where coordinate descent does not converge."""
    A, b = problem((32,), 7, 35, unit=True)
    alpha = lasso(A, b, 1e-5)
    assert float(violation(A, b, alpha, 1e-5).max()) <= 1e-9
    assert int((alpha != 0).sum(1).max()) <= 7  # a vertex: no more non-zeros than rows
    # an optimum is below every other point, and nearly interpolates b
    assert (objective(A, b, alpha, 1e-5) <= objective(A, b, alpha + 1e-4 * torch.randn_like(alpha), 1e-5)).all()
    assert float(((A @ alpha.unsqueeze(-1)).squeeze(-1) - b).abs().max()) < 1e-3


def test_equals_the_papers_iteration():
    """Iterative shrinkage-thresholding (ISTA), by which the papers solve the problem."""
    A, b = problem((6,), 7, 28, seed=3, unit=True)
    step = 1.0 / torch.linalg.matrix_norm(A, ord=2).square().unsqueeze(-1)
    alpha = torch.zeros(6, 28, dtype=torch.float64)
    for _ in range(20_000):
        moved = alpha - step * (A.mT @ (A @ alpha.unsqueeze(-1) - b.unsqueeze(-1))).squeeze(-1)
        alpha = moved.sign() * (moved.abs() - 0.02 * step).clamp(min=0)
    torch.testing.assert_close(lasso(A, b, 0.02), alpha, atol=1e-7, rtol=0)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e4, 1e8])
def test_the_units_of_b_do_not_matter(scale: float):
    A, b = problem((4,), 7, 28, unit=True)
    expected = scale * lasso(A, b, 0.01)
    torch.testing.assert_close(lasso(A, scale * b, scale * 0.01, tol=1e-12 * scale), expected, atol=0, rtol=1e-9)


def test_violation_is_zero_at_the_optimum_and_the_residual_elsewhere():
    A = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    b = torch.tensor([[2.0, -0.5, 0.1]], dtype=torch.float64)
    alpha = torch.tensor([[1.7, -0.2, 0.0]], dtype=torch.float64)  # soft thresholding solves an orthonormal A
    assert float(violation(A, b, alpha, 0.3)) < 1e-15
    torch.testing.assert_close(lasso(A, b, 0.3), alpha, atol=1e-12, rtol=0)
    off = alpha + torch.tensor([[0.25, 0.0, 0.0]], dtype=torch.float64)
    assert float(violation(A, b, off, 0.3)) == pytest.approx(0.25)
    assert float(violation(A, b, torch.zeros_like(b), 0.3)) == pytest.approx(1.7)  # |Aᵀb| − λ where α is 0
    assert float(violation(A, b, -alpha, 0.3)) == pytest.approx(
        2 * 1.7 + 2 * 0.3, abs=1e-9
    )  # wrong signs count in full


def test_large_lambda_gives_zero_and_lambda_zero_interpolates():
    A, b = problem((3,), 7, 14)
    bound = float((A.mT @ b.unsqueeze(-1)).abs().max())
    assert (lasso(A, b, bound * 1.001) == 0).all()
    assert (lasso(A, b, bound * 0.5) != 0).any() and (lasso(A, 0 * b, 1e-3) == 0).all()
    alpha = lasso(A, b, 0.0)
    torch.testing.assert_close((A @ alpha.unsqueeze(-1)).squeeze(-1), b, atol=1e-7, rtol=0)


def test_padding_columns_stay_zero_and_change_nothing():
    lam = 1e-5
    A, b = problem((4,), 7, 14, unit=True)
    padded = torch.cat([A, torch.zeros(4, 7, 21, dtype=A.dtype)], dim=2)
    alpha = lasso(padded, b, lam)
    assert (alpha[:, 14:] == 0).all()
    torch.testing.assert_close(alpha[:, :14], lasso(A, b, lam), atol=1e-8, rtol=0)


def test_a_warm_start_changes_the_work_and_not_the_solution(monkeypatch):
    A, b = problem((5,), 7, 35, seed=9, unit=True)
    cold = lasso(A, b, 1e-5)
    moved = b + 1e-4 * torch.randn(b.shape, generator=torch.Generator().manual_seed(1), dtype=b.dtype)
    expected = lasso(A, moved, 1e-5)
    torch.testing.assert_close(lasso(A, moved, 1e-5, start=cold), expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(lasso(A, moved, 1e-5, start=torch.randn_like(cold)), expected, atol=1e-8, rtol=0)
    # where the support and its signs hold no solver runs at all
    nearby = lasso(A, b * 1.001, 1e-5)
    monkeypatch.setattr(
        "scipy.optimize.nnls", lambda *_, **__: pytest.fail("solved anew although the start was optimal")
    )
    torch.testing.assert_close(lasso(A, b, 1e-5, start=cold), cold, atol=1e-10, rtol=0)
    assert torch.equal(nearby.sign(), cold.sign())
    torch.testing.assert_close(lasso(A, b * 1.001, 1e-5, start=cold), nearby, atol=1e-9, rtol=0)


def test_solve_on_support_never_makes_a_point_worse():
    A, b = problem((16,), 7, 21, seed=2)
    point = torch.randn(16, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    point[:, ::2] = 0
    solved = solve_on_support(A, b, point, 0.1)
    assert (violation(A, b, solved, 0.1) <= violation(A, b, point, 0.1)).all()
    assert (solved[:, ::2] == 0).all()


@pytest.mark.parametrize("lam", [1e-5, 0.05])
def test_duplicate_and_opposite_columns_are_still_solved(lam: float):
    """The path is not unique there: the solution need not be, its optimality must hold."""
    A, b = problem((4,), 7, 10, unit=True)
    A = torch.cat([A, A[:, :, :5], -A[:, :, 5:8]], dim=2)
    alpha = lasso(A, b, lam)
    assert float(violation(A, b, alpha, lam).max()) <= 1e-8
    torch.testing.assert_close(
        objective(A, b, alpha, lam), objective(A[:, :, :10], b, lasso(A[:, :, :10], b, lam), lam), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda A, b: (A, b[:, :-1], 0.1), "A \\[..., m, n\\]"),
        (lambda A, b: (A[0, 0], b[0, 0], 0.1), "A \\[..., m, n\\]"),
        (lambda A, b: (A, b, -0.1), "λ ≥ 0"),
        (lambda A, b: (A * float("nan"), b, 0.1), "finite"),
        (lambda A, b: (A, b + float("inf"), 0.1), "finite"),
    ],
)
def test_what_is_refused(change, message: str):
    with pytest.raises(KitError, match=message):
        lasso(*change(*problem((2,), 7, 14)))


def test_what_rounding_cannot_reach_is_an_error_and_not_a_wrong_answer(monkeypatch):
    monkeypatch.setattr("scipy.optimize.nnls", lambda A, *_, **__: (0.0 * A[0], 0.0))
    with pytest.raises(KitError, match="violated by .*, tol is 1.0e-09: raise tol"):
        lasso(*problem((2,), 7, 28))
