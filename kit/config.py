"""One frozen, typed run configuration. Its fields are kit's own, below, and the options of every registered part."""

import copy
import hashlib
import json
import os
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kit import data, files
from kit.arch import ARCH
from kit.augment import AUGMENT
from kit.errors import KitError, shown, unknown
from kit.hyper import HYPER
from kit.methods import METHODS, PRESETS, Stage
from kit.registry import Part, Registry, load_plugins
from kit.search.step import STEPS
from kit.space import SPACES

# what does not change the result, so does not name the run
NOT_HASHED = ("out", "root", "device", "plugins", "trajectory")
#: the fields that choose a part, and the parts to choose from
PARTS: dict[str, Registry] = {"space": SPACES, "arch": ARCH, "augment": AUGMENT, "hyper": HYPER}


class Config(BaseModel):
    """Everything that decides a run. Fields left out come from the method and the preset. Raises KitError for unknown
    names (nearest first), wrong types and values out of range: before any compute."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    dataset: str = Field("digits", description="a registered data set, or the path of a folder of class folders")
    root: str | None = Field(None, description="where data sets lie; else $KIT_DATA, else ~/.cache/kit/data")
    image_size: int | None = Field(None, ge=4, le=1024, description="pixels; None keeps the data set's own")
    on_bad_image: Literal["error", "skip"] = Field("error", description="skip: leave unreadable files out, list them")
    train_images: int | None = Field(None, ge=2, description="so many in all, those held out too; None takes all")
    method: str = Field("dha", description="see kit.methods()")
    preset: str = Field("laptop", description="paper, server or laptop")
    seed: int = Field(0, ge=0, lt=2**31, description="of all that is drawn in a run; the data's split has its own")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N")
    epochs: int = Field(ge=1, description="of the whole run: search and tuning together")
    search_epochs: int = Field(ge=1, description="at most so many for the search stage; the architecture is then fixed")
    warm_up: float | None = Field(None, ge=0, lt=1, description="share of a stage before its τ, or controllers, learn")
    trials: int = Field(4, ge=2, le=1000, description="settings to try, over search_epochs")
    batch_size: int = Field(ge=2, description="images of a step, over all GPUs together")
    channels: int = Field(ge=2, le=512, multiple_of=2, description="C of the first cell; even")
    cells: int = Field(ge=1, le=50, description="how many; in spaces of blocks, blocks")
    reductions: int | None = Field(None, ge=0, le=5, description="cells or stages of stride 2; None: the space's own")
    search_channels: int = Field(ge=2, le=512, multiple_of=2, description="C in a sequential method's search; even")
    search_cells: int = Field(ge=1, le=50, description="cells in a sequential method's search")
    lr: float = Field(gt=0, le=10, description="of the weights, at first; falls to 0 by a cosine")
    weight_decay: float = Field(3e-4, ge=0, le=1, description="of the weights")
    momentum: float = Field(0.9, ge=0, lt=1, description="of the weights' SGD")
    clip: float = Field(5.0, ge=0, description="global gradient norm; 0 does not clip")
    drop_path: float = Field(ge=0, lt=1, description="at the last epoch; grows linearly from 0")
    auxiliary: float = Field(ge=0, le=1, description="weight of the auxiliary head's loss; 0 builds none")
    mixup: float = Field(0.0, ge=0, le=1, description="the parameter a of Beta(a, a); 0: none")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classifier")
    space: str = Field(description="the network: a searchable space or a fixed network")
    genotype: str | None = Field(None, description="of arch='given': a name, JSON file or run; None: the space's usual")
    arch: str = Field(description="α: the architecture learner, given, or random")
    augment: str = Field(description="τ: the augmentation policy, learned or fixed")
    policy: str | None = Field(None, description="a run's directory: train with the τ that it learned, unchanged")
    hyper: str = Field(description="η: the learner of the hyper-parameters, or fixed")
    max_params: int | None = Field(None, ge=1, description="parameters that every child keeps to")
    max_macs: int | None = Field(None, ge=1, description="multiply-adds of one image that every child keeps to")
    max_latency_ms: float | None = Field(None, gt=0, description="of latency_batch images' forward pass on the device")
    latency_batch: int = Field(1, ge=1, le=65536, description="images per batch that max_latency_ms is about")
    hold_out: bool | None = Field(None, description="keep val out of training; None: only where the method reads it")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on GPUs that have it")
    deterministic: bool = Field(False, description="on GPUs too; an operation that has no such form raises")
    sync_batchnorm: bool = Field(False, description="several GPUs: BatchNorm over the whole batch, not a GPU's share")
    plugins: str | None = Field(None, description="Python files with parts of one's own, commas between them")
    plugin_digest: str | None = Field(None, description="of those files' contents; filled in")
    trajectory: int = Field(0, ge=0, le=1000, description="epochs of the last stage whose weights are kept: their path")
    out: str = Field("runs", description="folder of run directories")

    def __init__(self, _stored: bool = False, /, **given: Any):
        """_stored: of a run that is only opened, whose data and plug-ins stay where they are."""
        given = {name: _plain(value) for name, value in given.items() if value is not None}
        if isinstance(given.get("plugins"), str) and not _stored:
            given["plugin_digest"] = load_plugins(given["plugins"])
        for name in given:
            if name not in type(self).model_fields:
                raise unknown("parameter", name, type(self).model_fields)
        try:
            super().__init__(**_filled(given))
        except ValidationError as error:
            raise KitError(_readable(error)) from None
        parts = [parts[getattr(self, kind)] for kind, parts in PARTS.items()]  # raises for an unknown name
        if not (_stored or self.dataset in data.datasets() or (self.dataset and files.place(self.dataset).exists())):
            data.load_dataset(self.dataset)  # raises the error that names the valid ones
        self._check_fit()
        for part in parts:
            if hasattr(part.make, "check"):
                part.make.check(self)

    def _check_fit(self) -> None:
        space, arch, trials = SPACES[self.space].make, ARCH[self.arch].make, HYPER[self.hyper].make.trials
        before, anew = len(self.stages) - 1, self.stages[-1].restart
        searches, repeats = (any(getattr(stage, what) for stage in self.stages) for what in ("search", "repeat"))
        method, network = f"method {self.method!r}", f"space {self.space!r}"
        learner, augment, hyper = (f"{kind}={getattr(self, kind)!r}" for kind in ("arch", "augment", "hyper"))
        why = None
        if not before <= self.search_epochs <= self.epochs - anew:
            needs = f"{max(1, before)} or more, and {int(anew)} or more left for its last stage: set more epochs"
            why = f"search_epochs={self.search_epochs} of epochs={self.epochs}: {method} needs {needs}"
        elif searches and not arch.searches:
            use = f"one of {_names(ARCH, 'searches')}, or method='da+hpo' or 'plain'"
            why = f"{method} searches and {learner} does not: use {use}"
        elif arch.searches and not searches:
            why = f"{method} does not search and {learner} does: use method='dha', or arch='given'"
        elif self.arch != "given" and not space.searchable:
            use = f"one of {_names(SPACES, 'searchable')}, or method='plain'"
            why = f"{network} is one fixed network and {learner} needs choices: use {use}"
        elif arch.weighs and not space.absorbs_gates:
            why = f"{learner} weighs operations, and {network} cannot take the weights over: use arch='dsnas'"
        elif arch.retrain and not anew:
            why = f"{learner} has to train its child anew, and {method} does not: use method='seq-dha' or 'gdas'"
        elif trials != repeats:
            why = f"{hyper} with {method}: whole trials take both, a hyper and the method of that name"
        elif self.warm_up is not None and all(stage.step == "one-level" for stage in self.stages):
            why = f"warm_up={self.warm_up:g}: in {method} nothing waits for it (use 'daas' or 'autohas'): leave it out"
        elif self.policy is not None and not AUGMENT[self.augment].make.learns:
            use = f"augment as that run did ({_names(AUGMENT, 'learns')})"
            why = f"policy={self.policy!r} is a learned τ and {augment} is not: set {use}"
        if why is not None:
            raise KitError(why)

    @property
    def stages(self) -> list[Stage]:
        return METHODS[self.method].unrolled(self.trials)

    @property
    def searches_apart(self) -> bool:
        """Whether the search stages have a network of their own (search_channels, search_cells)."""
        return self.stages[-1].restart and any(stage.search for stage in self.stages)

    @property
    def stage_epochs(self) -> list[int]:
        """Of each stage, at most: search_epochs are shared by those before the last, which has the rest."""
        before = len(self.stages) - 1
        share, more = divmod(self.search_epochs, before or 1)
        return [share + (i < more) for i in range(before)] + [self.epochs - (self.search_epochs if before else 0)]

    @property
    def name(self) -> str:
        """Of the run directory; the same configuration on the same data finds the same one. It reads the data."""
        sets = self.sets()
        return self.named(sets.name, data.digest(sets))

    def named(self, dataset: str, digest: str) -> str:
        """<dataset>-<method>-s<seed>-<configuration>-<data>, of a data set's own name and digest, wherever it lies.

        At most 200 bytes of a file system's 255: other files' names are made from it."""
        values = {k: v for k, v in self.model_dump().items() if k not in (*NOT_HASHED, "dataset")}
        values |= {name: _content(values[name]) for name in ("genotype", "policy")}
        configuration = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        rest = f"-{self.method}-s{self.seed}-{configuration}-{digest[:6]}"
        return (re.sub(r"[^\w.]+", "_", dataset).encode()[: 200 - len(rest)].decode(errors="ignore") or "data") + rest

    @classmethod
    def stored(cls, values: dict[str, Any]) -> Self:
        """A configuration as a run directory recorded it: its data need not be here, and no plug-in is executed. Raises
        KitError for values that are not valid, and where a plug-in is needed that has not been loaded."""
        try:
            return cls(True, **values)
        except KitError as error:
            if not (plugins := values.get("plugins")):
                raise
            mend = f"if you trust it, call kit.registry.load_plugins('{plugins}') first"
            raise KitError(f"opening a run never executes its plug-in {plugins}: {mend} ({error})") from None

    def model_dump(self, **how: Any) -> dict[str, Any]:
        """Every field by name; the options of a user's own parts only where one of those parts is chosen, so that a
        plug-in that happens to be loaded changes no other configuration."""
        chosen = [parts.get(getattr(self, kind)) for kind, parts in PARTS.items()]
        kept = KIT_FIELDS.union(*(part.options.model_fields for part in chosen if part and part.options))
        return {name: value for name, value in super().model_dump(**how).items() if name in kept}

    def sets(self) -> data.ImageSets:
        size = {"image_size": self.image_size, "photo_size": PRESETS[self.preset]["photo_size"]}
        return data.load_dataset(self.dataset, self.root, on_bad_image=self.on_bad_image, **size)

    def but(self, **changes: Any) -> Self:
        """This configuration with some values changed; what the changed preset or method fills is not recomputed."""
        return Config(**{**self.model_dump(), **changes})


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _content(source: str | None) -> str | None:
    path = files.place(source or "")
    path = path / "model" / "model.json" if path.is_dir() else path
    return hashlib.sha256(path.read_bytes()).hexdigest() if source and path.is_file() else source


def _names(parts: Registry, trait: str) -> str:
    return ", ".join(name for name, part in parts.items() if getattr(part.make, trait))


def _filled(given: dict[str, Any]) -> dict[str, Any]:
    """Preset, then method, then the parts chosen, then the method's own values, then what was given."""
    chosen = {}
    for kind, table in (("preset", PRESETS), ("method", METHODS)):
        name = given.get(kind, Config.model_fields[kind].default)
        if not isinstance(name, str) or name not in table:
            raise unknown(kind, name, table)
        chosen[kind] = name
    preset, method = PRESETS[chosen["preset"]], METHODS[chosen["method"]]
    filled = {k: v for k, v in preset.items() if k in Config.model_fields} | method.filled(preset)
    names = [(parts, given.get(kind, filled[kind])) for kind, parts in PARTS.items()]
    for parts, name in (*names, *((STEPS, stage.step) for stage in method.stages)):
        if isinstance(name, str) and name in parts:
            filled |= parts[name].values(chosen["preset"])
    search_share = filled.pop("search_share", preset["search_share"])
    filled |= dict(method.values) | given
    if "search_epochs" not in given and isinstance(filled["epochs"], int):
        trials = filled["trials"] if isinstance(filled.get("trials"), int) else 1
        before = len(method.unrolled(trials)) - 1
        filled["search_epochs"] = max(1, before, round(search_share * filled["epochs"]))
    return filled


def _readable(error: ValidationError) -> str:
    said = []
    for entry in error.errors():
        if entry["type"] != "missing":  # it follows from a field that is wrong itself and has a line of its own
            name = str(entry["loc"][0])
            about = Config.model_fields[name].description
            said.append(f"{name}={shown(entry['input'])}: {entry['msg'].lower()}" + (f" ({about})" if about else ""))
    return "; ".join(said)


def _adopt(parts: Registry, part: Part) -> None:
    for name, field in (part.options.model_fields if part.options else {}).items():
        there = Config.__pydantic_fields__.setdefault(name, copy.copy(field))
        if any(getattr(there, x) != getattr(field, x) for x in ("annotation", "metadata", "default")):
            own, other = (f"{it.annotation} with default {it.default!r}" for it in (field, there))
            which = f"{parts.kind} {part.name!r} declares the option {name!r} as {own}, which kit.Config has as {other}"
            raise KitError(f"{which}: declare it alike, or under another name")
        Config.__annotations__[name] = there.annotation
    Config.model_rebuild(force=True)


for _parts in (*PARTS.values(), STEPS):
    for _part in _parts.values():
        _adopt(_parts, _part)
KIT_FIELDS = frozenset(Config.model_fields)
Registry.listener = _adopt
