"""What a stage trains on and for how long: which images it may see, the batches its learners read, its schedule."""

from __future__ import annotations

from dataclasses import dataclass

from kit import data
from kit.arch import ARCH
from kit.augment import AUGMENT
from kit.config import Config
from kit.data import Batches, ImageSet, ImageSets
from kit.errors import KitError
from kit.hyper import HYPER
from kit.search import ranks
from kit.search.learner import generator


def needs(config: Config, index: int) -> frozenset[str]:
    """Batches that the stage reads beside the training ones: "fresh", "val"."""
    stage = config.stages[index]
    learning = [
        *([ARCH[config.arch]] if stage.search else []),
        *([AUGMENT[config.augment]] if stage.augment == "learn" else []),
        *([HYPER[config.hyper]] if stage.hyper == "learn" else []),
    ]
    return frozenset({"val"} if stage.step == "bi-level" else ()).union(*(part.make.needs for part in learning))


def schedule_of(config: Config, index: int) -> range:
    """The stages that share the schedule, the weights and the images of this one: up to the next restart."""
    stages = config.stages
    first = max(i for i in range(index + 1) if i == 0 or stages[i].restart)
    last = next((i for i in range(index + 1, len(stages)) if stages[i].restart), len(stages))
    return range(first, last)


def _read(config: Config, group: range) -> frozenset[str]:
    return frozenset().union(*(needs(config, i) for i in group))


def holds_out(config: Config, index: int) -> bool:
    """Validation images are held out where a learner of the stage's schedule reads them, or the configuration says so;
    else they are trained on. Raises KitError where they are needed and hold_out is False."""
    read = "val" in _read(config, schedule_of(config, index))
    if read and config.hold_out is False:
        raise KitError(
            f"method {config.method!r} with arch={config.arch!r}, augment={config.augment!r}, hyper={config.hyper!r} "
            "reads validation batches: leave hold_out out, or set it to True"
        )
    return read or bool(config.hold_out)


def key_of(config: Config, index: int) -> str:
    """A name for the stage's random streams; stages that repeat differ."""
    stage = config.stages[index]
    return f"{stage.name}-{index}" if stage.repeat else stage.name


@dataclass
class StageData:
    """train: the images that the weights learn from; hold_out: whether the validation images are kept from them."""

    hold_out: bool
    train: ImageSet
    batches: dict[str, Batches]

    @classmethod
    def of(cls, config: Config, index: int, sets: ImageSets) -> StageData:
        """Of the stage and those that share its schedule."""
        group = schedule_of(config, index)
        read, hold_out = _read(config, group), holds_out(config, index)
        train = subset(sets.train if hold_out else sets.train_val(), config.train_images)
        purpose = "" if group.start == 0 else f"/{key_of(config, group.start)}"
        sources = {"train": train, "fresh": train, "val": sets.val}
        batches = {}
        for name in ("train", *sorted(read)):
            size = min(config.batch_size, len(sets.val)) if name == "val" else config.batch_size
            if name == "val":
                ranks.check(size, "the validation batch's size")
            batches[name] = Batches(sources[name], size, generator(config.seed, f"batches/{name}{purpose}"))
        return cls(hold_out, train, batches)


def planned_epochs(config: Config, index: int) -> int:
    """Epochs of the stages that share this one's schedule, if each takes as long as it may."""
    return sum(config.stage_epochs[i] for i in schedule_of(config, index))


def horizon(config: Config, index: int, began: int) -> int:
    """Epochs of the learning-rate schedule that began after `began` epochs: up to the next restart, or to the end of
    the run, which comes later where an earlier stage ended early."""
    last = schedule_of(config, index).stop == len(config.stages)
    return config.epochs - began if last else planned_epochs(config, index)


def subset(train: ImageSet, n: int | None) -> ImageSet:
    """n images with the classes' shares kept; the same ones in every run."""
    if n is None or n == len(train):
        return train
    if n > len(train):
        raise KitError(f"train_images={n:,} but there are {len(train):,}: leave it out to train on all of them")
    _, kept = data.stratified_split(train.labels, n / len(train))
    return train.take(kept)
