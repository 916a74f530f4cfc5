"""Slots and children: what architecture learners see of a network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from kit.errors import KitError

Picks = tuple[tuple[int, ...], ...]  # for each slot the chosen candidates' indices


class Slot(NamedTuple):
    """One architectural decision: a child takes `takes` of the candidates, which are (operation, input edge) pairs."""

    name: str
    candidates: tuple[tuple[str, int], ...]
    takes: int = 1


def everything(slots: Iterable[Slot]) -> Picks:
    """All candidates of every slot: a mixture that runs each operation once."""
    return tuple(tuple(range(len(slot.candidates))) for slot in slots)


@dataclass(frozen=True)
class Child:
    """An architecture, and how the learner weighs its operations.

    picks: a mixture (DARTS, SNAS) may pick any number of a slot's candidates. gates: for each slot a float tensor
    [picks] that multiplies the candidates' outputs, or None for a plain sum; gates that require grad receive ∂L/∂gate
    in the backward pass. unit: every gate is exactly 1 and is there for its gradient alone (DSNAS, hard Gumbel with
    straight-through), so that nothing has to be multiplied. memory: what the learner keeps of the draw.
    """

    picks: Picks
    gates: tuple[Tensor | None, ...] = field(default=(), compare=False)
    unit: bool = field(default=False, compare=False)
    memory: Any = field(default=None, compare=False, repr=False)

    def gate(self, slot: int) -> Tensor | None:
        return self.gates[slot] if self.gates else None

    def detached(self) -> Child:
        """The same function with constant gates."""
        constant = () if self.unit else tuple(None if gate is None else gate.detach() for gate in self.gates)
        return Child(self.picks, constant)


class Cost(NamedTuple):
    """Parameters and multiply-adds per image of the network that is deployed (no auxiliary head)."""

    params: int
    macs: int


def picked(slot: Slot, entries: Any) -> tuple[int, ...]:
    """The candidates' indices of [operation, input] pairs, or of plain names where a slot has one input. Raises
    KitError for what the slot does not offer."""
    listed = entries if isinstance(entries, (list, tuple)) else [entries]
    pairs = [tuple(entry) if isinstance(entry, (list, tuple)) else (entry, 0) for entry in listed]
    if len(pairs) != slot.takes or any(pair not in slot.candidates or pairs.count(pair) > 1 for pair in pairs):
        names, inputs = (list(dict.fromkeys(part)) for part in zip(*slot.candidates))
        takes = f"{slot.takes} different [operation, input], inputs {inputs}, operations" if inputs[1:] else "one of"
        raise KitError(f"genotype {slot.name}: it takes {takes} {', '.join(names)}; got {entries!r}")
    return tuple(map(slot.candidates.index, pairs))
