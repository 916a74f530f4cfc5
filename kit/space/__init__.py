"""Networks by name: the searchable spaces and the fixed networks.

A space is added by one function in `SPACES`: (classes, image, settings) → Network, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from kit import errors
from kit.space.blocks import BlockNetwork, ChoiceNetwork
from kit.space.cell import DARTS_V2, CellNetwork, check_genotype, picks_of
from kit.space.fixed import WideResNet
from kit.space.mobile import MobileNetwork
from kit.space.network import Child, Cost, Network, Picks, Slot
from kit.space.operations import CELL_OPS

Builder = Callable[..., Network]


def _cell(
    classes: int,
    image: tuple[int, int, int],
    mean: Tensor | None = None,
    std: Tensor | None = None,
    *,
    channels: int,
    cells: int,
    reductions: int | None = None,
    stem: str | None = None,
    auxiliary: float = 0.0,
    genotype: dict | None = None,
    **_: Any,
) -> Network:
    return CellNetwork(
        classes, image, channels, cells, 2 if reductions is None else reductions, stem, auxiliary, genotype, mean, std
    )


def _chain(network: type[BlockNetwork]) -> Builder:
    def build_chain(
        classes: int,
        image: tuple[int, int, int],
        mean: Tensor | None = None,
        std: Tensor | None = None,
        *,
        channels: int,
        cells: int,
        reductions: int | None = None,
        stem: str | None = None,
        genotype: dict | None = None,
        **_: Any,
    ) -> Network:
        return network(classes, image, channels, cells, reductions, stem, genotype, mean, std)

    return build_chain


def _wrn(depth: int, width: int) -> Builder:
    def build_wrn(
        classes: int, image: tuple[int, int, int], mean: Tensor | None = None, std: Tensor | None = None, **_: Any
    ) -> Network:
        return WideResNet(classes, image, depth, width, mean, std)

    return build_wrn


SPACES: Mapping[str, Builder] = {
    "cell": _cell,
    "choice": _chain(ChoiceNetwork),
    "mobile": _chain(MobileNetwork),
    "wrn-28-10": _wrn(28, 10),
    "wrn-40-2": _wrn(40, 2),
    "wrn-16-2": _wrn(16, 2),
}
# the network class of each space, for what can be said of it before it is built
KINDS: Mapping[str, type[Network]] = {"cell": CellNetwork, "choice": ChoiceNetwork, "mobile": MobileNetwork}
SEARCHABLE = {name: name in KINDS for name in SPACES}
ABSORBS = {name: name in KINDS and KINDS[name].absorbs_gates for name in SPACES}
REPEATS = {name: name in KINDS and KINDS[name].repeats for name in SPACES}
GENOTYPES = {"darts-v2": DARTS_V2, "shufflenet-v2": {"blocks": "shuffle_3x3"}, "mobilenet-v2": {"blocks": "k3_e6"}}
USUAL = {
    "cell": "darts-v2",
    "choice": "shufflenet-v2",
    "mobile": "mobilenet-v2",
}  # for arch='given' where none is named


from kit.registry import Registry as _R  # noqa: E402

_OLD, SPACES = SPACES, _R("space")
for _n in _OLD:
    _c = type(
        _n,
        (),
        {
            "searchable": SEARCHABLE[_n],
            "absorbs_gates": ABSORBS[_n],
            "repeats": REPEATS[_n],
            "genotypes": GENOTYPES,
            "usual": USUAL.get(_n),
        },
    )
    _c.__module__ = "kit.space.x"
    _b = {
        "choice": {
            "paper": {"channels": 64, "cells": 20, "search_channels": 64, "lr": 0.5, "weight_decay": 4e-5},
            "server": {"channels": 32, "cells": 20, "search_channels": 32},
            "laptop": {"channels": 16, "cells": 6, "search_channels": 16},
        },
        "mobile": {
            "paper": {"channels": 32, "cells": 17, "search_channels": 32},
            "server": {"channels": 32, "cells": 17, "search_channels": 32},
            "laptop": {"channels": 8, "cells": 6, "search_channels": 8},
        },
    }.get(_n, {})
    _names = {k for v in _b.values() for k in v}
    SPACES.register(_n, brings={k: {p: v[k] for p, v in _b.items() if k in v} for k in _names})(_c)


def build(
    space: str,
    classes: int,
    image: tuple[int, int, int],
    mean: Tensor | None = None,
    std: Tensor | None = None,
    **settings: Any,
) -> Network:
    """A network of the named space. `settings` are the space's own (channels, cells, genotype, …); others do not
    concern it.

    image: [C, H, W]. mean, std: float [C] in [0, 1] units, the normalisation that becomes part of the model.
    """
    if space not in SPACES:
        raise errors.unknown("space", space, SPACES)
    return _OLD[space](classes, tuple(image), mean, std, **settings)


__all__ = [
    "ABSORBS",
    "CELL_OPS",
    "Child",
    "Cost",
    "DARTS_V2",
    "GENOTYPES",
    "Network",
    "Picks",
    "REPEATS",
    "SEARCHABLE",
    "SPACES",
    "Slot",
    "USUAL",
    "build",
    "check_genotype",
    "picks_of",
]
