"""One frozen, typed run configuration. A preset and a method only fill values; every one of them can be overridden by
name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kit import augment, data, errors, hyper, space
from kit.arch import ARCH
from kit.errors import KitError
from kit.methods import BRINGS, METHODS, PRESETS, Method, Stage

# what does not change the result, so does not name the run
NOT_HASHED = ("out", "root", "device", "tensorboard")
VERSION = 1


class Config(BaseModel):
    """Everything that decides a run. Fields left out come from the method and the preset.

    Raises KitError for unknown names (nearest first), wrong types and values out of range: before any compute.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    dataset: str = Field("digits", description="a registered data set, or the path of a folder of class folders")
    root: str | None = Field(None, description="where data sets lie; else $KIT_DATA, else ~/.cache/kit/data")
    image_size: int | None = Field(None, ge=4, le=1024, description="pixels; None keeps the data set's own")
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="skip: train without the files that cannot be read, and list them"
    )
    train_images: int | None = Field(
        None, ge=2, description="train on so many images, drawn evenly from the classes; None takes all"
    )
    method: str = Field("dha", description="see kit.methods()")
    preset: str = Field("laptop", description="paper, server or laptop")
    seed: int = Field(0, ge=0, lt=2**31)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    epochs: int = Field(ge=1, description="of the whole run: search and tuning together")
    search_epochs: int = Field(ge=1, description="at most so many for the search stage; the architecture is then fixed")
    batch_size: int = Field(ge=2)
    channels: int = Field(ge=2, le=512, description="C of the first cell; even")
    cells: int = Field(ge=1, le=50)
    reductions: int | None = Field(
        None, ge=0, le=5, description="cells (or stages of blocks) of stride 2; None: the space's own for the image"
    )
    search_channels: int = Field(ge=2, le=512, description="C in the search stage of sequential methods")
    search_cells: int = Field(ge=1, le=50)
    lr: float = Field(gt=0, le=10)
    weight_decay: float = Field(ge=0, le=1)
    momentum: float = Field(ge=0, lt=1)
    clip: float = Field(ge=0, description="global gradient norm; 0 does not clip")
    drop_path: float = Field(ge=0, lt=1, description="at the last epoch; grows linearly from 0")
    auxiliary: float = Field(ge=0, le=1, description="weight of the auxiliary head's loss; 0 builds none")
    mixup: float = Field(0.0, ge=0, le=1, description="the parameter a of Beta(a, a); 0: none")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classifier")
    space: str = Field(description="cell, choice, mobile, or a fixed network: wrn-28-10, …")
    genotype: str | None = Field(
        None, description="for arch='given': a name, a JSON file, or a run's directory; None: the space's usual one"
    )
    arch: str = Field(description="sparse-coding, dsnas, snas, darts, gdas, daas, reinforce, given or random")
    augment: str = Field(description="pair-softmax, pair-softmax-4, policy-gradient, or a fixed policy")
    policy: str | None = Field(None, description="a run's directory: train with the τ that it found, as it stands")
    hyper: str = Field(
        description="lookahead, fresh, validation, hgd, ift, reinforce, random-search, bayesian or fixed"
    )
    hyper_space: str = Field(
        "weight_decay,mixup", description="what hyper='reinforce' and trials search: names, or name=value:value:…"
    )
    recover: Literal["step", "epoch"] = Field(description="when α is recovered from b")
    freeze_tol: float = Field(ge=0, description="a node freezes when its α moves less than this in an epoch")
    lam: float = Field(1e-5, gt=0, description="λ of the LASSO")
    arch_lr: float = Field(1e-3, gt=0, description="Adam on b, or on the logits of α")
    tau_lr: float = Field(ge=0, description="SGD on τ (Adam for policy-gradient)")
    hyper_lr: float = Field(gt=0, description="Adam on log η, or on the controller")
    fix_margin: float = Field(0.3, gt=0, description="DSNAS fixes a block when its best logit leads by so much")
    temperature: float = Field(1.0, gt=0, description="of the Gumbel softmax at the start of the search")
    last_temperature: float = Field(1.0, gt=0, description="… and at its end")
    target_macs: int | None = Field(
        None, ge=1, description="multiply-adds that dsnas (penalty above) and reinforce (absolute reward) steer to"
    )
    target_weight: float = Field(0.1, ge=0, description="of the penalty or reward of target_macs")
    reward_baseline: float = Field(
        0.95, ge=0, lt=1, description="factor of the moving average that rewards are compared with"
    )
    children: int = Field(ge=1, le=100, description="two levels: children per step of θ (DAAS: n_w)")
    arch_samples: int = Field(ge=1, le=100, description="two levels: architectures per step of α and τ (DAAS: n_arch)")
    policies: int = Field(
        ge=0, le=100, description="two levels: policies per architecture (DAAS: n_aug); 0: one per image"
    )
    first_order: bool = Field(True, description="two levels: α's gradient at θ itself, not one step ahead")
    trials: int = Field(ge=2, le=1000, description="of random search and Bayesian optimisation, over search_epochs")
    max_params: int | None = Field(None, ge=1)
    max_macs: int | None = Field(None, ge=1)
    max_latency_ms: float | None = Field(
        None, gt=0, description="of a forward pass of latency_batch images on the run's device"
    )
    latency_batch: int = Field(1, ge=1, le=65536, description="images per batch that max_latency_ms is about")
    hold_out: bool | None = Field(
        None, description="keep the validation split out of training; None: only where the method reads it"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 autocast on GPUs that have it"
    )
    deterministic: bool = False
    sync_batchnorm: bool = Field(
        False, description="several GPUs: BatchNorm over the whole batch, not over each GPU's share"
    )
    tensorboard: bool = Field(
        False, description="also write the history as TensorBoard event files, in the run directory"
    )
    out: str = Field("runs", description="folder of run directories")

    def __init__(self, **given: Any):
        for name in given:
            if name not in type(self).model_fields:
                raise errors.unknown("parameter", name, type(self).model_fields)
        given = {name: value for name, value in given.items() if value is not None}
        try:
            super().__init__(**_filled(given))
        except ValidationError as error:
            raise KitError(_readable(error, type(self))) from None

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for kind, value, allowed in (
            ("space", self.space, space.SPACES),
            ("arch", self.arch, ARCH),
            ("hyper", self.hyper, hyper.HYPER),
            ("augmentation policy", self.augment, augment.AUGMENT),
        ):
            if value not in allowed:
                raise errors.unknown(kind, value, allowed)
        if self.dataset not in data.datasets() and not os.path.exists(os.path.expanduser(self.dataset)):
            data.load_dataset(self.dataset)  # raises the error that names the valid ones
        if self.search_epochs > self.epochs:
            raise KitError(
                f"search_epochs={self.search_epochs} is more than epochs={self.epochs}: the search stage is part of the run"
            )
        if self.stages[-1].restart and self.search_epochs == self.epochs:
            raise KitError(
                f"method {self.method!r} trains the found network from scratch: search_epochs={self.search_epochs} leaves no epoch"
            )
        if self.search_epochs < len(self.stages) - 1:
            raise KitError(
                f"search_epochs={self.search_epochs} is less than one for each of the {len(self.stages) - 1} stages before the last: "
                f"set search_epochs={len(self.stages) - 1} or more, or fewer trials"
            )
        for name in ("channels", "search_channels"):
            if getattr(self, name) % 2:
                raise KitError(f"{name}={getattr(self, name)} must be even (the factorized reduction halves it)")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise KitError(f"device={self.device!r} is not auto, cpu, cuda or cuda:N")
        self._check_fit()
        return self

    def _check_fit(self) -> None:
        arch, learner = ARCH[self.arch], hyper.HYPER[self.hyper]
        searches = any(stage.search for stage in self.stages)
        fixed = not space.SEARCHABLE[self.space]
        if searches and arch.build is None:
            searching = ", ".join(name for name, entry in ARCH.items() if entry.build is not None)
            raise KitError(
                f"method {self.method!r} searches and needs an arch that does ({searching}), got {self.arch!r}; to train one network "
                "use method='da+hpo' or 'plain'"
            )
        if not searches and arch.build is not None:
            raise KitError(
                f"method {self.method!r} does not search and arch={self.arch!r} does: use arch='given' or 'random', or a method that "
                "searches, such as 'dha'"
            )
        if fixed and self.arch != "given":
            raise KitError(
                f"space {self.space!r} is one fixed network and arch={self.arch!r} needs choices: use space='cell', 'choice' or "
                "'mobile', or method='da+hpo' or 'plain' with this space"
            )
        if arch.weighs and not space.ABSORBS[self.space]:
            raise KitError(
                f"arch={self.arch!r} weighs operations, and space {self.space!r} cannot take the weights over when they are fixed (its "
                "blocks do not end in a normalisation of their own): use space='cell', or arch='dsnas'"
            )
        if arch.retrain and not self.stages[-1].restart:
            raise KitError(
                f"arch={self.arch!r} trains weights that do not fit its derived child, and method {self.method!r} does not train that "
                "anew: use a method that does, such as 'gdas' or 'seq-dha', or arch='dsnas'"
            )
        if learner.trials != any(stage.repeat for stage in self.stages):
            raise KitError(
                f"hyper={self.hyper!r} {'runs' if learner.trials else 'does not run'} whole trials, and method {self.method!r} "
                f"{'has none' if learner.trials else 'is made of them'}: use method='random-search' or 'bayesian' with them, and "
                "another hyper without"
            )
        if self.target_macs is not None and not arch.target:
            raise KitError(
                f"arch={self.arch!r} does not steer to target_macs (dsnas and reinforce do): use max_macs, a limit that every search keeps"
            )
        hyper.read_bases(self.hyper_space)
        if self.policy is not None and not augment.AUGMENT[self.augment].make.learns:
            learned = ", ".join(name for name, entry in augment.AUGMENT.items() if entry.make.learns)
            raise KitError(
                f"policy={self.policy!r} is a learned τ and augment={self.augment!r} is not: set augment to what that run learned ({learned})"
            )
        if self.temperature < self.last_temperature:
            raise KitError(
                f"temperature={self.temperature} falls to last_temperature={self.last_temperature}: give one that is not larger"
            )

    @property
    def composition(self) -> Method:
        return METHODS[self.method]

    @property
    def stages(self) -> list[Stage]:
        """The method's stages in order, repeated ones as often as they run."""
        return [stage for stage in self.composition.stages for _ in range(self.trials if stage.repeat else 1)]

    @property
    def stage_epochs(self) -> list[int]:
        """Of each stage, at most: search_epochs are shared by those before the last, which has the rest."""
        before = len(self.stages) - 1
        if not before:
            return [self.epochs]
        share, more = divmod(self.search_epochs, before)
        return [share + (i < more) for i in range(before)] + [self.epochs - self.search_epochs]

    @property
    def name(self) -> str:
        """Of the run directory: <dataset>-<method>-s<seed>-<hash>; the same configuration finds the same directory."""
        values = {k: v for k, v in self.model_dump().items() if k not in NOT_HASHED}
        if not self.sync_batchnorm:  # came later: what is run without it keeps its name
            del values["sync_batchnorm"]
        digest = hashlib.sha256(json.dumps([VERSION, values], sort_keys=True).encode()).hexdigest()[:8]
        dataset = re.sub(r"[^\w.]+", "_", Path(self.dataset).name) or "data"
        return f"{dataset}-{self.method}-s{self.seed}-{digest}"

    @classmethod
    def stored(cls, values: dict[str, Any]) -> Config:
        """A configuration as a run directory recorded it; its data may lie elsewhere by now, so they are not looked
        for.
        """
        return cls.model_construct(**{name: value for name, value in values.items() if name in cls.model_fields})

    def but(self, **changes: Any) -> Config:
        """This configuration with some values changed; what the changed preset or method fills is not recomputed."""
        return Config(**{**self.model_dump(), **changes})


def _filled(given: dict[str, Any]) -> dict[str, Any]:
    """Preset, then method, then what was given."""
    tables = {}
    for kind, table in (("preset", PRESETS), ("method", METHODS)):
        name = given.get(kind, Config.model_fields[kind].default)
        if not isinstance(name, str) or name not in table:
            raise errors.unknown(kind, name, table)
        tables[kind], tables[f"{kind}_name"] = table[name], name
    preset, method = tables["preset"], tables["method"]
    filled = {k: v for k, v in preset.items() if k in Config.model_fields} | method.filled(preset)
    for kind in (
        "space",
        "arch",
        "augment",
        "hyper",
    ):  # of what is composed, whoever chose it; the method's own values come after
        filled |= BRINGS.get((kind, str(given.get(kind, filled[kind]))), {}).get(tables["preset_name"], {})
    filled |= dict(method.values) | given
    if "search_epochs" not in given and isinstance(filled["epochs"], int):
        trials = filled["trials"] if isinstance(filled["trials"], int) else 1
        before = sum(trials if stage.repeat else 1 for stage in method.stages) - 1
        filled["search_epochs"] = max(1, before, round(preset["search_share"] * filled["epochs"]))
    return filled


def _readable(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for entry in error.errors():
        if not entry["loc"]:
            return entry["msg"].removeprefix("Value error, ")
        if entry["type"] == "missing":  # follows from a field that is wrong itself and has a line of its own
            continue
        name = str(entry["loc"][0])
        about = model.model_fields[name].description
        lines.append(f"{name}={entry['input']!r}: {entry['msg'].lower()}" + (f" ({about})" if about else ""))
    return "; ".join(lines)
