"""Hyper-parameter spaces: for each name the values whose mixture (continuous) or choice (categorical) is searched
(AutoHAS, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kit import errors
from kit.errors import KitError
from kit.search.grads import RATES

#: name → (least, greatest) allowed value; the optimizer is categorical
RANGES: Mapping[str, tuple[float, float]] = {
    "lr": (1e-6, 10.0),
    "weight_decay": (0.0, 1.0),
    "mixup": (0.0, 1.0),
    "dropout": (0.0, 0.9),
    "drop_path": (0.0, 0.9),
}
NAMES = (*RANGES, "optimizer")


@dataclass(frozen=True)
class Basis:
    """values: numbers in ascending order, or names of optimizers. Raises KitError when empty, unsorted, repeated or out
    of range.
    """

    name: str
    values: tuple[float, ...] | tuple[str, ...]

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise errors.unknown("hyper-parameter", self.name, NAMES)
        if not self.values:
            raise KitError(
                f"the basis of {self.name!r} is empty: give at least one value, e.g. {self.name}={_example(self.name)}"
            )
        if self.categorical:
            for value in self.values:
                if value not in RATES:
                    raise errors.unknown("optimizer", value, RATES)
            if len(set(self.values)) < len(self.values):
                raise KitError(f"the basis of 'optimizer' names one twice: {':'.join(self.values)}")
            return
        low, high = RANGES[self.name]
        for value in self.values:
            if not math.isfinite(value) or not low <= value <= high:
                raise KitError(f"the basis of {self.name!r} holds {value:g}, allowed is {low:g} to {high:g}")
        if list(self.values) != sorted(set(self.values)):
            shown = ":".join(f"{v:g}" for v in sorted(set(self.values)))
            raise KitError(f"the basis of {self.name!r} must ascend without repetition: {self.name}={shown}")

    @property
    def categorical(self) -> bool:
        return self.name == "optimizer"


DEFAULT_BASES: Mapping[str, Basis] = {
    basis.name: basis
    for basis in (
        Basis("lr", (0.01, 0.025, 0.05, 0.1, 0.2)),
        Basis("weight_decay", (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
        Basis("mixup", (0.0, 0.05, 0.1, 0.15, 0.2)),
        Basis("dropout", (0.0, 0.1, 0.2, 0.3, 0.5)),
        Basis("drop_path", (0.0, 0.1, 0.2, 0.3, 0.5)),
        Basis("optimizer", ("sgd", "adam", "rmsprop")),
    )
}


def read_bases(text: str) -> dict[str, Basis]:
    """ "lr,mixup" (the default bases) or "lr=0.01:0.05:0.1,optimizer=sgd:adam" → bases by name. Raises KitError for
    anything else.
    """
    bases: dict[str, Basis] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, values = (piece.strip() for piece in part.partition("="))
        if name not in NAMES:
            raise errors.unknown("hyper-parameter in hyper_space", name, NAMES)
        if name in bases:
            raise KitError(f"hyper_space={text!r} names {name!r} twice")
        bases[name] = Basis(name, _values(name, values, text)) if given else DEFAULT_BASES[name]
    if not bases:
        raise KitError(
            f"hyper_space={text!r} holds no hyper-parameter: name some of {', '.join(NAMES)}, e.g. "
            "hyper_space='lr,weight_decay'"
        )
    return bases


def _values(name: str, text: str, whole: str) -> tuple[float, ...] | tuple[str, ...]:
    parts = [part.strip() for part in text.split(":") if part.strip()]
    if name == "optimizer":
        return tuple(parts)
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise KitError(
            f"hyper_space={whole!r}: the values of {name!r} are numbers with colons between, e.g. "
            f"{name}={_example(name)}"
        ) from None


def _example(name: str) -> str:
    values = DEFAULT_BASES[name].values if "DEFAULT_BASES" in globals() else ()
    return ":".join(v if isinstance(v, str) else f"{v:g}" for v in values)
