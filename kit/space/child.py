"""Slots and children: what architecture learners see of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from kit.errors import KitError

Picks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Slot:
    """One architectural decision: a child takes `takes` of the `candidates`, which are (operation, input edge) pairs."""

    name: str
    candidates: tuple[tuple[str, int], ...]
    takes: int = 1


@dataclass(frozen=True)
class Child:
    """An architecture, and how the learner weighs its operations.

    picks: for each slot the chosen candidates' indices; a mixture (DARTS, SNAS) may pick any number of them. gates: for
    each slot a float tensor [picks] that multiplies the candidates' outputs, or None for a plain sum; gates that
    require grad receive ∂L/∂gate from the backward pass that θ's gradient comes from. unit: every gate is exactly 1 and
    is there for its gradient alone (DSNAS, hard Gumbel with straight-through), so that nothing has to be multiplied.
    memory: what the learner that drew the child keeps of the draw.
    """

    picks: Picks
    gates: tuple[Tensor | None, ...] = field(default=(), compare=False)
    unit: bool = field(default=False, compare=False)
    memory: Any = field(default=None, compare=False, repr=False)

    def gate(self, slot: int) -> Tensor | None:
        return self.gates[slot] if self.gates else None

    def still(self) -> Child:
        """The same function with constant gates."""
        if self.unit:
            return Child(self.picks)
        return Child(self.picks, tuple(None if gate is None else gate.detach() for gate in self.gates))


class Cost(NamedTuple):
    """Trainable parameters and multiply-adds per image of the network that is deployed (no auxiliary head)."""

    params: int
    macs: int


def picked(slot: Slot, entries: Any) -> tuple[int, ...]:
    """The candidates' indices of [operation, input] pairs, or of plain names where a slot has one input. Raises
    KitError for what the slot does not offer."""
    names, inputs = (tuple(dict.fromkeys(part)) for part in zip(*slot.candidates))
    offer = f"{slot.takes} different of {', '.join(names)}" + (
        f", each with an input of {inputs}" if inputs[1:] else ""
    )
    listed = entries if isinstance(entries, (list, tuple)) else [entries]
    pairs = [tuple(entry) if isinstance(entry, (list, tuple)) else (entry, 0) for entry in listed]
    wrong = [pair for pair in pairs if pair not in slot.candidates or pairs.count(pair) > 1]
    if wrong or len(pairs) != slot.takes:
        raise KitError(f"genotype {slot.name}: it takes {offer}; got {entries!r}")
    return tuple(slot.candidates.index(pair) for pair in pairs)
