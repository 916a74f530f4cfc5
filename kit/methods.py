"""Methods by name: what each one composes. Data only; nothing here or elsewhere branches on a method's name. A row of
one's own is registered as those of `kit/zoo` are, in a notebook or a plug-in file: see docs/extending.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from kit.errors import KitError


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    search: α is searched; the stage ends when the architecture is frozen. augment, hyper: whether the method's τ and η
    learn ("learn"), the preset's fixed ones are used ("default"), or the result of the stage before ("derived").
    restart: with new weights, and a schedule of its own. step: a name of `kit.search.step.STEPS`. warm_up: share of the
    stage before its τ (bi-level) or controllers (reward) learn, unless configured. repeat: once per trial. depth: how
    many times `search_cells` a search stage's network has."""

    name: str
    search: bool = False
    augment: Literal["learn", "default", "derived"] = "learn"
    hyper: Literal["learn", "default", "derived"] = "learn"
    restart: bool = False
    step: str = "one-level"
    warm_up: float = 0.0
    repeat: bool = False
    depth: float = 1.0


JOINT = (Stage("search", search=True), Stage("tuning"))
SEQUENTIAL = (Stage("search", search=True, augment="default", hyper="default"), Stage("tuning", restart=True))
SWITCHED = (Stage("search", search=True, augment="default", hyper="default"), Stage("tuning"))
TRAIN = (Stage("training"),)
RETRAIN = Stage("retraining", restart=True, augment="derived", hyper="derived")
TWO_LEVELS = (Stage("search", search=True, step="bi-level"), RETRAIN)
# DAAS: 20 of its 50 search epochs without γ; AutoHAS: the controllers rest for 30% of the search
DAAS = (Stage("search", search=True, step="bi-level", warm_up=0.4), RETRAIN)
DAAS_GIVEN = (Stage("policy", step="bi-level"), RETRAIN)
AUTOHAS = (Stage("search", search=True, step="reward", warm_up=0.3), RETRAIN)
AUTOHAS_GIVEN = (Stage("hyper-parameters", step="reward", warm_up=0.3), RETRAIN)


@dataclass(frozen=True)
class Method:
    """arch: a name of `kit.arch.ARCH`. augment, hyper: a name, or "learned" or "default" for the preset's choice.
    values: other fields of the configuration that the method decides."""

    title: str
    arch: str
    stages: tuple[Stage, ...]
    augment: str = "default"
    hyper: str = "default"
    space: str = "cell"
    values: Mapping[str, Any] = field(default_factory=dict)

    def unrolled(self, trials: int) -> list[Stage]:
        """The stages in order, repeated ones numbered and as often as they run."""
        every = [stage for stage in self.stages for _ in range(trials if stage.repeat else 1)]
        return [replace(stage, name=f"{stage.name}-{i}") if stage.repeat else stage for i, stage in enumerate(every)]

    @property
    def searches(self) -> str:
        """The Greek letters of what learns in it: "τ α η"."""
        learns = (self.augment != "default", any(stage.search for stage in self.stages), self.hyper != "default")
        return " ".join(letter if learned else "·" for letter, learned in zip("ταη", learns))

    def filled(self, preset: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration's fields that the method decides, given the preset's choice of learners."""
        augment = {"learned": "pair-softmax", "default": preset["fixed_augment"]}
        hyper = {"learned": preset["learned_hyper"], "default": "fixed"}
        chosen = {"augment": augment.get(self.augment, self.augment), "hyper": hyper.get(self.hyper, self.hyper)}
        return {"space": self.space, "arch": self.arch, **chosen}


_daas = partial(Method, augment="policy-gradient")
_autohas = partial(Method, space="mobile", hyper="reinforce")
MIXUP = {"hyper_space": "mixup"}  # beside architectures, as in AutoHAS's Table 4
METHODS: dict[str, Method] = {
    # DHA and its ablation (its Table 3 and 4)
    "dha": Method("DHA: NAS + DA + HPO, joint", "sparse-coding", JOINT, "learned", "learned"),
    "nas+da": Method("NAS + DA, joint", "sparse-coding", JOINT, "learned"),
    "nas+hpo": Method("NAS + HPO, joint", "sparse-coding", JOINT, hyper="learned"),
    "seq-dha": Method("NAS, then DA + HPO", "sparse-coding", SEQUENTIAL, "learned", "learned"),
    "seq-nas+da": Method("NAS, then DA", "sparse-coding", SEQUENTIAL, "learned"),
    "nas-then-da": Method("NAS, then DA, on the same weights", "sparse-coding", SWITCHED, "learned"),
    "seq-nas+hpo": Method("NAS, then HPO", "sparse-coding", SEQUENTIAL, hyper="learned"),
    "ista": Method("One-stage ISTA: NAS alone", "sparse-coding", JOINT),
    "da+hpo": Method("DA + HPO, joint, on a given network", "given", TRAIN, "learned", "learned"),
    # DiffAutoML: on single-path choice blocks, η from the validation loss; augment="pair-softmax-4" and hyper="fixed"
    # are its Table 3
    "diffautoml": Method(
        "DiffAutoML: NAS + DA + HPO, joint, on choice blocks", "dsnas", JOINT, "pair-softmax", "validation", "choice"
    ),
    "dsnas": Method("DSNAS: NAS alone, on choice blocks", "dsnas", JOINT, space="choice"),
    # DAAS
    "daas": _daas("DAAS: NAS + DA, two levels, retrained", "daas", DAAS),
    "daas-da": _daas("DAAS, DA alone on a given network, retrained", "given", DAAS_GIVEN),
    # AutoHAS on MobileNetV2-style blocks
    "autohas": _autohas("AutoHAS: NAS + HPO by REINFORCE, retrained", "reinforce", AUTOHAS, values=MIXUP),
    "autohas-hpo": _autohas("AutoHAS, HPO alone on MobileNetV2", "given", AUTOHAS_GIVEN),
    # without a search
    "random": Method("Random child, trained", "random", TRAIN),
    "plain": Method("DARTS V2 cells, trained", "given", TRAIN),
}

# Values that a preset fills in; every one of them can be overridden by name. search_share: the longest share of the
# epochs before the last stage. photo_size: what photographs that differ in size are fitted to without an image_size.
# The options of learners, spaces and steps stand with those.
#   paper: the papers' settings (DHA's appendix, DARTS, ISTA-NAS); one run is GPU-days
#   server: one GPU, about an hour on CIFAR-size data
#   laptop: two CPU cores, minutes, on images of 8 to 28 pixels
_VALUES: Mapping[str, tuple[Any, Any, Any]] = {
    "epochs": (600, 80, 25),
    "search_share": (1 / 3, 0.3, 0.3),
    "photo_size": (224, 64, 32),
    "batch_size": (96, 128, 64),
    "channels": (36, 24, 8),
    "cells": (20, 14, 5),
    "search_channels": (16, 16, 8),
    "search_cells": (8, 8, 5),
    "lr": (0.025, 0.05, 0.1),
    "drop_path": (0.2, 0.1, 0.0),
    "auxiliary": (0.4, 0.4, 0.0),
    "fixed_augment": ("flip-crop-cutout", "flip-crop-cutout", "flip-crop"),
    "learned_hyper": ("fresh", "lookahead", "lookahead"),
}
_COLUMNS = zip(("paper", "server", "laptop"), zip(*_VALUES.values()))
PRESETS: Mapping[str, Mapping[str, Any]] = {preset: dict(zip(_VALUES, column)) for preset, column in _COLUMNS}


def register(name: str, title: str, **composed: Any) -> None:
    """Add a row to `kit.methods()`. composed: as `Method` has it. The same title again, as of a notebook's cell,
    replaces the row; raises KitError for the name of another one."""
    if name in METHODS and METHODS[name].title != title:
        raise KitError(f"method {name!r} is already registered ({METHODS[name].title}): give yours another name")
    METHODS[name] = Method(title, **composed)


class MethodNames(list):
    """Names of methods, printed as a table with what each one searches."""

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {METHODS[name].searches:<5}  {METHODS[name].title}" for name in self)


def methods() -> MethodNames:
    """Names that `Config(method=…)` accepts."""
    return MethodNames(METHODS)


methods.register = register  # kit.methods is this function: kit.methods.register beside kit.arch.register and others
