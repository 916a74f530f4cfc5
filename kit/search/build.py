"""From a configuration to a stage: what it trains on and for how long, its network, learners and optimizer."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kit import augment, space
from kit.arch import ARCH, ArchLearner, Given, random_picks
from kit.augment import AUGMENT, Policy
from kit.config import Config
from kit.data import Batches, ImageSets, normalization
from kit.errors import KitError
from kit.files import place
from kit.hyper import HYPER, DerivedHyper, HyperLearner
from kit.methods import PRESETS, Stage
from kit.run import store
from kit.search import ranks
from kit.search.grads import Momentum
from kit.search.learner import Derived, WarmUp, generator
from kit.search.signals import Parts
from kit.search.step import STEPS
from kit.space import SPACES, Network, Picks, latency
from kit.space.layers import SyncedNorm, norms
from kit.space.limits import BOUNDS, Limits

WARMED = {"bi-level": ("augment",), "reward": ("arch", "hyper")}  # what a stage's warm-up holds back


def schedule_of(config: Config, index: int) -> range:
    """The stages that share the schedule and the weights of this one: up to the next restart."""
    starts = [i for i, stage in enumerate(config.stages) if i == 0 or stage.restart] + [len(config.stages)]
    return range(max(i for i in starts if i <= index), min(i for i in starts if i > index))


def holds_out(config: Config, index: int) -> bool:
    """Whether validation images are kept out of training in this stage: where one of its learners reads them, or the
    configuration says so. Raises KitError where they are needed and hold_out is False."""
    arch, augment, hyper, stage = ARCH[config.arch], AUGMENT[config.augment], HYPER[config.hyper], config.stages[index]
    learn = ((arch, stage.search), (augment, stage.augment == "learn"), (hyper, stage.hyper == "learn"))
    read = stage.step == "bi-level" or any("val" in part.make.needs for part, learns in learn if learns)
    if read and config.hold_out is False:
        learners = ", ".join(f"{part.name!r}" for part in (arch, augment, hyper))
        raise KitError(f"method {config.method!r} with {learners} reads validation batches: leave hold_out out")
    return read or bool(config.hold_out)


def images_since(config: Config, index: int) -> int:
    """The first of the stages up to this one that train on the same images, without a restart between them."""
    while index and not config.stages[index].restart and holds_out(config, index) == holds_out(config, index - 1):
        index -= 1
    return index


def horizon(config: Config, index: int, began: int | None = None) -> int:
    """Epochs of the stage's learning-rate schedule: as planned; of the last one, after `began` epochs, what is left."""
    schedule = schedule_of(config, index)
    if began is not None and schedule.stop == len(config.stages):
        return config.epochs - began
    return sum(config.stage_epochs[i] for i in schedule)


def streams(config: Config, index: int, sets: ImageSets) -> dict[str, Batches]:
    """A stage's batches: "train" and "fresh", which weights learn from, and "val" where `holds_out`."""
    hold_out, first = holds_out(config, index), images_since(config, index)
    train = sets.train if hold_out else sets.train_val()
    sources = {name: (train, config.batch_size) for name in ("train", "fresh")}
    if hold_out:
        sources["val"] = sets.val, min(config.batch_size, len(sets.val))
    stage = f"/{config.stages[first].name}" if first else ""
    return {name: Batches(*of, generator(config.seed, f"batches/{name}{stage}")) for name, of in sources.items()}


def idle_operations(config: Config, sets: ImageSets) -> list[str]:
    """What a learned τ leaves out, for it does nothing to these images; as it did where a learned one is given."""
    names = augment.searched(config.augment, config.operations)
    if config.policy is not None:
        return [name for name in names if name not in _policy(config).get("ops", names)]
    return augment.idle(names, sets.train.images)


@dataclass(frozen=True)
class Plan:
    """What a stage's parts are built from. folder: the run's, which keeps the latency table. steps: of the stage, at
    most. horizon: steps of the schedule that the stage is part of."""

    config: Config
    stage: Stage
    sets: ImageSets
    device: torch.device
    folder: Path | None = None
    steps: int = 0
    horizon: int = 0

    def parts(self, genotype: dict | None = None) -> Parts:
        """With new weights and learners. genotype: of an earlier stage's search; None: this one's, or configured."""
        config, stage, device = self.config, self.stage, self.device
        net, searcher = self.searched(genotype)
        net = net.to(device, memory_format=torch.channels_last)
        net.generator, net.mixer = self.generator("drop-path", device), self.generator("mixup")
        bfloat16 = config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
        net.amp_dtype = torch.bfloat16 if bfloat16 or config.precision == "bfloat16" else None
        for norm in norms(net) if config.sync_batchnorm else ():
            norm.__class__ = SyncedNorm  # the same objects, for whoever refers to one
        learners, step = {"arch": searcher, "augment": self.policy(), "hyper": self.hyper(net)}, STEPS[stage.step]
        warm_up = stage.warm_up if config.warm_up is None else config.warm_up
        for name, learner in learners.items() if warm_up else ():
            if learner.variables() and (learner.waits or name in WARMED.get(stage.step, ())):
                learners[name] = WarmUp(learner, min(round(warm_up * self.steps), self.steps - 1))
        draws = step.options and step.options(**step.arguments(config))
        return Parts(net, **learners, sgd=Momentum(net, config.momentum, config.clip), draws=draws)

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        return generator(self.config.seed, f"{self.stage.name}/{purpose}", device)

    def network(self, genotype: dict | None = None, *, full: bool = False) -> Network:
        """The stage's network; full: in the size that is deployed, also where a smaller one searches."""
        c = self.config
        settings = c.model_dump(exclude={"space"}) | {"genotype": genotype, "searches": self.stage.search and not full}
        if not full and self.stage.search and c.searches_apart:
            settings["channels"] = c.search_channels
            if SPACES[c.space].make.repeats:
                settings["cells"] = round(c.search_cells * self.stage.depth)
        image = (self.sets.channels, *self.sets.size)
        return space.build(c.space, len(self.sets.classes), image, *normalization(self.sets.train), **settings)

    def searched(self, genotype: dict | None) -> tuple[Network, ArchLearner]:
        config, search = self.config, self.stage.search
        genotype = None if search else genotype or self.given()
        torch.manual_seed(self.generator("weights").initial_seed())
        net = self.network(genotype)
        if not search:
            return net, Given(net.slots, net.only_child().picks)
        limits = self.limits(self.network(full=True) if config.searches_apart else net)
        part, about = ARCH[config.arch], (net.slots, self.generator("α"), limits)
        return net, part.make(*about, device=self.device, steps=self.steps, **part.arguments(config))

    def given(self) -> dict | None:
        """The genotype that the configuration names or draws; the supernet is built only where that takes it."""
        config, drawn = self.config, self.config.arch == "random"
        if not drawn and all(getattr(config, name) is None for name in BOUNDS):
            return read_genotype(config)
        supernet = self.network()
        limits = self.limits(supernet)
        draw = lambda: random_picks(supernet.slots, generator(config.seed, "random/α"), limits)
        picks = draw() if drawn else supernet.picks_of(read_genotype(config))
        if not limits.allow(picks):
            raise KitError(f"the given architecture costs {limits.costs(picks)} and breaks {limits}")
        return supernet.genotype(picks)

    def limits(self, deployed: Network) -> Limits:
        """About the network that is deployed, also while a smaller one searches for its cells."""
        config, timed = self.config, None
        if config.max_latency_ms is not None:
            if ranks.count() > 1:
                raise KitError("max_latency_ms is kept by timing, which differs by rank: use one process, or max_macs")
            path = self.folder and self.folder / "latency.json"
            timed = latency.table(deployed, self.device, config.latency_batch, path)
        return Limits(deployed, config.max_params, config.max_macs, config.max_latency_ms, timed)

    def policy(self) -> Policy:
        config, role = self.config, self.stage.augment
        name = PRESETS[config.preset]["fixed_augment"] if role == "default" else config.augment
        fill = (normalization(self.sets.train)[0] * 255).round().to(torch.uint8)
        schedule = schedule_of(config, config.stages.index(self.stage))
        learns = [config.stage_epochs[i] for i in schedule if config.stages[i].augment == role]
        steps = self.horizon * sum(learns) // max(1, sum(config.stage_epochs[i] for i in schedule))
        about = {"flip": self.sets.flip, "fill": fill, "steps": steps, **AUGMENT[name].arguments(config)}
        if AUGMENT[name].make.learns:
            about["idle"] = idle_operations(config, self.sets)
        policy = augment.build(name, self.generator("τ", self.device), self.sets.size, **about)
        if config.policy is None or role == "default":
            return Derived(policy) if role == "derived" else policy
        learned = _policy(config)
        kind, ops = learned.get("name"), learned.get("ops", ())
        if kind != config.augment or tuple(ops) != policy.ops:
            raise KitError(f"policy={config.policy!r} is {kind!r} over {ops}: set augment and operations to these")
        policy.adopt(learned)
        return Derived(policy)

    def hyper(self, net: Network) -> HyperLearner:
        config, role = self.config, self.stage.hyper
        part = HYPER["fixed" if role == "default" else config.hyper]
        about = {"device": self.device, "steps": self.horizon, "blocks": net.own_drop_paths, **part.arguments(config)}
        learner = part.make(config.lr, config.weight_decay, self.generator("η"), **about)
        return DerivedHyper(learner) if role == "derived" else learner


def read_genotype(config: Config) -> dict | None:
    """The configuration's genotype, unchecked: of a name, a JSON file or a run's directory; None: the space's usual
    one, if it has one."""
    make = SPACES[config.space].make
    named, source = make.genotypes, config.genotype or make.usual
    if source in {None, *named}:
        return named.get(source)
    content = _written(source, f"genotype={source!r} is neither a name ({', '.join(named)}) nor")
    return content.get("genotype", content)


def _policy(config: Config) -> dict:
    return _written(config.policy, f"policy={config.policy!r} is neither").get("policy", {})


def _written(source: str, problem: str) -> dict:
    path = place(source)
    path = path / "model" / "model.json" if path.is_dir() else path
    if not path.is_file():
        raise KitError(f"{problem} a JSON file, nor a finished run's directory (with model/model.json)")
    return store.read_json(path)


def extract(net: Network, picks: Picks) -> dict[str, Tensor]:
    """The state of the child alone: what the network built from its genotype loads."""
    with torch.device("meta"):
        alone = space.build(**net.spec(picks))
    state = net.state_dict()
    return {name: state[name] for name in alone.state_dict()}
