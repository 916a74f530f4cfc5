"""The weights' step against torch.optim.SGD, and what one backward pass hands out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kit import space
from kit.arch import random_picks
from kit.search import grads
from kit.search.grads import Gradient, Momentum
from kit.space import Child
from kit.space.limits import Limits


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e3])
def test_several_steps_equal_torch_sgd_with_clipping(clip: float):
    ours, theirs = toy(), toy()
    sgd, optimizer = Momentum(ours, 0.9, clip), torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=0.9)
    g = torch.Generator().manual_seed(1)
    for i in range(6):
        lr, decay = 0.1 / (i + 1), 0.01 * i
        x, y = torch.randn(8, 5, generator=g), torch.randn(8, 3, generator=g)
        parameters = list(ours.parameters())
        loss = (ours(x) - y).square().mean()
        sgd.step(
            Gradient(parameters, list(torch.autograd.grad(loss, parameters)), []), torch.tensor(lr), torch.tensor(decay)
        )
        optimizer.param_groups[0].update(lr=lr, weight_decay=decay)
        optimizer.zero_grad()
        (theirs(x) - y).square().mean().backward()
        if clip:
            norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            assert (norm > clip) == (clip == 0.5)
        optimizer.step()
        for a, b in zip(ours.parameters(), theirs.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(
            sgd.moments["sgd/velocity"][name], optimizer.state[p]["momentum_buffer"], rtol=1e-6, atol=1e-7
        )


def test_a_parameter_that_is_absent_keeps_value_and_buffer():
    net = toy()
    sgd, parameters = Momentum(net, 0.9, 0.0), list(net.parameters())
    ones = [torch.ones_like(p) for p in parameters]
    sgd.step(Gradient(parameters, ones, []), torch.tensor(0.1), torch.tensor(0.0))
    value, buffer = parameters[0].detach().clone(), sgd.moments["sgd/velocity"]["0.weight"].clone()
    assert torch.equal(buffer, ones[0])  # the first buffer is the first gradient
    for _ in range(3):
        trace = sgd.step(Gradient(parameters[1:], ones[1:], []), torch.tensor(0.1), torch.tensor(0.5))
    assert torch.equal(parameters[0], value) and torch.equal(sgd.moments["sgd/velocity"]["0.weight"], buffer)
    assert all(p is not parameters[0] for p in trace.parameters)
    sgd.step(Gradient(parameters[:1], ones[:1], []), torch.tensor(0.1), torch.tensor(0.0))
    torch.testing.assert_close(sgd.moments["sgd/velocity"]["0.weight"], 0.9 * buffer + 1)


def test_the_step_leaves_the_gradients_that_it_was_given_alone():
    """Look-ahead reads them after the step, unclipped."""
    net = toy()
    parameters = list(net.parameters())
    given = [torch.full_like(p, 3.0) for p in parameters]
    Momentum(net, 0.9, 0.1).step(Gradient(parameters, given, []), torch.tensor(0.1), torch.tensor(0.1))
    assert all((g == 3.0).all() for g in given)


def test_state_round_trip_keeps_buffers_and_the_open_trace():
    net = toy()
    sgd, parameters = Momentum(net, 0.9, 0.0), list(net.parameters())
    assert sgd.state_dict()["trace"] is None
    trace = sgd.step(
        Gradient(parameters[1:], [torch.ones_like(p) for p in parameters[1:]], []), torch.tensor(0.1), torch.tensor(0.2)
    )
    twin = copy.deepcopy(net)
    other = Momentum(twin, 0.9, 0.0)
    other.load_state_dict(copy.deepcopy(sgd.state_dict()))
    outer = [torch.randn_like(p) for p in parameters[1:]]
    theirs = Gradient(list(twin.parameters())[1:], outer)
    assert trace.hyper_gradient(Gradient(parameters[1:], outer)) == other.trace.hyper_gradient(theirs)
    # the buffers of the trace are the optimizer's own: the next step moves both
    assert all(
        v is other.moments["sgd/velocity"][n] for v, n in zip(other.trace.momentum, sgd.state_dict()["trace"]["names"])
    )
    assert torch.equal(other.trace.lr, torch.tensor(0.1)) and torch.equal(other.trace.weight_decay, torch.tensor(0.2))


def test_one_backward_pass_gives_weights_and_gates_and_leaves_no_grad():
    torch.manual_seed(0)
    net = space.build("cell", 3, (1, 8, 8), channels=2, cells=3, auxiliary=0.4).train()
    picks = random_picks(net.slots, torch.Generator().manual_seed(0), Limits(net))
    gates = tuple(None if i == 2 else torch.ones(2, requires_grad=True) for i in range(len(net.slots)))
    child = Child(picks, gates)
    x, y = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    gradient = grads.backward(net.losses(x, y, child)[0].mean(), net, child)
    assert [g is None for g in gradient.gates] == [i == 2 for i in range(len(gates))]
    assert all(float(g.abs().max()) > 0 for g in gradient.gates if g is not None)
    assert all(p.grad is None for p in net.parameters()) and all(g.grad is None for g in gates if g is not None)
    auxiliary = {id(p) for p in net.head["auxiliary"].parameters()}
    assert auxiliary <= {id(p) for p in gradient.parameters}
    # in evaluation the auxiliary head takes no part: neither momentum nor weight decay may move it
    net.eval()
    gradient = grads.backward(net.losses(x, y, child)[0].mean(), net, child)
    assert not auxiliary & {id(p) for p in gradient.parameters} and len(gradient.parameters) == len(gradient.theta)
