"""η by gradients never leaves the bound around where it starts, however long or large its steps."""

from __future__ import annotations

import math

import pytest
import torch

from kit.hyper import HYPER
from kit.search.grads import Gradient, Trace

START = (0.1, 0.01)


def a_step(sign: float) -> tuple[Trace, Gradient]:
    """The trace of a step of four weights, and an outer gradient along which, or against which, it went."""
    theta = torch.nn.Parameter(torch.tensor([1.0, 2.0, -1.0, 0.5]))
    velocity = theta.detach().clone()
    trace = Trace([theta], [velocity], torch.tensor(START[0]), torch.tensor(START[1]))
    return trace, Gradient([theta], [sign * velocity], [])


@pytest.mark.parametrize("hyper_lr", [None, 0.5])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["lookahead", "fresh", "validation", "hgd", "ift"])
def test_eta_stays_within_its_reach(name: str, sign: float, hyper_lr: float | None):
    reach, steps = 4.0, 20
    learner = HYPER[name].make(*START, steps=steps, hyper_lr=hyper_lr, hyper_reach=reach)
    trace, outer = a_step(sign)
    farthest = torch.zeros(2, dtype=torch.float64)
    for _ in range(10 * steps):
        learner.observe(trace, outer)
        learner.update(trace, outer=lambda source: outer, loss=lambda: outer.parameters[0].square().sum() / 2)
        lr, decay = (float(value) for value in learner.sample()[:2])
        ratio = torch.tensor([lr / START[0], decay / START[1]], dtype=torch.float64)
        farthest = torch.maximum(farthest, ratio.log().abs())
    assert float(farthest.max()) <= math.log(reach) + 1e-6
    moved = {"hgd": [True, False], "ift": [False, True]}.get(name, [True, True])
    assert (farthest > math.log(reach) - 1e-6).tolist() == moved  # it went as far as it may
    assert not moved[0] or (lr > START[0]) == (sign > 0)  # still downhill after the step: a longer one
