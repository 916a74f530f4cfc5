"""Networks by name: the searchable spaces and the fixed networks. A user's own: see docs/recipes/space.py."""

import inspect
from typing import Any

import torch

from kit.space.blocks import ChoiceNetwork, MobileNetwork
from kit.space.cell import CELL_OPS, DARTS_V2, CellNetwork
from kit.space.network import SPACES, Child, Cost, Network, Picks, Size, Slot, register


def build(space: str, classes: int, image: Size, mean=None, std=None, **settings: Any) -> Network:
    """A network of the named space: the supernet, or with a genotype that child alone.

    image: [C, H, W]. mean, std: float [C] in [0, 1] units, the normalisation that becomes part of the model. settings:
    genotype, channels, cells, … and the space's own options; what its class does not name, or is None, is left out."""
    part = SPACES[space]
    named = inspect.signature(part.make).parameters
    given = {key: value for key, value in settings.items() if key in named and value is not None}
    net = part.make(classes, tuple(image), **{**given, **part.settings})
    net.space = space
    net.settings = {k: v for k, v in given.items() if k not in {*part.settings, "auxiliary", "genotype"}}
    for name, values in (("mean", mean), ("std", std)):
        if values is not None:
            setattr(net, name, values.view(1, -1, 1, 1))
    return net


def outline(space: str, **settings: Any) -> Network:
    """The named space's supernet without weights, for its slots and genotypes. settings: as of `build`."""
    part = SPACES[space].make
    few = {"channels": 4, "genotype": None}  # the same slots in less time
    if part.repeats:
        few["cells"] = 1 + (2 if settings.get("reductions") is None else settings["reductions"])
    with torch.device("meta"):
        return build(space, 2, (3, 96, 96), **(settings | few))
