"""α: architecture learners. One is added by one entry in `ARCH`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from kit.arch.base import ArchLearner, Given, random_picks, strongest_picks
from kit.arch.edges import Darts, Gumbel, Snas
from kit.arch.lasso import lasso
from kit.arch.logits import Categorical, Dsnas, Reinforce
from kit.arch.sparse import SparseCoding
from kit.space.limits import Limits, Target
from kit.space.network import Slot


@dataclass(frozen=True)
class Settings:
    """What a searching learner starts from; each takes what it needs."""

    slots: tuple[Slot, ...]
    generator: torch.Generator
    limits: Limits
    lr: float
    device: torch.device
    lam: float
    recover: str
    freeze_tol: float
    margin: float
    temperature: tuple[float, float]
    baseline: float
    target: Target | None


@dataclass(frozen=True)
class Entry:
    """build: None where nothing is searched. kind: for what it needs. weighs: its gates are not 1, so that a space must
    be able to take
    them over. retrain: what it trains is not the derived child. target: it can steer to `target_macs`."""

    kind: type[ArchLearner]
    build: Callable[[Settings], ArchLearner] | None = None
    weighs: bool = False
    retrain: bool = False
    target: bool = False


def _common(s: Settings) -> tuple:
    return s.slots, s.generator, s.limits


ARCH: Mapping[str, Entry] = {
    "sparse-coding": Entry(
        SparseCoding,
        lambda s: SparseCoding(
            *_common(s), lr=s.lr, lam=s.lam, recover=s.recover, freeze_tol=s.freeze_tol, device=s.device
        ),
        weighs=True,
    ),
    "dsnas": Entry(
        Dsnas, lambda s: Dsnas(*_common(s), lr=s.lr, device=s.device, margin=s.margin, target=s.target), target=True
    ),
    "snas": Entry(
        Snas,
        lambda s: Snas(
            *_common(s), lr=s.lr, device=s.device, temperature=s.temperature[0], last_temperature=s.temperature[1]
        ),
        retrain=True,
    ),
    "darts": Entry(Darts, lambda s: Darts(*_common(s), lr=s.lr, device=s.device), retrain=True),
    "gdas": Entry(
        Gumbel,
        lambda s: Gumbel(
            *_common(s),
            lr=s.lr,
            device=s.device,
            all_edges=True,
            temperature=s.temperature[0],
            last_temperature=s.temperature[1],
        ),
        retrain=True,
    ),
    "daas": Entry(
        Gumbel,
        lambda s: Gumbel(
            *_common(s), lr=s.lr, device=s.device, temperature=s.temperature[0], last_temperature=s.temperature[1]
        ),
    ),
    "reinforce": Entry(
        Reinforce,
        lambda s: Reinforce(*_common(s), lr=s.lr, device=s.device, baseline=s.baseline, target=s.target),
        target=True,
    ),
    "given": Entry(Given),
    "random": Entry(Given),
}

__all__ = [
    "ARCH",
    "ArchLearner",
    "Categorical",
    "Darts",
    "Dsnas",
    "Entry",
    "Given",
    "Gumbel",
    "Reinforce",
    "Settings",
    "Snas",
    "SparseCoding",
    "lasso",
    "random_picks",
    "strongest_picks",
]
