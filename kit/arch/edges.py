"""Architecture learners that decide per input edge (METHOD section 2c): a slot's candidates are grouped by the edge
that they read. In a space without edges (choice blocks) a slot is one group."""

from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kit.arch.base import register
from kit.arch.logits import Logits
from kit.errors import KitError
from kit.space.network import Child, Picks, Slot


class Edges(Logits):
    """A categorical over operations on every edge, of which one runs, drawn by Gumbel-max, behind a gate of value 1
    whose gradient goes through the relaxed softmax (straight-through). Derived are the slot's strongest edges with
    their best operations. The temperature falls linearly over the search."""

    class Options(Logits.Options):
        temperature: float = Field(1.0, gt=0, description="of the softmax over an edge's operations, at first")
        last_temperature: float = Field(1.0, gt=0, description="… and at the end of the search")

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        first, last = config.temperature, config.last_temperature
        if first < last:
            raise KitError(f"temperature={first} falls to last_temperature={last}: give one that is not larger")

    def __init__(self, slots: tuple[Slot, ...], *given: Any, **settings: Any):
        super().__init__(slots, *given, **settings)
        edges = [sorted({edge for _, edge in slot.candidates}) for slot in slots]
        of_edge = lambda slot, edge: [c for c, (_, of) in enumerate(slot.candidates) if of == edge]
        groups = [[of_edge(slot, edge) for edge in own] for slot, own in zip(slots, edges)]
        pad = partial(pad_sequence, batch_first=True, padding_value=-1)
        rows = pad([torch.tensor(group) for edges in groups for group in edges])
        self.members = pad(rows.split(list(map(len, groups))))  # int64 [slots, edges, operations]: candidates; −1 pads
        self.present = self.members >= 0
        self.edge_present = self.present.any(2)
        self.temperature = self.options.temperature

    def anneal(self, share: float) -> None:
        first, last = self.options.temperature, self.options.last_temperature
        self.temperature = first + (last - first) * share

    def to_edges(self, values: Tensor, padding: float = -torch.inf) -> Tensor:
        """[slots, most candidates] → [slots, edges, operations]."""
        by_edge = values.gather(1, self.members.clamp(min=0).flatten(1)).view(self.members.shape)
        return by_edge.masked_fill(~self.present, padding)

    def to_candidates(self, values: Tensor) -> Tensor:
        """The inverse of `to_edges`; padding is 0."""
        by_candidate = torch.zeros(self.valid.shape, dtype=values.dtype)
        present = values.masked_fill(~self.present, 0.0)
        return by_candidate.scatter_add(1, self.members.clamp(min=0).flatten(1), present.flatten(1))

    def softmax(self, scores: Tensor, temperature: float = 1.0) -> Tensor:
        scores = torch.where(self.edge_present.unsqueeze(2), scores / temperature, 0.0)
        return scores.softmax(2).masked_fill(~self.present, 0.0)

    def operations(self) -> Tensor:
        """p(operation | edge): float64 [slots, edges, operations]."""
        return self.softmax(self.to_edges(self.logits.detach()))

    def distributions(self) -> Tensor:
        return self.operations()[self.edge_present]

    @property
    def alpha(self) -> Tensor:
        return self.to_candidates(self.operations()) / self.edge_present.sum(1, keepdim=True)

    def edge_strength(self) -> Tensor:
        return self.operations().max(2).values  # [slots, edges] in [0, 1], as DARTS ranks them

    def strength(self) -> Tensor:
        operations, edge = self.operations(), self.edge_strength().unsqueeze(2)
        best = operations.argmax(2, keepdim=True) == torch.arange(operations.shape[2])
        # any edge's best operation before any second best one: a slot takes one operation per edge
        return self.to_candidates(torch.where(best, 1.0 + edge, operations * edge))

    def run_edges(self, edge_noise: Tensor) -> Tensor:
        return self.edge_present  # bool [slots, edges]

    def draw(self) -> tuple[Picks, tuple[Tensor, Tensor]]:
        """memory: the noise of the operations and of the edges."""
        noise, edge_noise = self.gumbel(self.members.shape), self.gumbel(self.edge_present.shape)
        best = (self.to_edges(self.logits.detach()) + noise).argmax(2, keepdim=True)
        operations, run = self.members.gather(2, best).squeeze(2), self.run_edges(edge_noise)
        drawn = [tuple(sorted(row[there].tolist())) for row, there in zip(operations, run)]
        return tuple(chosen or new for chosen, new in zip(self.fixed, drawn)), (noise, edge_noise)

    def value(self, child: Child, *, gates: list[Tensor | None], **_: object) -> Tensor:
        return self.relaxed(self.to_edges(self.by_candidate(child, gates), 0.0), *child.memory)

    def relaxed(self, by_edge: Tensor, noise: Tensor, edge_noise: Tensor) -> Tensor:
        # DAAS eq. 7; their log softmax of the logits differs from the logits by a constant per softmax
        return (by_edge * self.softmax(self.to_edges(self.logits) + noise, self.temperature)).sum()


@register("daas", title="Hard Gumbel over edges and operations (DAAS)", brings={"arch_reach": 6.0})
class Gumbel(Edges):
    """A slot also draws as many edges as it takes from β, by Gumbel top-k, and derives β's strongest ones. A gate is
    A · B, both 1: its gradient is that of the operation's A and of the edge's B alike."""

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        self.beta = torch.zeros(self.edge_present.shape, dtype=torch.float64)
        self.optimize(self.logits, self.beta)

    def edge_scores(self) -> Tensor:
        return self.beta.masked_fill(~self.edge_present, -torch.inf)

    def edge_strength(self) -> Tensor:
        return self.edge_scores().detach().softmax(1)

    @property
    def alpha(self) -> Tensor:
        return self.to_candidates(self.operations() * self.edge_strength().unsqueeze(2))

    def run_edges(self, edge_noise: Tensor) -> Tensor:
        top = (self.edge_scores() + edge_noise).topk(self.slots[0].takes, dim=1).indices
        return torch.zeros_like(self.edge_present).scatter(1, top, True)

    def relaxed(self, by_edge: Tensor, noise: Tensor, edge_noise: Tensor) -> Tensor:
        edges = ((self.edge_scores() + edge_noise) / self.temperature).softmax(1)  # eq. 8
        return super().relaxed(by_edge, noise, edge_noise) + (by_edge.sum(2) * edges).sum()
