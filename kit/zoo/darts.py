"""DARTS (Liu, Simonyan & Yang 2019), first and second order, and its stochastic form SNAS (Xie et al. 2019): the whole
supernet runs as a mixture.
"""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from kit.arch import Edges, register
from kit.methods import RETRAIN, TWO_LEVELS, Stage
from kit.methods import register as register_method
from kit.search import grads, ranks, signals
from kit.search.grads import Batch, Gradient
from kit.space import Network
from kit.space.network import Child, Picks, everything

REACH = {"arch_reach": 6.0}  # DARTS: Adam at 3e-4 for 50 epochs of 390 steps


def one_step_ahead(net: Network, held_out: Batch, child: Child, train: Batch, lr: Tensor) -> Gradient:
    """Second-order DARTS (eq. 6, 7): by the gates of L_val(θ − lr ∇L_train(θ, gates), gates). Its second term by double
    backward: DARTS's central differences step over the kinks of ReLU, and miss it by more than its size."""
    with net.plain():
        with grads.ahead(signals.outer_gradient(net, train, child), lr):
            outer = signals.validation_gradient(net, held_out, child)
        slots = [slot for slot, gate in enumerate(outer.gates) if gate is not None]
        with net.frozen_statistics(child.picks):
            loss = net.losses(*train, child)[0].mean()
    inner = torch.autograd.grad(loss, outer.parameters, create_graph=True, materialize_grads=True)
    along = sum((g * v).sum() for g, v in zip(inner, outer.theta))
    gates = [child.gates[slot] for slot in slots]
    second = torch.autograd.grad(along, gates, materialize_grads=True) if gates else ()
    for slot, term in zip(slots, ranks.mean(second)):
        outer.gates[slot] = outer.gates[slot] - lr * term
    return outer


@register("darts", title="DARTS", brings=REACH)
class Darts(Edges):
    """All candidates run, weighed by the softmax over each edge's operations. Takes the memory of the whole supernet,
    and the derived child has to be trained anew, since its weights were trained within the mixture."""

    draws = False
    retrain = True
    limited = False

    class Options(Edges.Options):
        first_order: bool = Field(True, description="darts: α's gradient at θ itself, not one step ahead")

    @property
    def unrolled(self) -> Callable[..., Gradient] | None:
        return None if self.options.first_order else one_step_ahead

    def scores(self) -> Tensor:
        return self.to_edges(self.logits)

    def draw(self) -> tuple[Picks, Tensor]:
        """memory: every candidate's weight, float64 [slots, most candidates], differentiable."""
        return everything(self.slots), self.to_candidates(self.softmax(self.scores(), self.temperature))

    def child(self, picks: Picks, memory: Tensor) -> Child:
        weights = [row[: len(chosen)].to(self.device).float() for row, chosen in zip(memory, picks)]
        return Child(picks, tuple(gate.detach().requires_grad_() for gate in weights), memory=memory)

    def value(self, child: Child, *, gates: list[Tensor | None], **_: object) -> Tensor:
        return (self.by_candidate(child, gates) * child.memory).sum()


@register("snas", title="SNAS", brings=REACH | {"temperature": 1.0, "last_temperature": 0.03})
class Snas(Darts):
    """The same mixture with Gumbel noise and a temperature (eq. 4)."""

    draws = True

    def scores(self) -> Tensor:
        return super().scores() + self.gumbel(self.members.shape)


register_method("darts", "DARTS, first order, retrained", arch="darts", stages=TWO_LEVELS)
SECOND = {"first_order": False}
register_method("darts-second", "DARTS, second order, retrained", arch="darts", stages=TWO_LEVELS, values=SECOND)
register_method(
    "snas", "SNAS: relaxed NAS, one level, retrained", arch="snas", stages=(Stage("search", search=True), RETRAIN)
)
