"""Architecture learners that decide per input edge: DARTS's and SNAS's mixtures, GDAS's and DAAS's hard Gumbel (METHOD
section 2c).

A slot's candidates are grouped by the edge that they read. A space without edges (choice blocks) is one group, so all
of these work on it as well.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit.arch.base import RateOptions, Setting, register
from kit.arch.logits import Logits
from kit.errors import KitError
from kit.space.network import Child, Picks, Slot

RATE = {"arch_reach": 6.0}  # DARTS: Adam at 3e-4 for 50 epochs of 390 steps


class Edges(Logits):
    """A categorical over operations on every edge. The derived architecture takes each edge's best operation, and the
    slot's strongest edges."""

    def __init__(self, slots: tuple[Slot, ...], *args: Any, **settings: Any):
        edges = [sorted({edge for _, edge in slot.candidates}) for slot in slots]
        width = max(sum(e == edge for _, e in slot.candidates) for slot, own in zip(slots, edges) for edge in own)
        #: int64 [slots, edges, operations]: candidate indices; −1 pads
        self.members = torch.full((len(slots), max(map(len, edges)), width), -1)
        for s, slot in enumerate(slots):
            for e, edge in enumerate(edges[s]):
                members = [c for c, (_, of) in enumerate(slot.candidates) if of == edge]
                self.members[s, e, : len(members)] = torch.tensor(members)
        self.present = self.members >= 0
        self.edge_present = self.present.any(2)
        super().__init__(slots, *args, **settings)

    def _by_edge(self, values: Tensor, padding: float) -> Tensor:
        """[slots, widest] → [slots, edges, operations]."""
        return (
            values.gather(1, self.members.clamp(min=0).flatten(1))
            .view(self.members.shape)
            .masked_fill(~self.present, padding)
        )

    def _by_candidate(self, values: Tensor) -> Tensor:
        """The inverse; padding is 0."""
        index = self.members.clamp(min=0).flatten(1)
        return torch.zeros(self.valid.shape, dtype=values.dtype).scatter_add(
            1, index, values.masked_fill(~self.present, 0.0).flatten(1)
        )

    def _softmax(self, scores: Tensor, temperature: float = 1.0) -> Tensor:
        """Over the operations of each edge; edges that do not exist are 0."""
        scores = torch.where(self.edge_present.unsqueeze(2), scores / temperature, 0.0)
        return scores.softmax(2).masked_fill(~self.present, 0.0)

    def operations(self) -> Tensor:
        """p(operation | edge): float64 [slots, edges, operations]."""
        return self._softmax(self._by_edge(self.logits.detach(), -torch.inf))

    def probabilities(self) -> Tensor:
        return self._by_candidate(self.operations()) / self.edge_present.sum(1, keepdim=True)

    def edge_strength(self) -> Tensor:
        """[slots, edges] in [0, 1]: DARTS ranks edges by their best operation."""
        return self.operations().max(2).values

    def strength(self) -> Tensor:
        operations = self.operations()
        best = (operations.argmax(2, keepdim=True) == torch.arange(operations.shape[2])) & self.present
        edge = self.edge_strength().unsqueeze(2)
        # any edge's best operation before any second best one: a slot takes one operation per edge
        return self._by_candidate(torch.where(best, 1.0 + edge, operations * edge))

    def summary(self) -> dict[str, float]:
        p = self.operations()
        entropy = -(p * p.clamp(min=1e-300).log()).sum(2)[self.edge_present]
        largest = p.max(2).values[self.edge_present]
        return super().summary() | {"alpha/entropy": float(entropy.mean()), "alpha/largest": float(largest.mean())}


class TemperatureOptions(RateOptions):
    temperature: float = Field(1.0, gt=0, description="of the Gumbel softmax at the start of the search")
    last_temperature: float = Field(1.0, gt=0, description="… and at its end")


class Annealed:
    """The temperature of a relaxed softmax, which falls linearly from `temperature` to `last_temperature`."""

    Options = TemperatureOptions

    @classmethod
    def chosen(cls, at: Setting) -> dict[str, Any]:
        return {"temperature": at.config.temperature, "last_temperature": at.config.last_temperature}

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        if config.temperature < config.last_temperature:
            raise KitError(
                f"temperature={config.temperature} falls to last_temperature={config.last_temperature}: give one that "
                "is "
                "not larger"
            )

    def __init__(self, *args: Any, temperature: float = 1.0, last_temperature: float = 1.0, **settings: Any):
        super().__init__(*args, **settings)
        self.first, self.last, self.temperature = temperature, last_temperature, temperature

    def anneal(self, share: float) -> None:
        self.temperature = self.first + (self.last - self.first) * share


@register("darts", title="DARTS", brings=RATE)
class Darts(Edges):
    """DARTS: all candidates run, weighed by the softmax over each edge's operations. Takes the memory of the whole
    supernet, and the derived child has to be trained anew: the weights know the mixture."""

    retrain = True

    def _weights(self) -> Tensor:
        return self._softmax(self._by_edge(self.logits, -torch.inf))

    def sample(self) -> Child:
        if self.finished:
            return Child(self.picks)
        weights = self._by_candidate(self._weights())
        gates = tuple(
            weights[s, : len(slot.candidates)].detach().to(self.device, torch.float32).requires_grad_()
            for s, slot in enumerate(self.slots)
        )
        return Child(tuple(tuple(range(len(slot.candidates))) for slot in self.slots), gates, memory=weights)

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂weight per slot [candidates]."""
        if self.finished:
            return []
        measured = torch.zeros_like(self.logits)
        for s, gate in enumerate(gates):
            measured[s, : len(gate)] = gate.to("cpu", torch.float64)
        return list(torch.autograd.grad((measured * child.memory).sum(), self.logits))


@register("snas", title="SNAS", brings=RATE | {"temperature": 1.0, "last_temperature": 0.03})
class Snas(Annealed, Darts):
    """SNAS: the same mixture with Gumbel noise and temperature λ (eq. 4)."""

    def _weights(self) -> Tensor:
        noise = self._gumbel(self.members.shape)
        return self._softmax(self._by_edge(self.logits, -torch.inf) + noise, self.temperature)


@register("daas", title="Hard Gumbel over edges and operations (DAAS)", brings=RATE)
class Gumbel(Annealed, Edges):
    """One operation per edge by Gumbel-max, behind a gate of value 1 whose gradient goes through the relaxed softmax
    (straight-through).

    A slot samples as many edges as it takes from β, by Gumbel top-k (DAAS eq. 7, 8), and derives β's strongest ones.
    """

    #: every edge runs and there is no β (GDAS)
    all_edges = False

    def __init__(self, *args: Any, **settings: Any):
        self.beta: Tensor | None = None
        super().__init__(*args, **settings)
        edges = self.edge_present.sum(1).tolist()
        # a child with more edges than are deployed cannot be held to the limits; the derived one alone is
        self.deployable = not self.all_edges or all(n == slot.takes for n, slot in zip(edges, self.slots))
        if not self.all_edges:
            self.beta = torch.zeros(self.edge_present.shape, dtype=torch.float64).requires_grad_()
            self.adam.add_param_group({"params": [self.beta]})

    def variables(self) -> list[Tensor]:
        return [self.logits] if self.beta is None else [self.logits, self.beta]

    def edge_strength(self) -> Tensor:
        if self.beta is None:
            return super().edge_strength()
        return self.beta.detach().masked_fill(~self.edge_present, -torch.inf).softmax(1)

    def probabilities(self) -> Tensor:
        if self.beta is None:
            return super().probabilities()
        return self._by_candidate(self.operations() * self.edge_strength().unsqueeze(2))

    def sample(self) -> Child:
        if self.finished:
            return Child(self.picks)
        drawn = self._admissible(self._draw) if self.deployable else self._draw()
        if drawn is None:
            return Child(self.picks)
        picks, memory = drawn
        return Child(picks, self._unit_gates(picks), unit=True, memory=memory)

    def _draw(self) -> tuple[Picks, tuple[Tensor, Tensor]]:
        """picks, and the noise that they follow from: of the operations [slots, edges, operations] and of the edges
        [slots, edges].
        """
        noise = self._gumbel(self.members.shape), self._gumbel(self.edge_present.shape)
        scores = self._by_edge(self.logits.detach(), -torch.inf) + noise[0]
        operation = self.members.gather(2, scores.argmax(2, keepdim=True)).squeeze(2)
        if self.beta is None:
            chosen = self.edge_present
        else:
            score = (self.beta.detach() + noise[1]).masked_fill(~self.edge_present, -torch.inf)
            top = score.topk(self.slots[0].takes, dim=1).indices
            chosen = torch.zeros_like(self.edge_present).scatter(1, top, True)
        picks = tuple(
            self.fixed[s] if frozen else tuple(sorted(operation[s][chosen[s]].tolist()))
            for s, frozen in enumerate(self.frozen.tolist())
        )
        return picks, noise

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂gate per slot [picks], which is ∂L/∂A of the operation and ∂L/∂B of its edge alike: the gate is A
        · B, both 1.
        """
        if self.finished or child.memory is None:
            return []
        measured = torch.zeros(self.valid.shape, dtype=torch.float64)
        for s, gate in enumerate(gates):
            if gate is not None:
                measured[s, list(child.picks[s])] = gate.to("cpu", torch.float64)
        by_edge = self._by_edge(measured, 0.0)
        noise, edge_noise = child.memory
        # eq. 7, 8; their log softmax of the logits differs from the logits by a constant per softmax
        value = (by_edge * self._softmax(self._by_edge(self.logits, -torch.inf) + noise, self.temperature)).sum()
        if self.beta is not None:
            scores = (self.beta.masked_fill(~self.edge_present, -torch.inf) + edge_noise) / self.temperature
            value = value + (by_edge.sum(2) * scores.softmax(1)).sum()
        return list(torch.autograd.grad(value, self.variables()))


@register("gdas", title="GDAS", brings=RATE | {"temperature": 10.0, "last_temperature": 0.1})
class Gdas(Gumbel):
    """GDAS: every edge runs its drawn operation; the derived child, which has fewer edges, has to be trained anew."""

    all_edges = True
    retrain = True
