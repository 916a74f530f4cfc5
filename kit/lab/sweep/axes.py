"""A grid as a notebook's flat parameters say it: names and numbers with commas."""

from __future__ import annotations

from typing import Any

from kit.errors import KitError
from kit.lab import notebook


def read(datasets: str, methods: str, seeds: int | str, overrides: str, values: dict[str, Any]) -> dict[str, Any]:
    """The axes for `sweep.grid`.

    datasets, methods: names with commas. seeds: a number of them, from 0, or a list with commas. overrides: further
    axes,
    "lr=0.01:0.1,channels=8:16", fields of `kit.Config`. values: the same for all runs. Raises KitError for what cannot
    be read, and for a name given twice.
    """
    axes: dict[str, Any] = {
        "dataset": _names("datasets", datasets),
        "method": _names("methods", methods),
        "seed": _seeds(seeds),
    }
    for part in filter(None, (part.strip() for part in overrides.split(","))):
        name, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise KitError(
                f"overrides={overrides!r}: {part!r} is not name=value:value, as in -p overrides lr=0.01:0.1,channels=8:16"
            )
        if name in axes:
            raise KitError(f"overrides={overrides!r}: {name} is an axis already")
        axes[name] = [notebook.typed(name, value.strip()) for value in given.split(":") if value.strip()]
    return {**{name: value for name, value in values.items() if name not in axes}, **axes}


def _names(axis: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise KitError(f"{axis}={text!r}: an empty axis makes no runs; give names with commas")
    return names


def _seeds(seeds: int | str) -> list[int]:
    try:
        chosen = (
            list(range(int(seeds)))
            if isinstance(seeds, int) or str(seeds).strip().isdecimal()
            else [int(seed) for seed in str(seeds).split(",")]
        )
    except ValueError:
        raise KitError(
            f"seeds={seeds!r} is neither a number of seeds nor a list of them: -p seeds 5, or -p seeds 0,3,7"
        ) from None
    if not chosen:
        raise KitError(f"seeds={seeds!r} makes no runs: give 1 or more")
    return chosen
