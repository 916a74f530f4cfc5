"""From a configuration to the parts of a stage: network, learners, optimizer. The names' tables are in the parts' own packages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kit import augment, hyper, space
from kit.arch import ArchLearner, Given, SparseCoding, random_picks
from kit.augment import Policy
from kit.config import Config
from kit.data import ImageSets
from kit.errors import KitError
from kit.grads import Momentum
from kit.hyper import HyperLearner
from kit.learner import generator
from kit.methods import PRESETS, Stage
from kit.space import Network, Picks, latency
from kit.space.limits import Limits


@dataclass
class Parts:
    """What a stage works with."""

    net: Network
    arch: ArchLearner
    augment: Policy
    hyper: HyperLearner
    sgd: Momentum

    def __post_init__(self) -> None:
        owned = {"θ": list(self.net.parameters()), "α": self.arch.variables(), "τ": self.augment.variables(), "η": self.hyper.variables()}
        owner: dict[int, str] = {}
        for letter, tensors in owned.items():
            for tensor in tensors:
                if owner.setdefault(id(tensor), letter) != letter:
                    raise KitError(f"a tensor of shape {list(tensor.shape)} belongs to both {owner[id(tensor)]} and {letter}; each trainable "
                                   "tensor belongs to exactly one of θ, α, τ, η")  # fmt: skip

    def state_dict(self) -> dict:
        return {"net": self.net.state_dict(), "drop_path": self.net.generator.get_state(), "arch": self.arch.state_dict(),
                "augment": self.augment.state_dict(), "hyper": self.hyper.state_dict(), "sgd": self.sgd.state_dict()}  # fmt: skip

    def take_over(self, before: Parts) -> None:
        """Go on where a supernet's parts were, with the child alone: its names are the supernet's, its weights and momentum too."""
        state = before.state_dict()
        state["arch"] = self.arch.state_dict()
        state["net"] = {name: state["net"][name] for name in self.net.state_dict()}
        known = self.sgd.named
        state["sgd"]["buffers"] = {name: buffer for name, buffer in state["sgd"]["buffers"].items() if name in known}
        if (trace := state["sgd"]["trace"]) is not None:
            trace["names"] = [name for name in trace["names"] if name in known]
        self.load_state_dict(state)

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.net.generator.set_state(state["drop_path"].cpu())
        self.arch.load_state_dict(state["arch"])
        for slot, frozen in enumerate(getattr(self.arch, "frozen", torch.ones(0, dtype=torch.bool)).tolist()):
            if frozen:
                self.net.freeze_slot(slot, self.arch.picks[slot], None)
        self.augment.load_state_dict(state["augment"])
        self.hyper.load_state_dict(state["hyper"])
        self.sgd.load_state_dict(state["sgd"])


def compose(config: Config, stage: Stage, sets: ImageSets, device: torch.device, normal: tuple[Tensor, Tensor],
            picks: Picks | None = None, folder: Path | None = None) -> Parts:  # fmt: skip
    """The parts of a stage, with new weights and learners.

    normal: mean and std [C] of the training images. picks: the architecture that an earlier stage found; None where this one searches
    or the configuration says which it is. folder: the run's, which keeps the latency table if there is a limit on it.
    """
    full = {"channels": config.channels, "cells": config.cells, "reductions": config.reductions, "auxiliary": config.auxiliary}
    small = stage.search and any(s.restart for s in config.composition.stages)
    settings = full | ({"channels": config.search_channels, "cells": config.search_cells} if small else {})
    image = (sets.channels, *sets.size)
    mean, std = normal
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.seed, f"{stage.name}/weights").initial_seed())
        supernet = space.build(config.space, sets.num_classes, image, mean, std, **settings)
        # the limits are about the network that is deployed, also while a smaller one searches for its cells
        deployed = supernet if settings == full else space.build(config.space, sets.num_classes, image, mean, std, **full)
        limits = _limits(config, deployed, device, folder)
        if stage.search:
            net, arch = supernet, _searcher(config, stage, supernet, limits, device)
        else:
            chosen = picks or _given_picks(config, supernet, limits)
            if not limits.confirm(chosen):
                raise KitError(f"the given architecture costs {limits.costs(chosen)} and breaks {limits}")
            spec = supernet.spec(chosen)
            torch.manual_seed(generator(config.seed, f"{stage.name}/weights").initial_seed())
            net = space.build(config.space, sets.num_classes, image, mean, std, **settings, genotype=spec.get("genotype"))
            arch = Given(net.slots, net.only_child().picks)
    net = net.to(device, memory_format=torch.channels_last)
    net.generator = generator(config.seed, f"{stage.name}/drop-path", device)
    net.amp_dtype = _autocast(config, device)
    preset = PRESETS[config.preset]
    policy = augment.build(config.augment if stage.augment else preset["fixed_augment"], generator(config.seed, f"{stage.name}/τ", device),
                           sets.size, flip=sets.flip, lr=config.tau_lr, fill=(mean * 255).round().to(torch.uint8))  # fmt: skip
    learner = hyper.build(config.hyper if stage.hyper else "fixed", config.lr, config.weight_decay, step=config.hyper_lr, device=device)
    return Parts(net, arch, policy, learner, Momentum(net, config.momentum, config.clip))


def _searcher(config: Config, stage: Stage, net: Network, limits: Limits, device: torch.device) -> ArchLearner:
    return SparseCoding(net.slots, generator(config.seed, f"{stage.name}/α"), limits, lr=config.arch_lr, lam=config.lam,
                        recover=config.recover, freeze_tol=config.freeze_tol, device=device)  # fmt: skip


def _limits(config: Config, deployed: Network, device: torch.device, folder: Path | None) -> Limits:
    timed = None
    if config.max_latency_ms is not None:
        timed = latency.table(deployed, device, config.latency_batch, folder / "latency.json" if folder is not None else None)
    return Limits(deployed, config.max_params, config.max_macs, config.max_latency_ms, timed)


def _given_picks(config: Config, net: Network, limits: Limits) -> Picks:
    if config.arch == "random":
        chance = generator(config.seed, "random/α")
        return limits.settle(lambda: random_picks(net.slots, chance, limits))
    return () if not net.slots else space.picks_of(read_genotype(config.genotype))


def read_genotype(source: str | None) -> dict:
    """A genotype by name (darts-v2), from a JSON file, or from a run's directory."""
    if source is None:
        raise KitError(f"arch='given' needs genotype=: {', '.join(space.GENOTYPES)}, a JSON file, or a run's directory")
    if source in space.GENOTYPES:
        return space.GENOTYPES[source]
    path = Path(source).expanduser()
    path = path / "model" / "model.json" if path.is_dir() else path
    if not path.is_file():
        raise KitError(f"genotype={source!r} is neither a name ({', '.join(space.GENOTYPES)}) nor a JSON file nor a finished run's directory")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise KitError(f"{path} is not JSON: {error}") from None
    genotype = found.get("genotype", found) if isinstance(found, dict) else found
    space.check_genotype(genotype)
    return genotype


def _autocast(config: Config, device: torch.device) -> torch.dtype | None:
    if config.precision == "bfloat16":
        return torch.bfloat16
    automatic = config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if automatic else None


def extract(net: Network, picks: Picks) -> dict[str, Tensor]:
    """The state of the child alone: what the network built from its genotype loads."""
    spec = dict(net.spec(picks))
    alone = space.build(spec.pop("space"), spec.pop("classes"), tuple(spec.pop("image")), **spec)
    state = net.state_dict()
    return {name: state[name] for name in alone.state_dict()}
