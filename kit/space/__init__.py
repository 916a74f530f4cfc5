"""Networks by name: the searchable spaces and the fixed networks. A user's own: see docs/recipes/space.py."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from kit.space.blocks import ChoiceNetwork, MobileNetwork
from kit.space.cell import DARTS_V2, CellNetwork, picks_of
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


def outline(space: str, **settings: Any) -> Network:
    """The named space's supernet without weights, for its slots and genotypes. settings: as of `build`."""
    part = SPACES[space].make
    few = {"channels": 4}  # the same slots in less time
    if part.repeats:
        few["cells"] = 1 + (2 if settings.get("reductions") is None else settings["reductions"])
    with torch.device("meta"):
        return build(space, 2, (3, 96, 96), **{**settings, **few, "genotype": None})
