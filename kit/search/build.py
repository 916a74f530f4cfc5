"""From a configuration to the parts of a stage: network, learners, optimizer. The names' tables are in the parts' own
packages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kit import arch, augment, hyper, space
from kit.arch import ARCH, ArchLearner, Given, random_picks
from kit.augment import Policy
from kit.config import Config
from kit.data import ImageSets
from kit.errors import KitError
from kit.hyper import DerivedHyper, HyperLearner
from kit.methods import PRESETS, Stage
from kit.run import store
from kit.search.grads import Momentum
from kit.search.learner import Derived, WarmUp, generator, innermost
from kit.search.stages import key_of
from kit.space import Network, Picks, latency, synced
from kit.space.limits import Limits
from kit.space.target import Target

WARMED = {"bi-level": ("augment",), "reward": ("arch", "hyper")}  # what a stage's warm-up holds back


@dataclass
class Parts:
    """What a stage works with."""

    net: Network
    arch: ArchLearner
    augment: Policy
    hyper: HyperLearner
    sgd: Momentum

    def __post_init__(self) -> None:
        owned = {
            "θ": list(self.net.parameters()),
            "α": self.arch.variables(),
            "τ": self.augment.variables(),
            "η": self.hyper.variables(),
        }
        owner: dict[int, str] = {}
        for letter, tensors in owned.items():
            for tensor in tensors:
                if owner.setdefault(id(tensor), letter) != letter:
                    raise KitError(
                        f"a tensor of shape {list(tensor.shape)} belongs to both {owner[id(tensor)]} and {letter}; each trainable "
                        "tensor belongs to exactly one of θ, α, τ, η"
                    )

    def state_dict(self) -> dict:
        return {
            "net": self.net.state_dict(),
            "drop_path": self.net.generator.get_state(),
            "mixer": self.net.mixer.get_state(),
            "arch": self.arch.state_dict(),
            "augment": self.augment.state_dict(),
            "hyper": self.hyper.state_dict(),
            "sgd": self.sgd.state_dict(),
        }

    def take_over(self, before: Parts) -> None:
        """Go on where a supernet's parts were, with the child alone: its names are the supernet's, its weights and
        momentum too.
        """
        state = before.state_dict()
        state["arch"] = self.arch.state_dict()
        state["net"] = {name: state["net"][name] for name in self.net.state_dict()}
        known = self.sgd.named
        sgd = state["sgd"]
        sgd["buffers"] = {name: buffer for name, buffer in sgd["buffers"].items() if name in known}
        sgd["moments"] = {
            rule: {name: m for name, m in table.items() if name in known} for rule, table in sgd["moments"].items()
        }
        if (trace := state["sgd"]["trace"]) is not None:
            trace["names"] = [name for name in trace["names"] if name in known]
        self.load_state_dict(state)

    def inherit(self, before: Parts, was: Stage, now: Stage) -> None:
        """Begin anew with what the stage before has learned of τ and η, where it learned and this one goes on with it
        or uses it.
        """
        for name in ("augment", "hyper"):
            if getattr(was, name) != "default" and getattr(now, name) != "default":
                innermost(getattr(self, name)).load_state_dict(innermost(getattr(before, name)).state_dict())

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.net.generator.set_state(state["drop_path"].cpu())
        self.net.mixer.set_state(state["mixer"].cpu())
        self.arch.load_state_dict(state["arch"])
        for slot, frozen in enumerate(getattr(self.arch, "frozen", torch.ones(0, dtype=torch.bool)).tolist()):
            if frozen:
                self.net.freeze_slot(slot, self.arch.picks[slot], None)
        self.augment.load_state_dict(state["augment"])
        self.hyper.load_state_dict(state["hyper"])
        self.sgd.load_state_dict(state["sgd"])


def compose(
    config: Config,
    index: int,
    sets: ImageSets,
    device: torch.device,
    normal: tuple[Tensor, Tensor],
    *,
    picks: Picks | None = None,
    folder: Path | None = None,
    steps: int = 0,
) -> Parts:
    """The parts of the configuration's stage `index`, with new weights and learners.

    normal: mean and std [C] of the training images. picks: the architecture that an earlier stage found; None where
    this one searches
    or the configuration says which it is. folder: the run's, which keeps the latency table if there is a limit on it.
    steps: of the stage,
    at most, which its warm-up is a share of.
    """
    stage, key = config.stages[index], key_of(config, index)
    net, arch = _network(config, stage, key, sets, device, normal, picks, folder)
    net = net.to(device, memory_format=torch.channels_last)
    net.generator, net.mixer = (
        generator(config.seed, f"{key}/drop-path", device),
        generator(config.seed, f"{key}/mixup"),
    )
    net.amp_dtype = _autocast(config, device)
    if config.sync_batchnorm:
        synced.synchronize(net)
    learners = {
        "arch": arch,
        "augment": _policy(config, stage, key, sets, device, normal[0]),
        "hyper": _hyper(config, stage, key, device),
    }
    for name in WARMED.get(stage.step, ()) if stage.warm_up else ():
        if learners[name].variables():
            learners[name] = WarmUp(learners[name], round(stage.warm_up * steps))
    return Parts(net, **learners, sgd=Momentum(net, config.momentum, config.clip))


def _network(
    config: Config,
    stage: Stage,
    key: str,
    sets: ImageSets,
    device: torch.device,
    normal: tuple[Tensor, Tensor],
    picks: Picks | None,
    folder: Path | None,
) -> tuple[Network, ArchLearner]:
    full = {
        "channels": config.channels,
        "cells": config.cells,
        "reductions": config.reductions,
        "auxiliary": config.auxiliary,
    }
    small = {"channels": config.search_channels}
    if space.REPEATS[config.space]:
        small["cells"] = config.search_cells
    settings = full | (small if stage.search and config.stages[-1].restart else {})
    image = (sets.channels, *sets.size)
    mean, std = normal
    seed = generator(config.seed, f"{key}/weights").initial_seed()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = space.build(config.space, sets.num_classes, image, mean, std, **settings)
        # the limits are about the network that is deployed, also while a smaller one searches for its cells
        deployed = (
            supernet if settings == full else space.build(config.space, sets.num_classes, image, mean, std, **full)
        )
        limits = _limits(config, deployed, device, folder)
        if stage.search:
            return supernet, _searcher(config, key, supernet, limits, device)
        # what a search found is repaired where its own latency breaks the limit that the table's prediction kept to
        chosen = limits.settle(lambda: limits.repaired(picks)) if picks else _given_picks(config, supernet, limits)
        if not limits.confirm(chosen):
            raise KitError(f"the given architecture costs {limits.costs(chosen)} and breaks {limits}")
        torch.manual_seed(seed)
        net = space.build(
            config.space, sets.num_classes, image, mean, std, **settings, genotype=supernet.spec(chosen).get("genotype")
        )
        return net, Given(net.slots, net.only_child().picks)


def _searcher(config: Config, key: str, net: Network, limits: Limits, device: torch.device) -> ArchLearner:
    target = None
    if config.target_macs is not None:
        target = Target(limits.network, config.target_macs, config.target_weight)
    return ARCH[config.arch].build(
        arch.Settings(
            net.slots,
            generator(config.seed, f"{key}/α"),
            limits,
            lr=config.arch_lr,
            device=device,
            lam=config.lam,
            recover=config.recover,
            freeze_tol=config.freeze_tol,
            margin=config.fix_margin,
            temperature=(config.temperature, config.last_temperature),
            baseline=config.reward_baseline,
            target=target,
        )
    )


def _policy(config: Config, stage: Stage, key: str, sets: ImageSets, device: torch.device, mean: Tensor) -> Policy:
    name = PRESETS[config.preset]["fixed_augment"] if stage.augment == "default" else config.augment
    policy = augment.build(
        name,
        generator(config.seed, f"{key}/τ", device),
        sets.size,
        flip=sets.flip,
        fill=(mean * 255).round().to(torch.uint8),
        channels=sets.channels,
        config=config,
    )
    if config.policy is not None and stage.augment != "default":
        policy.adopt(read_policy(config.policy, config.augment, policy.ops))
        return Derived(policy)
    return Derived(policy) if stage.augment == "derived" else policy


def _hyper(config: Config, stage: Stage, key: str, device: torch.device) -> HyperLearner:
    name = "fixed" if stage.hyper == "default" else config.hyper
    learner = hyper.build(
        name,
        config.lr,
        config.weight_decay,
        step=config.hyper_lr,
        bases=hyper.read_bases(config.hyper_space),
        generator=generator(config.seed, f"{key}/η"),
        baseline=config.reward_baseline,
        device=device,
    )
    return DerivedHyper(learner) if stage.hyper == "derived" else learner


def _limits(config: Config, deployed: Network, device: torch.device, folder: Path | None) -> Limits:
    timed = None
    if config.max_latency_ms is not None:
        timed = latency.table(
            deployed, device, config.latency_batch, folder / "latency.json" if folder is not None else None
        )
    return Limits(deployed, config.max_params, config.max_macs, config.max_latency_ms, timed)


def _given_picks(config: Config, net: Network, limits: Limits) -> Picks:
    if config.arch == "random":
        chance = generator(config.seed, "random/α")
        return limits.settle(lambda: random_picks(net.slots, chance, limits))
    return net.picks_of(read_genotype(config.genotype or space.USUAL[config.space])) if net.slots else ()


def read_genotype(source: str) -> dict:
    """A genotype by name (darts-v2), from a JSON file, or from a run's directory; which entries it may have is its
    space's matter.
    """
    if source in space.GENOTYPES:
        return space.GENOTYPES[source]
    path = Path(source).expanduser()
    path = path / "model" / "model.json" if path.is_dir() else path
    if not path.is_file():
        raise KitError(
            f"genotype={source!r} is neither a name ({', '.join(space.GENOTYPES)}) nor a JSON file nor a finished run's directory"
        )
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise KitError(f"{path} is not JSON: {error}") from None
    return found.get("genotype", found) if isinstance(found, dict) else found


def read_policy(source: str, name: str, ops: tuple[str, ...]) -> dict:
    """The τ that a finished run found, of the kind `name` over `ops`."""
    path = Path(source).expanduser() / "model" / "model.json"
    if not path.is_file():
        raise KitError(f"policy={source!r} is not a finished run's directory (it has no model/model.json)")
    found = store.read_json(path).get("policy", {})
    if found.get("name") != name or tuple(found.get("ops", ())) != tuple(ops):
        raise KitError(
            f"{path.parent.parent} found a policy of kind {found.get('name')!r}, not {name!r}: set augment={found.get('name')!r}"
        )
    return found


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
