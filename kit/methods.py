"""Methods by name: what each one composes. Data only; nothing here or elsewhere branches on a method's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping


@dataclass(frozen=True)
class Stage:
    """A part of a run. learns: which of α, τ, η move in it (a joint method's learners; else the preset's fixed ones stand in).

    search: ends when the architecture is frozen. restart: begins with new weights and a schedule of its own.
    """

    name: str
    search: bool = False
    augment: bool = True
    hyper: bool = True
    restart: bool = False


JOINT = (Stage("search", search=True), Stage("tuning"))
SEQUENTIAL = (Stage("search", search=True, augment=False, hyper=False), Stage("tuning", restart=True))
TRAIN = (Stage("training"),)


@dataclass(frozen=True)
class Method:
    """learns_augment, learns_hyper: take the preset's learner of τ, η (else its fixed policy, fixed values)."""

    title: str
    arch: str
    stages: tuple[Stage, ...]
    learns_augment: bool = False
    learns_hyper: bool = False
    space: str = "cell"
    genotype: str | None = None
    step: str = "one-level"

    def values(self, preset: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration's fields that the method decides, given the preset's choice of learners."""
        return {
            "space": self.space,
            "arch": self.arch,
            "genotype": self.genotype,
            "augment": preset["learned_augment" if self.learns_augment else "fixed_augment"],
            "hyper": preset["learned_hyper"] if self.learns_hyper else "fixed",
        }


METHODS: Mapping[str, Method] = {
    "dha": Method("DHA: NAS + DA + HPO, joint", "sparse-coding", JOINT, learns_augment=True, learns_hyper=True),
    "nas+da": Method("NAS + DA, joint", "sparse-coding", JOINT, learns_augment=True),
    "nas+hpo": Method("NAS + HPO, joint", "sparse-coding", JOINT, learns_hyper=True),
    "seq-dha": Method("NAS, then DA + HPO", "sparse-coding", SEQUENTIAL, learns_augment=True, learns_hyper=True),
    "seq-nas+da": Method("NAS, then DA", "sparse-coding", SEQUENTIAL, learns_augment=True),
    "seq-nas+hpo": Method("NAS, then HPO", "sparse-coding", SEQUENTIAL, learns_hyper=True),
    "ista": Method("One-stage ISTA: NAS alone", "sparse-coding", JOINT),
    "da+hpo": Method("DA + HPO, joint, on a given network", "given", TRAIN, learns_augment=True, learns_hyper=True, genotype="darts-v2"),
    "random": Method("Random child, trained", "random", TRAIN),
    "plain": Method("DARTS V2 cells, trained", "given", TRAIN, genotype="darts-v2"),
}

# Values a preset fills in; every one of them can be overridden by name. search_share: the search stage's maximum share of the epochs.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The papers' settings (DHA's appendix, DARTS, ISTA-NAS): one run is GPU-days.
    "paper": {
        "epochs": 600, "search_share": 1 / 3, "batch_size": 96, "channels": 36, "cells": 20, "search_channels": 16, "search_cells": 8,
        "lr": 0.025, "weight_decay": 3e-4, "momentum": 0.9, "clip": 5.0, "drop_path": 0.2, "auxiliary": 0.4,
        "recover": "step", "freeze_tol": 1e-3, "arch_lr": 3e-4, "tau_lr": 1e-5, "hyper_lr": 1e-3,
        "fixed_augment": "flip-crop-cutout", "learned_augment": "pair-softmax", "learned_hyper": "fresh",
    },
    # One GPU, about an hour on CIFAR-size data. Steps on τ, b and η are scaled to a run a tenth as long.
    "server": {
        "epochs": 80, "search_share": 0.3, "batch_size": 128, "channels": 24, "cells": 14, "search_channels": 16, "search_cells": 8,
        "lr": 0.05, "weight_decay": 3e-4, "momentum": 0.9, "clip": 5.0, "drop_path": 0.1, "auxiliary": 0.4,
        "recover": "epoch", "freeze_tol": 1e-2, "arch_lr": 1e-3, "tau_lr": 1e-2, "hyper_lr": 1e-3,
        "fixed_augment": "flip-crop-cutout", "learned_augment": "pair-softmax", "learned_hyper": "lookahead",
    },
    # Two CPU cores, minutes, on images of 8 to 28 pixels. tau_lr was chosen on digits' validation images: eq. 2 feeds on itself, and at
    # 0.1 a single pair had all the probability after 13 epochs.
    "laptop": {
        "epochs": 25, "search_share": 0.3, "batch_size": 64, "channels": 8, "cells": 5, "search_channels": 8, "search_cells": 5,
        "lr": 0.1, "weight_decay": 3e-4, "momentum": 0.9, "clip": 5.0, "drop_path": 0.0, "auxiliary": 0.0,
        "recover": "epoch", "freeze_tol": 1e-2, "arch_lr": 3e-3, "tau_lr": 3e-2, "hyper_lr": 1e-2,
        "fixed_augment": "flip-crop", "learned_augment": "pair-softmax", "learned_hyper": "lookahead",
    },
}  # fmt: skip


def methods() -> list[str]:
    """Names that `Config(method=…)` accepts."""
    return list(METHODS)
