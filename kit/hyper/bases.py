"""Hyper-parameter spaces: for each name the values to mix (numbers) or choose from (optimizers); AutoHAS, 2.2."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
DEFAULTS: Mapping[str, tuple[float, ...] | tuple[str, ...]] = {
    "lr": (0.01, 0.025, 0.05, 0.1, 0.2),
    "weight_decay": (1e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "mixup": (0.0, 0.05, 0.1, 0.15, 0.2),
    "dropout": (0.0, 0.1, 0.2, 0.3, 0.5),
    "drop_path": (0.0, 0.1, 0.2, 0.3, 0.5),
    "optimizer": ("sgd", "adam", "rmsprop"),
}


@dataclass(frozen=True)
class Basis:
    """values: numbers in ascending order, or names of optimizers. Raises KitError when empty, unsorted, repeated or out
    of range."""

    name: str
    values: tuple[float, ...] | tuple[str, ...]

    def __post_init__(self) -> None:
        name, values = self.name, self.values
        if name not in NAMES:
            raise errors.unknown("hyper-parameter", name, NAMES)
        if not values:
            raise KitError(f"the basis of {name!r} is empty: give at least one value, e.g. {_example(name)}")
        if self.categorical:
            for value in values:
                if value not in RATES:
                    raise errors.unknown("optimizer", value, RATES)
            if len(set(values)) < len(values):
                raise KitError(f"the basis of 'optimizer' names one twice: {':'.join(values)}")
            return
        low, high = RANGES[name]
        for value in values:
            if not math.isfinite(value) or not low <= value <= high:
                raise KitError(f"the basis of {name!r} holds {value:g}, allowed is {low:g} to {high:g}")
        if list(values) != sorted(set(values)):
            shown = _example(name, sorted(set(values)))
            raise KitError(f"the basis of {name!r} must ascend without repetition: {shown}")

    @property
    def categorical(self) -> bool:
        return self.name == "optimizer"


def read_bases(text: str) -> dict[str, Basis]:
    """Bases by name from "lr,mixup" (the default values) or "lr=0.01:0.05:0.1,optimizer=sgd:adam". Raises KitError for
    anything else."""
    bases: dict[str, Basis] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, values = (piece.strip() for piece in part.partition("="))
        if name not in NAMES:
            raise errors.unknown("hyper-parameter in hyper_space", name, NAMES)
        if name in bases:
            raise KitError(f"hyper_space={text!r} names {name!r} twice")
        chosen = [value.strip() for value in values.split(":") if value.strip()]
        try:
            numbers = chosen if name == "optimizer" else [float(value) for value in chosen]
        except ValueError:
            raise KitError(
                f"hyper_space={text!r}: the values of {name!r} are numbers with colons between, e.g. {_example(name)}"
            ) from None
        bases[name] = Basis(name, tuple(numbers) if given else DEFAULTS[name])
    if not bases:
        raise KitError(
            f"hyper_space={text!r} holds no hyper-parameter: name some of {', '.join(NAMES)}, e.g. "
            "hyper_space='lr,weight_decay'"
        )
    return bases


def _example(name: str, values: Iterable[float | str] | None = None) -> str:
    shown = DEFAULTS[name] if values is None else values
    return f"{name}=" + ":".join(v if isinstance(v, str) else f"{v:g}" for v in shown)
