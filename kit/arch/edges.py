"""Architecture learners that decide per input edge: DARTS's and SNAS's mixtures, GDAS's and DAAS's hard Gumbel (METHOD
section 2c).

A slot's candidates are grouped by the edge that they read. In a space without edges (choice blocks) a slot is one
group, so that all of these work on it as well.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit.arch.base import RateOptions, register
from kit.arch.logits import Logits
from kit.errors import KitError
from kit.space.network import Child, Picks, Slot, everything

RATE = {"arch_reach": 6.0}  # DARTS: Adam at 3e-4 for 50 epochs of 390 steps


class TemperatureOptions(RateOptions):
    temperature: float = Field(1.0, gt=0, description="of the Gumbel softmax at the start of the search")
    last_temperature: float = Field(1.0, gt=0, description="… and at its end")


class Edges(Logits):
    """A categorical over operations on every edge. The derived architecture takes each edge's best operation, and the
    slot's strongest edges. The temperature falls linearly over the search."""

    def __init__(self, slots: tuple[Slot, ...], *args: Any, **settings: Any):
        groups = [_by_edge(slot) for slot in slots]
        width = max(len(group) for edges in groups for group in edges)
        #: int64 [slots, edges, operations]: candidate indices; −1 pads
        self.members = torch.full((len(slots), max(map(len, groups)), width), -1)
        for s, edges in enumerate(groups):
            for e, group in enumerate(edges):
                self.members[s, e, : len(group)] = torch.tensor(group)
        self.present = self.members >= 0
        self.edge_present = self.present.any(2)
        super().__init__(slots, *args, **settings)
        self.temperature = getattr(self.options, "temperature", 1.0)

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        if issubclass(cls.Options, TemperatureOptions) and config.temperature < config.last_temperature:
            raise KitError(
                f"temperature={config.temperature} falls to last_temperature={config.last_temperature}: give one that "
                "is not larger"
            )

    def anneal(self, share: float) -> None:
        first, last = (getattr(self.options, name, 1.0) for name in ("temperature", "last_temperature"))
        self.temperature = first + (last - first) * share

    def to_edges(self, values: Tensor, padding: float = -torch.inf) -> Tensor:
        """[slots, most candidates] → [slots, edges, operations]."""
        by_edge = values.gather(1, self.members.clamp(min=0).flatten(1)).view(self.members.shape)
        return by_edge.masked_fill(~self.present, padding)

    def to_candidates(self, values: Tensor) -> Tensor:
        """The inverse of `to_edges`; padding is 0."""
        index = self.members.clamp(min=0).flatten(1)
        by_candidate = torch.zeros(self.valid.shape, dtype=values.dtype)
        return by_candidate.scatter_add(1, index, values.masked_fill(~self.present, 0.0).flatten(1))

    def softmax(self, scores: Tensor, temperature: float = 1.0) -> Tensor:
        """Over the operations of each edge; 0 for edges that do not exist."""
        scores = torch.where(self.edge_present.unsqueeze(2), scores / temperature, 0.0)
        return scores.softmax(2).masked_fill(~self.present, 0.0)

    def operations(self) -> Tensor:
        """p(operation | edge): float64 [slots, edges, operations]."""
        return self.softmax(self.to_edges(self.logits.detach()))

    def distributions(self) -> Tensor:
        return self.operations()[self.edge_present]

    def probabilities(self) -> Tensor:
        return self.to_candidates(self.operations()) / self.edge_present.sum(1, keepdim=True)

    def edge_strength(self) -> Tensor:
        """[slots, edges] in [0, 1]: DARTS ranks edges by their best operation."""
        return self.operations().max(2).values

    def strength(self) -> Tensor:
        operations, edge = self.operations(), self.edge_strength().unsqueeze(2)
        best = (operations.argmax(2, keepdim=True) == torch.arange(operations.shape[2])) & self.present
        # any edge's best operation before any second best one: a slot takes one operation per edge
        return self.to_candidates(torch.where(best, 1.0 + edge, operations * edge))


def _by_edge(slot: Slot) -> list[list[int]]:
    """The candidates of every edge, edges ascending."""
    edges = sorted({edge for _, edge in slot.candidates})
    return [[c for c, (_, of) in enumerate(slot.candidates) if of == edge] for edge in edges]


@register("darts", title="DARTS", brings=RATE)
class Darts(Edges):
    """DARTS: all candidates run, weighed by the softmax over each edge's operations. Takes the memory of the whole
    supernet, and the derived child has to be trained anew, since its weights were trained within the mixture."""

    retrain = True
    limited = False
    #: whether the logits are perturbed by Gumbel noise
    noisy = False

    def draw(self) -> tuple[Picks, Tensor]:
        """memory: every candidate's weight, float64 [slots, most candidates], differentiable."""
        scores = self.to_edges(self.logits)
        if self.noisy:
            scores = scores + self.gumbel(self.members.shape)
        return everything(self.slots), self.to_candidates(self.softmax(scores, self.temperature))

    def child(self, picks: Picks, memory: Tensor) -> Child:
        weights = [row[: len(chosen)].to(self.device, torch.float32) for row, chosen in zip(memory, picks)]
        return Child(picks, tuple(gate.detach().requires_grad_() for gate in weights), memory=memory)

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂weight per slot [candidates]."""
        if self.finished:
            return []
        return list(torch.autograd.grad((self.by_candidate(child, gates) * child.memory).sum(), self.logits))


@register("snas", title="SNAS", brings=RATE | {"temperature": 1.0, "last_temperature": 0.03})
class Snas(Darts):
    """SNAS: the same mixture with Gumbel noise and temperature λ (eq. 4)."""

    Options = TemperatureOptions
    noisy = True


@register("daas", title="Hard Gumbel over edges and operations (DAAS)", brings=RATE)
class Gumbel(Edges):
    """One operation per edge by Gumbel-max, behind a gate of value 1 whose gradient goes through the relaxed softmax
    (straight-through).

    A slot draws as many edges as it takes from β, by Gumbel top-k (DAAS eq. 7, 8), and derives β's strongest ones.
    """

    Options = TemperatureOptions
    #: every edge runs and there is no β (GDAS)
    all_edges = False
    beta: Tensor | None = None

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        edges = self.edge_present.sum(1).tolist()
        # where a child has more edges than are deployed, the limits are about the derived one alone
        self.limited = not self.all_edges or all(n == slot.takes for n, slot in zip(edges, self.slots))
        if not self.all_edges:
            self.beta = torch.zeros(self.edge_present.shape, dtype=torch.float64).requires_grad_()
            self.adam.add_param_group({"params": [self.beta]})

    def edge_strength(self) -> Tensor:
        return super().edge_strength() if self.beta is None else self.edge_scores().detach().softmax(1)

    def edge_scores(self) -> Tensor:
        return self.beta.masked_fill(~self.edge_present, -torch.inf)

    def probabilities(self) -> Tensor:
        if self.beta is None:
            return super().probabilities()
        return self.to_candidates(self.operations() * self.edge_strength().unsqueeze(2))

    def draw(self) -> tuple[Picks, tuple[Tensor, Tensor]]:
        """memory: the noise of the operations [slots, edges, operations] and of the edges [slots, edges]."""
        noise, edge_noise = self.gumbel(self.members.shape), self.gumbel(self.edge_present.shape)
        scores = self.to_edges(self.logits.detach()) + noise
        operation = self.members.gather(2, scores.argmax(2, keepdim=True)).squeeze(2)
        chosen = self.edge_present
        if self.beta is not None:
            top = (self.edge_scores() + edge_noise).topk(self.slots[0].takes, dim=1).indices
            chosen = torch.zeros_like(self.edge_present).scatter(1, top, True)
        picks = tuple(
            self.picks[s] if frozen else tuple(sorted(operation[s][chosen[s]].tolist()))
            for s, frozen in enumerate(self.frozen.tolist())
        )
        return picks, (noise, edge_noise)

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂gate per slot [picks]. A gate is A · B, both 1: its gradient is that of the operation's A and of
        the edge's B alike."""
        if self.finished or child.memory is None:
            return []
        by_edge, (noise, edge_noise) = self.to_edges(self.by_candidate(child, gates), 0.0), child.memory
        # eq. 7, 8; their log softmax of the logits differs from the logits by a constant per softmax
        value = (by_edge * self.softmax(self.to_edges(self.logits) + noise, self.temperature)).sum()
        if self.beta is not None:
            relaxed = ((self.edge_scores() + edge_noise) / self.temperature).softmax(1)
            value = value + (by_edge.sum(2) * relaxed).sum()
        return list(torch.autograd.grad(value, self.variables()))


@register("gdas", title="GDAS", brings=RATE | {"temperature": 10.0, "last_temperature": 0.1})
class Gdas(Gumbel):
    """GDAS: every edge runs its drawn operation; the derived child, which has fewer edges, has to be trained anew."""

    all_edges = True
    retrain = True
