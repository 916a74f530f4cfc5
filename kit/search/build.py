"""From a configuration to the parts of a stage: network, learners, optimizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit import augment, space
from kit.arch import ARCH, ArchLearner, Given, random_picks
from kit.augment import Policy
from kit.config import Config
from kit.data import ImageSets, normalization
from kit.errors import KitError
from kit.hyper import HYPER, DerivedHyper, HyperLearner
from kit.methods import PRESETS, Stage
from kit.registry import Part
from kit.run import store
from kit.search.grads import Momentum
from kit.search.learner import Derived, WarmUp, generator, innermost
from kit.search.stages import key_of
from kit.search.step import Learners, Samples
from kit.space import SPACES, Network, Picks, latency
from kit.space.limits import Limits
from kit.space.operations import synchronize

WARMED = {"bi-level": ("augment",), "reward": ("arch", "hyper")}  # what a stage's warm-up holds back


@dataclass
class Parts:
    """What a stage works with."""

    net: Network
    arch: ArchLearner
    augment: Policy
    hyper: HyperLearner
    sgd: Momentum
    samples: Samples = Samples()

    @property
    def learners(self) -> Learners:
        return Learners(self.arch, self.augment, self.hyper, self.samples)

    def variables(self) -> dict[str, list[Tensor]]:
        """All that is trained, by its letter."""
        learned = {"α": self.arch, "τ": self.augment, "η": self.hyper}
        return {"θ": list(self.net.parameters()), **{letter: part.variables() for letter, part in learned.items()}}

    def __post_init__(self) -> None:
        owner: dict[int, str] = {}
        for letter, tensors in self.variables().items():
            for tensor in tensors:
                if owner.setdefault(id(tensor), letter) != letter:
                    raise KitError(
                        f"a tensor of shape {list(tensor.shape)} belongs to both {owner[id(tensor)]} and {letter}; "
                        "each trainable tensor belongs to exactly one of θ, α, τ, η"
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
        """Go on from a supernet's parts with its child alone, which has the same weights and momentum by name."""
        state = before.state_dict()
        state["arch"] = self.arch.state_dict()
        state["net"] = {name: state["net"][name] for name in self.net.state_dict()}
        self.load_state_dict(state, partial=True)

    def inherit(self, before: Parts, was: Stage, now: Stage) -> None:
        """New weights, with τ and η as the stage before learned them, where both stages are about them."""
        for name in ("augment", "hyper"):
            if getattr(was, name) != "default" and getattr(now, name) != "default":
                innermost(getattr(self, name)).load_state_dict(innermost(getattr(before, name)).state_dict())

    def load_state_dict(self, state: dict, partial: bool = False) -> None:
        self.net.load_state_dict(state["net"])
        self.net.generator.set_state(state["drop_path"].cpu())
        self.net.mixer.set_state(state["mixer"].cpu())
        self.arch.load_state_dict(state["arch"])
        for slot, frozen in enumerate(getattr(self.arch, "frozen", torch.ones(0, dtype=torch.bool)).tolist()):
            if frozen:
                self.net.freeze_slot(slot, self.arch.picks[slot], None)
        self.augment.load_state_dict(state["augment"])
        self.hyper.load_state_dict(state["hyper"])
        self.sgd.load_state_dict(state["sgd"], partial)


@dataclass(frozen=True)
class Plan:
    """What the parts of one stage are built from.

    index: of the stage in config.stages. folder: the run's, which keeps the latency table if there is a limit on it;
    None keeps none. steps: of the stage, at most. horizon: steps of the learning-rate schedule that the stage is part
    of.
    """

    config: Config
    index: int
    sets: ImageSets
    device: torch.device
    folder: Path | None = None
    steps: int = 0
    horizon: int = 0

    @property
    def stage(self) -> Stage:
        return self.config.stages[self.index]

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A random stream for one purpose in this stage."""
        return generator(self.config.seed, f"{key_of(self.config, self.index)}/{purpose}", device)

    def network(self, genotype: dict | None = None, *, full: bool = False) -> Network:
        """The stage's network; full: in the size that is deployed, also where a smaller one searches."""
        c = self.config
        settings = c.model_dump(exclude={"space"}) | {"genotype": genotype}
        if not full and self.stage.search and c.stages[-1].restart:
            settings["channels"] = c.search_channels
            if SPACES[c.space].make.repeats:
                settings["cells"] = c.search_cells
        mean, std = normalization(self.sets.train)
        image = (self.sets.channels, *self.sets.size)
        return space.build(c.space, self.sets.num_classes, image, mean, std, **settings)


def compose(plan: Plan, picks: Picks | None = None) -> Parts:
    """The parts of a stage, with new weights and learners.

    picks: the architecture of an earlier stage's search; None where this one searches or the configuration names one.
    """
    config, stage, device = plan.config, plan.stage, plan.device
    net, searcher = _network(plan, picks)
    net = net.to(device, memory_format=torch.channels_last)
    net.generator, net.mixer = plan.generator("drop-path", device), plan.generator("mixup")
    net.amp_dtype = _autocast(config, device)
    if config.sync_batchnorm:
        synchronize(net)
    learners = {"arch": searcher, "augment": _policy(plan), "hyper": _hyper(plan)}
    for name in WARMED.get(stage.step, ()) if stage.warm_up else ():
        if learners[name].variables():
            learners[name] = WarmUp(learners[name], round(stage.warm_up * plan.steps))
    samples = Samples(config.children, config.arch_samples, config.policies, config.first_order)
    return Parts(net, **learners, sgd=Momentum(net, config.momentum, config.clip), samples=samples)


def _network(plan: Plan, picks: Picks | None) -> tuple[Network, ArchLearner]:
    config = plan.config
    seed = plan.generator("weights").initial_seed()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = plan.network()
        # the limits are about the network that is deployed, also while a smaller one searches for its cells
        limits = _limits(plan, plan.network(full=True))
        if plan.stage.search:
            return supernet, _searcher(plan, supernet, limits)
        # the limits were checked by the table's prediction: a child whose measured latency breaks them is repaired
        chosen = limits.settle(lambda: limits.repaired(picks)) if picks else _given_picks(config, supernet, limits)
        if not limits.confirm(chosen):
            raise KitError(f"the given architecture costs {limits.costs(chosen)} and breaks {limits}")
        torch.manual_seed(seed)
        net = plan.network(genotype=supernet.spec(chosen).get("genotype"))
        return net, Given(net.slots, net.only_child().picks)


def _searcher(plan: Plan, net: Network, limits: Limits) -> ArchLearner:
    part = ARCH[plan.config.arch]
    settings = _settings(part, plan.config)
    return part.make(net.slots, plan.generator("α"), limits, device=plan.device, steps=plan.steps, **settings)


def _settings(part: Part, config: Config) -> dict[str, Any]:
    """What tells the part's name apart, and its options."""
    names = part.options.model_fields if part.options else ()
    return {**part.settings, **{name: getattr(config, name) for name in names}}


def _policy(plan: Plan) -> Policy:
    config, stage = plan.config, plan.stage
    name = PRESETS[config.preset]["fixed_augment"] if stage.augment == "default" else config.augment
    fill = (normalization(plan.sets.train)[0] * 255).round().to(torch.uint8)
    policy = augment.build(
        name,
        plan.generator("τ", plan.device),
        plan.sets.size,
        flip=plan.sets.flip,
        fill=fill,
        channels=plan.sets.channels,
        steps=plan.horizon,
        config=config,
    )
    if config.policy is not None and stage.augment != "default":
        policy.adopt(read_policy(config.policy, config.augment, policy.ops))
        return Derived(policy)
    return Derived(policy) if stage.augment == "derived" else policy


def _hyper(plan: Plan) -> HyperLearner:
    config, stage = plan.config, plan.stage
    part = HYPER["fixed" if stage.hyper == "default" else config.hyper]
    start, settings = (config.lr, config.weight_decay, plan.generator("η")), _settings(part, config)
    learner = part.make(*start, device=plan.device, steps=plan.horizon, **settings)
    return DerivedHyper(learner) if stage.hyper == "derived" else learner


def _limits(plan: Plan, deployed: Network) -> Limits:
    config, timed = plan.config, None
    if config.max_latency_ms is not None:
        kept = plan.folder / "latency.json" if plan.folder is not None else None
        timed = latency.table(deployed, plan.device, config.latency_batch, kept)
    return Limits(deployed, config.max_params, config.max_macs, config.max_latency_ms, timed)


def _given_picks(config: Config, net: Network, limits: Limits) -> Picks:
    if config.arch == "random":
        chance = generator(config.seed, "random/α")
        return limits.settle(lambda: random_picks(net.slots, chance, limits))
    return net.picks_of(read_genotype(config)) if net.slots else ()


def read_genotype(config: Config) -> dict:
    """The configuration's genotype: by name (darts-v2), from a JSON file, or from a run's directory; None: the space's
    usual one. The space checks its entries."""
    named = SPACES[config.space].make.genotypes
    source = config.genotype or SPACES[config.space].make.usual
    if source in named:
        return named[source]
    path = Path(source).expanduser()
    path = path / "model" / "model.json" if path.is_dir() else path
    if not path.is_file():
        raise KitError(
            f"genotype={source!r} is neither a name ({', '.join(named)}) nor a JSON file nor a finished run's directory"
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise KitError(f"{path} is not JSON: {error}") from None
    return content.get("genotype", content) if isinstance(content, dict) else content


def read_policy(source: str, name: str, ops: tuple[str, ...]) -> dict:
    """The learned τ of a finished run, of the kind `name` over `ops`."""
    path = Path(source).expanduser() / "model" / "model.json"
    if not path.is_file():
        raise KitError(f"policy={source!r} is not a finished run's directory (it has no model/model.json)")
    policy = store.read_json(path).get("policy", {})
    kind = policy.get("name")
    if kind != name or tuple(policy.get("ops", ())) != tuple(ops):
        raise KitError(f"{path.parent.parent} found a policy of kind {kind!r}, not {name!r}: set augment={kind!r}")
    return policy


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
