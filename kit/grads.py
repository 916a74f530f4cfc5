"""Gradients and the weights' step: the only copy (METHOD section 3).

The step is SGD with momentum as in PyTorch, on the child's parameters alone. What it did is returned as a `Trace`, from which the
hyper-gradients are two scalar products.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kit.space.network import Child, Network


@dataclass
class Gradient:
    """theta: ∂L/∂θ for `parameters`, in order; gates: ∂L/∂gate per slot, None where the slot has none."""

    parameters: list[nn.Parameter]
    theta: list[Tensor]
    gates: list[Tensor | None] = field(default_factory=list)

    @functools.cached_property
    def flat(self) -> Tensor:
        """theta end to end: norms and scalar products of it are one kernel, not one per tensor."""
        return _flat(self.theta)


def backward(loss: Tensor, network: Network, child: Child) -> Gradient:
    """One backward pass: gradients of the child's weights and of its gates. Nothing is left in `.grad`.

    Weights that did not take part in the loss (the auxiliary head in evaluation) are left out, so that neither momentum nor weight
    decay moves them.
    """
    parameters = network.child_parameters(child.picks)
    gates = [gate for gate in child.gates if gate is not None and gate.requires_grad]
    grads = torch.autograd.grad(loss, [*parameters, *gates], allow_unused=True)
    theta, rest = grads[: len(parameters)], iter(grads[len(parameters) :])
    by_slot = [next(rest) if gate is not None and gate.requires_grad else None for gate in child.gates]
    used = [(p, g) for p, g in zip(parameters, theta) if g is not None]
    return Gradient([p for p, _ in used], [g for _, g in used], by_slot)


@dataclass
class Trace:
    """One SGD step θ' = θ − lr v', v' = μ v + g + wd θ, as the hyper-gradients need it.

    lr: the rate applied (schedule included) and wd, both float 0-dim. `momentum` are the buffers v' and the parameters hold θ' until
    the next step; θ itself is θ' + lr v'.
    """

    parameters: list[nn.Parameter]
    momentum: list[Tensor]
    lr: Tensor
    weight_decay: Tensor

    def hyper_gradient(self, parameters: list[nn.Parameter], outer: list[Tensor], flat: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(∂L(θ')/∂lr, ∂L(θ')/∂wd) = (−⟨g', v'⟩, −lr ⟨g', θ⟩) for g' = `outer`, the gradient at θ' with respect to `parameters`.

        flat: `outer` end to end, if at hand. Weights that the step did not move do not depend on lr and wd: they do not count, although
        g' may have them (another child).
        """
        if _same(parameters, self.parameters):
            velocity, theta, g = self.momentum, self.parameters, outer
        else:
            grads = {id(p): g for p, g in zip(parameters, outer)}
            kept = [(v, p, grads[id(p)]) for v, p in zip(self.momentum, self.parameters) if id(p) in grads]
            velocity, theta, g = ([k[i] for k in kept] for i in range(3))
            flat = None
        # three copies and two products; a product per tensor would launch hundreds of kernels
        flat = _flat(g) if flat is None else flat
        along_v = torch.dot(flat, _flat(velocity))
        along_theta = torch.dot(flat, _flat([p.detach() for p in theta])) + self.lr * along_v
        return -along_v, -self.lr * along_theta


def _same(a: list[nn.Parameter], b: list[nn.Parameter]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


class Momentum:
    """SGD with momentum on whatever parameters a step hands over, with gradient clipping by global norm (DARTS: 5).

    A parameter's buffer starts at its first gradient and rests while the parameter is not part of the child.
    """

    def __init__(self, network: Network, momentum: float, clip: float):
        self.momentum, self.clip = momentum, clip
        self.named = dict(network.named_parameters())
        self.names = {id(p): name for name, p in self.named.items()}
        self.buffers: dict[str, Tensor] = {}
        self.trace: Trace | None = None

    @torch.no_grad()
    def step(self, gradient: Gradient, lr: Tensor, weight_decay: Tensor) -> Trace:
        parameters, grads = gradient.parameters, gradient.theta
        if self.clip > 0:
            grads = torch._foreach_mul(grads, (self.clip / (gradient.flat.norm() + 1e-6)).clamp(max=1.0))
        decayed = torch._foreach_mul(parameters, weight_decay)
        torch._foreach_add_(decayed, grads)
        buffers = [self._buffer(p) for p in parameters]
        torch._foreach_mul_(buffers, self.momentum)
        torch._foreach_add_(buffers, decayed)
        torch._foreach_sub_(parameters, torch._foreach_mul(buffers, lr))
        self.trace = Trace(parameters, buffers, lr, weight_decay)
        return self.trace

    def _buffer(self, parameter: nn.Parameter) -> Tensor:
        name = self.names[id(parameter)]
        if name not in self.buffers:
            self.buffers[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return self.buffers[name]

    def state_dict(self) -> dict:
        """Buffers and the last step's trace: the look-ahead hyper-gradient of that step is still to come."""
        last = None
        if self.trace is not None:
            names = [self.names[id(p)] for p in self.trace.parameters]
            last = {"names": names, "lr": self.trace.lr, "weight_decay": self.trace.weight_decay}
        return {"buffers": dict(self.buffers), "trace": last}

    def load_state_dict(self, state: dict) -> None:
        self.buffers = {
            name: torch.empty_like(self.named[name]).copy_(buffer) for name, buffer in state["buffers"].items()
        }
        self.trace = None
        if (last := state["trace"]) is not None:
            parameters = [self.named[name] for name in last["names"]]
            buffers = [self.buffers[name] for name in last["names"]]
            device = parameters[0].device
            self.trace = Trace(parameters, buffers, last["lr"].to(device), last["weight_decay"].to(device))
