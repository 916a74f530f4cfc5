"""Gradients and the weights' step, for every method."""

import collections
import contextlib
import functools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from kit.search import ranks
from kit.space.network import Child, Network

# Adam and RMSprop divide by the gradient's size: times this, one range of rates serves all three
RATES = {"sgd": 1.0, "adam": 0.02, "rmsprop": 0.02}
SECOND = {"adam": 0.999, "rmsprop": 0.99}  # of the squared gradients' moving average
EPS = 1e-8
Batch = tuple[Tensor, Tensor]  # images and labels


@dataclass
class Gradient:
    """theta: ∂L/∂θ for `parameters`, in order; gates: ∂L/∂gate per slot, None where the slot has none."""

    parameters: list[nn.Parameter]
    theta: list[Tensor]
    gates: list[Tensor | None] = field(default_factory=list)

    @functools.cached_property
    def of(self) -> dict[nn.Parameter, Tensor]:
        return dict(zip(self.parameters, self.theta))

    @classmethod
    def mean(cls, gradients: list[Self]) -> Self:
        """Of several children's gradients: the mean over all of them, also of weights that only some of them use."""
        parameters = list(dict.fromkeys(p for gradient in gradients for p in gradient.parameters))
        terms = [[gradient.of[p] for gradient in gradients if p in gradient.of] for p in parameters]
        return cls(parameters, [functools.reduce(torch.add, each) / len(gradients) for each in terms])


def backward(loss: Tensor, network: Network, child: Child) -> Gradient:
    """One backward pass: gradients of the child's weights and of its gates, for the whole batch. loss: a mean over this
    rank's share. Weights without a part in it (the auxiliary head in evaluation) are left out, so that neither momentum
    nor weight decay moves them."""
    parameters = network.child_parameters(child.picks)
    gates = [gate for gate in child.gates if gate is not None and gate.requires_grad]
    grads = ranks.mean(torch.autograd.grad(loss, [*parameters, *gates], allow_unused=True))
    rest = iter(grads[len(parameters) :])
    by_slot = [next(rest) if gate is not None and gate.requires_grad else None for gate in child.gates]
    used = {p: g for p, g in zip(parameters, grads) if g is not None}
    return Gradient(list(used), list(used.values()), by_slot)


@contextlib.contextmanager
def ahead(gradient: Gradient, lr: Tensor | float) -> Iterator[None]:
    """Within it the weights are θ' = θ − lr · gradient (a plain step); then exactly θ again."""
    before = [p.detach().clone() for p in gradient.parameters]
    theta = [p.detach() for p in gradient.parameters]
    torch._foreach_sub_(theta, torch._foreach_mul(gradient.theta, lr))
    try:
        yield
    finally:
        torch._foreach_copy_(theta, before)


class _Losses(nn.ModuleDict):
    def forward(self, *given: Any) -> Tensor:
        return self["net"].losses(*given)[0]


def directional(net: Network, x: Tensor, y: Tensor, child: Child, direction: Gradient) -> Tensor:
    """⟨v, ∇_θ ℓ_k⟩ for this rank's images k, float [n]: one forward-mode derivative d/dε ℓ_k(θ + ε v) at ε = 0, with v
    the direction. Gates are constants; BatchNorm's running statistics are left alone."""
    names = {id(p): f"net.{name}" for name, p in net.named_parameters()}
    primals = {names[id(p)]: p.detach() for p in direction.parameters}
    tangents = {names[id(p)]: v for p, v in zip(direction.parameters, direction.theta)}
    losses = lambda parameters: torch.func.functional_call(_Losses({"net": net}), parameters, (x, y, child.detached()))
    with warnings.catch_warnings(), torch.no_grad(), net.frozen_statistics(child.picks):
        # torch's own forward-mode rules go through torch.jit.script, which warns of its retirement
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        return torch.func.jvp(losses, (primals,), (tangents,))[1]


@dataclass
class Trace:
    """One SGD step θ' = θ − lr v', v' = μ v + g + wd θ, from which the hyper-gradients are two scalar products. lr, the
    schedule in it, and wd: float 0-dim. Until the next step `momentum` is v' and the parameters hold θ'."""

    parameters: list[nn.Parameter]
    momentum: list[Tensor]
    lr: Tensor
    weight_decay: Tensor

    def hyper_gradient(self, outer: Gradient) -> tuple[Tensor, Tensor]:
        """(∂L(θ')/∂lr, ∂L(θ')/∂wd) = (−⟨g', v'⟩, −lr ⟨g', θ⟩) for g' = `outer`, the gradient at θ'. It may be another
        child's: what the step did not move does not count."""
        moved = [(outer.of[p], v, p.detach()) for v, p in zip(self.momentum, self.parameters) if p in outer.of]
        # three copies and two products; a product per tensor would launch hundreds of kernels
        g, velocity, theta = (_flat(tensors) for tensors in zip(*moved))
        along_v = torch.dot(g, velocity)
        # θ = θ' + lr v'
        return -along_v, -self.lr * (torch.dot(g, theta) + self.lr * along_v)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


class Momentum:
    """SGD with momentum, as torch's, on the parameters of each step's child, with gradient clipping by global norm. A
    parameter's moments start at its first gradient and rest while it is not part of the child. A step may take Adam or
    RMSprop instead (AutoHAS searches the optimizer); each keeps moments of its own."""

    def __init__(self, network: Network, momentum: float, clip: float):
        self.momentum, self.clip = momentum, clip
        self.named = dict(network.named_parameters())
        self.names = {id(p): name for name, p in self.named.items()}
        self.moments: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)  # by kind and parameter
        self.trace: Trace | None = None  # of the last step, if that was SGD's

    @torch.no_grad()
    def step(self, gradient: Gradient, lr: Tensor, weight_decay: Tensor, optimizer: str = "sgd") -> Trace:
        parameters, g = gradient.parameters, gradient.theta
        if self.clip > 0:
            g = torch._foreach_mul(g, (self.clip / (_flat(g).norm() + 1e-6)).clamp(max=1.0))
        decayed = torch._foreach_mul(parameters, weight_decay)
        torch._foreach_add_(decayed, g)
        direction = self._direction(optimizer, parameters, decayed)
        rate = lr if optimizer == "sgd" else lr * RATES[optimizer]
        torch._foreach_sub_(parameters, torch._foreach_mul(direction, rate))
        trace = Trace(parameters, direction, rate, weight_decay)
        self.trace = trace if optimizer == "sgd" else None
        return trace

    def _direction(self, optimizer: str, parameters: list[nn.Parameter], g: list[Tensor]) -> list[Tensor]:
        """Of the gradients g, weight decay included, after each moment has taken them in."""
        if optimizer == "sgd":
            velocity = self._moments("sgd/velocity", parameters)
            torch._foreach_mul_(velocity, self.momentum)
            torch._foreach_add_(velocity, g)
            return velocity
        # RMSprop as torch's, without momentum; Adam (Kingma & Ba), whose bias correction counts a weight's own steps
        second, decay = self._moments(f"{optimizer}/second", parameters), SECOND[optimizer]
        torch._foreach_mul_(second, decay)
        torch._foreach_addcmul_(second, g, g, 1 - decay)
        if optimizer == "rmsprop":
            return [d / (v.sqrt() + EPS) for d, v in zip(g, second)]
        first, steps = (self._moments(f"adam/{name}", parameters) for name in ("first", "steps"))
        torch._foreach_add_(steps, 1.0)
        torch._foreach_lerp_(first, g, 0.1)
        return [m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + EPS) for m, v, t in zip(first, second, steps)]

    def _moments(self, kind: str, parameters: list[nn.Parameter]) -> list[Tensor]:
        moments, names = self.moments[kind], [self.names[id(p)] for p in parameters]
        for name, p in zip(names, parameters):
            if name not in moments:
                moments[name] = p.new_zeros(()) if kind == "adam/steps" else torch.zeros_like(p)
        return [moments[name] for name in names]

    def state_dict(self) -> dict:
        """Moments, and the last step's trace: look-ahead needs it after a resume."""
        t = self.trace
        last = t and {"names": [self.names[id(p)] for p in t.parameters], "lr": t.lr, "weight_decay": t.weight_decay}
        return {"moments": {kind: dict(moments) for kind, moments in self.moments.items()}, "trace": last}

    def load_state_dict(self, state: dict) -> None:
        """The state may be of a supernet that this network is a child of: moments of other parameters are left out."""
        mine = lambda names: [self.named[name] for name in names if name in self.named]
        self.moments.clear()
        for kind, moments in state["moments"].items():
            for p, moment in zip(mine(moments), self._moments(kind, mine(moments))):
                moment.copy_(moments[self.names[id(p)]])
        self.trace, last = None, state["trace"]
        if last is not None:
            parameters = mine(last["names"])
            rates = (last[name].to(parameters[0].device) for name in ("lr", "weight_decay"))
            self.trace = Trace(parameters, self._moments("sgd/velocity", parameters), *rates)
