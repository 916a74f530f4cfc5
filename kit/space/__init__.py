"""Networks by name: the searchable spaces and the fixed networks.

A space is a class of networks that registers itself, here or in a user's own file (see docs/recipes/space.py).
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from kit.space.blocks import ChoiceNetwork
from kit.space.cell import DARTS_V2, CellNetwork, picks_of
from kit.space.fixed import WideResNet
from kit.space.mobile import MobileNetwork
from kit.space.network import SPACES, Child, Cost, Network, Picks, Slot, register
from kit.space.operations import CELL_OPS


def build(
    space: str,
    classes: int,
    image: tuple[int, int, int],
    mean: Tensor | None = None,
    std: Tensor | None = None,
    genotype: Any = None,
    **settings: Any,
) -> Network:
    """A network of the named space: the supernet, or with a genotype that child alone.

    image: [C, H, W]. mean, std: float [C] in [0, 1] units, the normalisation that becomes part of the model. settings:
    channels, cells, … and the space's own options; those that its class does not name, or that are None, are left out.
    """
    part = SPACES[space]
    named = inspect.signature(part.make).parameters
    given = {key: value for key, value in settings.items() if key in named and value is not None}
    words = {"genotype": genotype} if genotype is not None and "genotype" in named else {}
    net = part.make(classes, tuple(image), **{**given, **part.settings, **words})
    net.space = space
    net.settings = {key: value for key, value in given.items() if key not in {*part.settings, "auxiliary"}}
    if mean is not None:
        net.mean = mean.view(1, -1, 1, 1)
    if std is not None:
        net.std = std.view(1, -1, 1, 1)
    return net


def genotypes() -> dict[str, Any]:
    """Architectures by name, those of all spaces."""
    return {name: genotype for part in SPACES.values() for name, genotype in part.make.genotypes.items()}


def __getattr__(name: str) -> Any:  # the tables of before, until kit.config and kit.search read the classes themselves
    if name == "GENOTYPES":
        return genotypes()
    attribute = {"SEARCHABLE": "searchable", "ABSORBS": "absorbs_gates", "REPEATS": "repeats", "USUAL": "usual"}
    if name not in attribute:
        raise AttributeError(f"module 'kit.space' has no attribute {name!r}")
    of = {key: getattr(part.make, attribute[name]) for key, part in SPACES.items()}
    return {key: value for key, value in of.items() if value is not None}


__all__ = [
    "CELL_OPS",
    "Child",
    "CellNetwork",
    "ChoiceNetwork",
    "Cost",
    "DARTS_V2",
    "MobileNetwork",
    "Network",
    "Picks",
    "SPACES",
    "Slot",
    "WideResNet",
    "build",
    "genotypes",
    "picks_of",
    "register",
]
