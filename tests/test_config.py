"""A configuration is refused before any compute, in words that say what to type; and its name says what decides the
result.
"""

from __future__ import annotations

import json
import re

import pytest
from pydantic_core import PydanticUndefined
from tests_micro import micro_config

import kit
from kit import Config, KitError
from kit.config import NOT_HASHED, PARTS
from kit.methods import METHODS, PRESETS
from kit.search.engine import Search
from kit.search.step import STEPS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 0.1}, "unknown parameter 'learning_rate'"),
        ({"epoch": 3}, "unknown parameter 'epoch'. Did you mean 'epochs'\\?"),
        ({"Batch_size": 3}, "unknown parameter 'Batch_size'. Did you mean 'batch_size'\\?"),
        ({"method": "dah"}, "unknown method 'dah'. Did you mean 'dha'\\? Valid: dha, .*plain"),
        ({"method": "DHA"}, "unknown method 'DHA'. Did you mean 'dha'\\?"),
        ({"method": ["dha"]}, r"unknown method \['dha'\]"),
        ({"preset": "labtop"}, "unknown preset 'labtop'. Did you mean 'laptop'\\?"),
        ({"dataset": "digts"}, "unknown dataset 'digts'. Did you mean 'digits'\\?"),
        ({"dataset": ""}, "unknown dataset ''"),
        ({"dataset": "./no/such/folder"}, "no/such/folder"),
        ({"space": "cel"}, "unknown space 'cel'. Did you mean 'cell'\\?"),
        ({"arch": "sparse_coding"}, "unknown arch 'sparse_coding'. Did you mean 'sparse-coding'\\?"),
        ({"augment": "pairsoftmax"}, "unknown augmentation policy 'pairsoftmax'. Did you mean 'pair-softmax'\\?"),
        ({"hyper": "look-ahead"}, "unknown hyper 'look-ahead'. Did you mean 'lookahead'\\?"),
        ({"recover": "batch"}, "recover='batch'.*'step' or 'epoch'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_first(given: dict, message: str):
    with pytest.raises(KitError, match=message):
        Config(**given)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"epochs": "3"}, ["epochs='3'", "valid integer"]),
        ({"epochs": 2.5}, ["epochs=2.5"]),
        ({"epochs": True}, ["epochs=True"]),
        ({"epochs": -1}, ["epochs=-1", "greater than or equal to 1"]),
        ({"epochs": 0}, ["epochs=0"]),
        ({"deterministic": "true"}, ["deterministic='true'", "boolean"]),
        ({"deterministic": 1}, ["deterministic=1"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"batch_size": 1}, ["batch_size=1"]),
        ({"batch_size": "all"}, ["batch_size='all'"]),
        ({"lr": "0.1"}, ["lr='0.1'"]),
        ({"lr": 0}, ["lr=0", "greater than 0"]),
        ({"lr": float("nan")}, ["lr=nan"]),
        ({"lr": True}, ["lr=True"]),
        ({"clip": float("inf")}, ["clip=inf"]),
        ({"tau_lr": float("inf")}, ["tau_lr=inf"]),
        ({"lam": float("inf")}, ["lam=inf"]),
        ({"weight_decay": -1e-4}, ["weight_decay=-0.0001"]),
        ({"momentum": 1.0}, ["momentum=1.0"]),
        ({"drop_path": 1.0}, ["drop_path=1.0"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"seed": 2**31}, ["seed=2147483648"]),
        ({"seed": 1.0}, ["seed=1.0"]),
        ({"channels": 7}, ["channels=7", "even"]),
        ({"search_channels": 9}, ["search_channels=9", "even"]),
        ({"cells": 0}, ["cells=0"]),
        ({"device": "gpu"}, ["device='gpu'", "cuda"]),
        ({"device": "cuda:x"}, ["device='cuda:x'"]),
        ({"max_params": 0}, ["max_params=0"]),
        ({"max_macs": 1.5}, ["max_macs=1.5"]),
        ({"image_size": 3}, ["image_size=3"]),
        ({"dataset": 3}, ["dataset=3"]),
        ({"genotype": 3, "method": "plain"}, ["genotype=3"]),
        ({"epochs": "3", "lr": -1}, ["epochs='3'", "lr=-1"]),  # all of them at once
    ],
)
def test_wrong_types_and_values_are_refused_by_name(given: dict, names: list[str]):
    with pytest.raises(KitError) as error:
        Config(**given)
    assert all(name in str(error.value) for name in names), str(error.value)
    assert "pydantic" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"epochs": 3, "search_epochs": 4},
            "search_epochs=4 of epochs=3: method 'dha' needs 1 or more, and 0 or more left",
        ),
        (
            {"method": "seq-dha", "epochs": 3, "search_epochs": 3},
            "search_epochs=3 of epochs=3: method 'seq-dha' needs 1 or more, and 1 or more left",
        ),
        ({"method": "seq-dha", "epochs": 1}, "1 or more left for its last stage: set more epochs"),
        ({"method": "autohas-phase", "search_epochs": 1}, "'autohas-phase' needs 2 or more, .*: set more epochs"),
        ({"method": "daas", "children": 0}, "children=0: .* greater than or equal to 1"),
        ({"method": "daas", "warm_up": 1.0}, "warm_up=1.0: .* less than 1 .*share of a stage before its τ"),
        ({"method": "dha", "warm_up": 0.5}, "warm_up=0.5: in method 'dha' nothing waits for it .*leave it out"),
        (
            {"method": "dha", "arch": "given"},
            "'dha' searches and arch='given' does not.*sparse-coding.*'da\\+hpo' or 'plain'",
        ),
        ({"method": "plain", "arch": "sparse-coding"}, "'plain' does not search"),
        ({"method": "dha", "space": "wrn-28-10"}, "'wrn-28-10' is one fixed network"),
        ({"method": "random", "space": "wrn-28-10"}, "'wrn-28-10' is one fixed network"),
        (
            {"method": "dha", "space": "choice"},
            "'sparse-coding' weighs operations, and space 'choice' cannot take the weights over.*arch='dsnas'",
        ),
        ({"method": "dha", "arch": "darts"}, "'darts' has to train its child anew.*'seq-dha'"),
        ({"method": "dsnas", "arch": "gdas"}, "'gdas' has to train its child anew"),
        (
            {"method": "dha", "hyper": "bayesian"},
            "'bayesian' with method 'dha': whole trials take both, a hyper and the method",
        ),
        (
            {"method": "bayesian", "hyper": "lookahead"},
            "'lookahead' with method 'bayesian': whole trials take",
        ),
        ({"cells": 2}, "reductions=2: .*set reductions to 0…1, .*more cells"),
        ({"cells": 5, "reductions": 3, "image_size": 8}, "too deep .*images of 8×8 pixels: set reductions to 0…2"),
        ({"method": "seq-dha", "cells": 2}, "more cells"),  # a later stage's network
        ({"method": "seq-dha", "search_cells": 2}, "more cells"),
        ({"method": "diffautoml", "cells": 3}, "'choice' needs 4 blocks or more, got 3: set cells to 4"),
        ({"method": "autohas", "cells": 3}, "'mobile' needs 4 blocks or more, got 3: set cells to 4"),
        ({"method": "autohas", "cells": 5, "reductions": 4}, "reductions=4: .*set reductions to 0…3"),
        ({"method": "dha", "target_macs": 1000}, "'sparse-coding' does not steer to target_macs.*max_macs"),
        ({"method": "gdas", "temperature": 0.01}, "temperature=0.01 falls to last_temperature=0.1"),
        (
            {"method": "random-search", "trials": 9, "search_epochs": 8},
            "search_epochs=8 .* needs 9 or more, and 1 or more left",
        ),
        ({"method": "autohas", "hyper_space": ""}, "names no hyper-parameter: name some of lr"),
        ({"method": "autohas", "hyper_space": "mixup="}, "has mixup=, but takes numbers from 0 to 1"),
        ({"method": "autohas", "hyper_space": "lr=0.1:20"}, "has lr=0.1:20, but takes numbers from 1e-06 to 10"),
        ({"method": "autohas", "hyper_space": "lr=fast"}, "numbers from .* with colons between"),
        ({"method": "autohas", "hyper_space": "optimizer=sgd:adm"}, "optimizer"),
        ({"method": "autohas", "hyper_space": "momentum"}, "momentum"),
        (
            {"method": "autohas-turns", "hyper_space": "lr,mixup,dropout"},
            "name 2 hyper-parameter.s., one for each stage",
        ),
        ({"method": "autohas-turns", "hyper_space": "lr,drop_path"}, "without drop_path"),
        ({"hyper": "mixture", "hyper_space": "lr,mixup"}, "mixup of hyper_space has no gradient .*hyper='reinforce'"),
    ],
)
def test_what_does_not_fit_together_is_refused(given: dict, message: str):
    with pytest.raises(KitError, match=message):
        Config(**given)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("method", kit.methods())
def test_presets_and_methods_only_fill(method: str, preset: str):
    filled = Config(method=method, preset=preset)
    composed = METHODS[method].filled(PRESETS[preset])
    brought = {}
    for kind in ("space", "arch", "augment", "hyper"):
        brought |= PARTS[kind][composed[kind]].values(preset)
    for stage in METHODS[method].stages:
        brought |= STEPS[stage.step].values(preset)
    for name, value in {**PRESETS[preset], **composed, **brought, **METHODS[method].values}.items():
        if name in Config.model_fields:
            assert getattr(filled, name) == value, name
    share = brought.get("search_share", PRESETS[preset]["search_share"])
    assert filled.search_epochs == max(1, round(share * filled.epochs))
    # every one of the filled values can be overridden, and only it changes
    for name, value in {
        "epochs": 17,
        "lr": 0.123,
        "batch_size": 33,
        "augment": "none",
        "recover": "step",
        "hyper_lr": 0.5,
    }.items():
        given = {"search_epochs": 16, "trials": 6, name: value}
        changed = Config(method=method, preset=preset, **given)
        allowed = {name, "search_epochs", "trials"} | (
            {"tau_lr", "tau_form"} if name == "augment" else set()
        )  # a policy brings its own step
        assert {k for k, v in changed.model_dump().items() if v != getattr(filled, k)} <= allowed
        assert getattr(changed, name) == value


def test_what_each_method_composes():
    composed = {m: (c.space, c.arch, c.augment, c.hyper) for m in kit.methods() for c in [Config(method=m)]}
    pairs, plain = "pair-softmax", "flip-crop"
    assert composed == {
        "dha": ("cell", "sparse-coding", pairs, "lookahead"),
        "nas+da": ("cell", "sparse-coding", pairs, "fixed"),
        "joint": ("cell", "sparse-known", "strength", "lookahead"),
        "nas-then-da": ("cell", "sparse-coding", pairs, "fixed"),
        "nas+hpo": ("cell", "sparse-coding", plain, "lookahead"),
        "seq-dha": ("cell", "sparse-coding", pairs, "lookahead"),
        "seq-nas+da": ("cell", "sparse-coding", pairs, "fixed"),
        "seq-nas+hpo": ("cell", "sparse-coding", plain, "lookahead"),
        "ista": ("cell", "sparse-coding", plain, "fixed"),
        "da+hpo": ("cell", "given", pairs, "lookahead"),
        "diffautoml": ("choice", "dsnas", pairs, "validation"),
        "dsnas": ("choice", "dsnas", plain, "fixed"),
        "daas": ("cell", "daas", "policy-gradient", "fixed"),
        "daas-independent": ("cell", "daas", "policy-gradient", "fixed"),
        "daas-da": ("cell", "given", "policy-gradient", "fixed"),
        "gdas": ("cell", "gdas", plain, "fixed"),
        "darts": ("cell", "darts", plain, "fixed"),
        "darts-second": ("cell", "darts", plain, "fixed"),
        "snas": ("cell", "snas", plain, "fixed"),
        "random-shared": ("cell", "random-shared", plain, "fixed"),
        "spos": ("choice", "spos", plain, "fixed"),
        "nsga-net": ("cell", "nsga-net", plain, "fixed"),
        "enas": ("cell", "enas", plain, "fixed"),
        "manas": ("cell", "manas", plain, "fixed"),
        "pc-darts": ("partial-cell", "pc-darts", plain, "fixed"),
        "p-darts": ("cell", "p-darts", plain, "fixed"),
        "autohas": ("mobile", "reinforce", plain, "reinforce"),
        "autohas-phase": ("mobile", "reinforce", plain, "reinforce"),
        "autohas-hpo": ("mobile", "given", plain, "reinforce"),
        "autohas-turns": ("mobile", "given", plain, "reinforce-in-turn"),
        "autohas-diff": ("mobile", "darts", plain, "mixture"),
        "random-search": ("mobile", "given", plain, "random-search"),
        "bayesian": ("mobile", "given", plain, "bayesian"),
        "hgd": ("mobile", "given", plain, "hgd"),
        "ift": ("mobile", "given", plain, "ift"),
        "asha": ("mobile", "given", plain, "asha"),
        "hyperband": ("mobile", "given", plain, "hyperband"),
        "pbt": ("mobile", "given", plain, "pbt"),
        "pba": ("cell", "given", "pba", "pbt"),
        "fast-autoaugment": ("cell", "given", "fast-autoaugment", "fixed"),
        "adversarial-autoaugment": ("cell", "given", "adversarial-autoaugment", "fixed"),
        "dada": ("cell", "given", "dada", "fixed"),
        "random": ("cell", "random", plain, "fixed"),
        "plain": ("cell", "given", plain, "fixed"),
    }


def test_stages_share_the_epochs_before_the_last():
    assert Config(method="dha", epochs=10, search_epochs=4).stage_epochs == [4, 6]
    assert Config(method="daas-independent", epochs=10, search_epochs=5).stage_epochs == [3, 2, 5]
    assert Config(method="plain", epochs=10, search_epochs=4).stage_epochs == [10]
    trials = Config(method="bayesian", epochs=20, search_epochs=7, trials=3)
    assert trials.stage_epochs == [3, 2, 2, 13]
    assert [stage.name for stage in trials.stages] == ["trial-0", "trial-1", "trial-2", "training"]
    assert Config(method="bayesian", epochs=6, trials=5).search_epochs == 5


def test_diffautomls_table_3_and_the_papers_sizes():
    table = [
        Config(method="diffautoml", augment=augment, hyper=hyper)
        for augment in ("pair-softmax", "pair-softmax-4")
        for hyper in ("validation", "fixed")
    ]
    assert len({config.name for config in table}) == 4
    paper = Config(method="diffautoml", preset="paper")
    assert (paper.channels, paper.cells, paper.lr, paper.weight_decay) == (64, 20, 0.5, 4e-5)
    daas = Config(method="daas", preset="paper")
    assert (daas.children, daas.arch_samples, daas.policies, daas.search_channels, daas.search_cells) == (
        10,
        5,
        2,
        16,
        8,
    )
    assert daas.stages[0].warm_up == 20 / 50 and Config(method="autohas").stages[0].warm_up == 0.3
    assert (daas.stage_epochs, daas.batch_size) == ([50, 600], 96)
    assert Config(method="daas", preset="paper", epochs=26).search_epochs == 2  # their shares, where there are fewer
    assert paper.batch_size == 1024 and paper.hyper_lr == 1e-3
    autohas = Config(method="autohas", preset="paper")  # 45,000 images of CIFAR-10: 15,000 steps, and its controller
    assert abs(autohas.search_epochs * (45_000 // autohas.batch_size) - 15_000) < 87 and autohas.batch_size == 512
    assert autohas.arch_lr == autohas.hyper_lr == 0.05 and autohas.hyper_space == "mixup"


def test_none_is_the_same_as_leaving_out():
    assert Config(epochs=None, max_params=None, lr=None) == Config()


def test_search_epochs_follow_the_epochs_given():
    assert Config(epochs=10).search_epochs == max(1, round(PRESETS["laptop"]["search_share"] * 10))
    assert Config(epochs=1).search_epochs == 1


def test_a_fixed_network_needs_no_genotype():
    config = Config(method="plain", space="wrn-16-2")
    assert config.genotype is None and config.arch == "given"
    assert Config(method="plain").genotype is None  # the space's usual one


def other_value(name: str, value: object) -> object:
    """A value of the field's own type that differs."""
    if value is None:
        return (
            "x"
            if name in ("root", "genotype", "policy", "operations", "plugins", "plugin_digest")
            else True
            if name == "hold_out"
            else 1.5
            if name == "max_latency_ms"
            else 1
        )
    if name in ("recover", "precision", "on_bad_image", "tau_form"):
        return {"score": "paper", "step": "epoch", "epoch": "step", "float32": "auto", "error": "skip"}[value]
    return {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value * 0.5 + 0.01,
        str: lambda: f"{value}x",
    }[type(value)]()


def test_the_name_is_decided_by_what_decides_the_result():
    config = micro_config_of_digits()
    assert config.name == micro_config_of_digits().name
    assert re.fullmatch(r"digits-dha-s3-[0-9a-f]{8}-[0-9a-f]{6}", config.name)
    named = config.named("digits", DIGEST)
    for name in config.model_dump():
        changed = config.model_copy(update={name: other_value(name, getattr(config, name))})
        # what the data hold is known by their digest, wherever they lie
        assert (changed.named("digits", DIGEST) == named) == (name in (*NOT_HASHED, "dataset")), name
    assert config.named("digits", "f" * 64) != named


DIGEST = "0" * 64


def micro_config_of_digits() -> Config:
    return micro_config(dataset="digits", seed=3)


@pytest.mark.parametrize("name", ["画" * 80, "n" * 240, "é" * 120])
def test_a_long_name_is_cut_to_what_a_file_system_takes(name: str, tmp_path):
    (tmp_path / name).mkdir()
    made = Config(dataset=str(tmp_path / name)).named(name, DIGEST)
    assert 190 < len(made.encode()) <= 200 and name.startswith(made[:50]) and re.search("-dha-s0-[0-9a-f]{8}-0+$", made)


def test_the_name_of_a_folder_data_set_is_a_file_name(tmp_path):
    made = micro_config_of_digits().named("my images, 2", DIGEST)
    assert re.fullmatch(r"my_images_2-dha-s3-[0-9a-f]{8}-0+", made)


@pytest.mark.parametrize("method", kit.methods())
def test_json_round_trip(method: str):
    config = Config(method=method, seed=5, max_params=10_000_000, root="/data", lr=0.1 + 0.2)
    text = json.dumps(config.model_dump())
    again = Config(**json.loads(text))
    assert again == config and again.name == config.name
    stored = Config.stored(json.loads(text))
    assert stored.model_dump() == config.model_dump() and stored.name == config.name
    assert Config.stored({**json.loads(text), "dataset": "gone"}).dataset == "gone"  # its data are not looked for
    with pytest.raises(KitError, match="unknown parameter 'later'"):
        Config.stored({**json.loads(text), "later": 1})


def test_a_configuration_is_frozen_and_changed_by_name():
    config = Config(seed=1)
    with pytest.raises(Exception, match="frozen"):
        config.seed = 2
    assert config.but(seed=2).seed == 2 and config.but(seed=2).but(seed=1) == config
    with pytest.raises(KitError, match="unknown parameter 'sed'. Did you mean 'seed'"):
        config.but(sed=2)


def test_every_field_says_what_it_is_unless_its_name_does():
    plain = {name for name, field in Config.model_fields.items() if not field.description}
    assert plain <= {
        "seed",
        "batch_size",
        "cells",
        "search_cells",
        "lr",
        "weight_decay",
        "momentum",
        "max_params",
        "max_macs",
        "max_latency_ms",
        "deterministic",
    }
    without_default = {name for name, field in Config.model_fields.items() if field.default is PydanticUndefined}
    filled = set(PRESETS["laptop"]) | set(METHODS["dha"].filled(PRESETS["laptop"])) | {"search_epochs"}
    assert without_default <= filled and all(set(PRESETS[p]) == set(PRESETS["laptop"]) for p in PRESETS)


# ---- what only the data can refuse ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 241}, "batch_size=241 but the set has 240 images: choose 1 to 240"),
        ({"batch_size": 200, "hyper": "validation"}, "batch_size=200 but the set has 192 images"),
        ({"hyper": "validation", "hold_out": False}, "reads validation batches: leave hold_out out"),
        ({"train_images": 241}, "train_images=241 but there are 240"),
        ({"train_images": 50}, "batch_size=60 but the set has 50"),
        ({"cells": 5, "reductions": 3}, "too deep .*images of 8×8 pixels: set reductions to 0…2"),
        ({"max_params": 100}, "no architecture of this space keeps to max_params=100: it reaches"),
        ({"method": "plain", "max_params": 100}, "keeps to max_params=100: it reaches"),
        (
            {"method": "plain", "genotype": "darts-v3"},
            "'darts-v3' is neither a name \\(darts-v2\\) nor a JSON file",
        ),
        ({"device": "cuda:99"}, "device='cuda:99'.*use device='auto' or 'cpu'"),
    ],
)
def test_refused_before_training_and_before_the_folder_exists(
    given: dict, message: str, micro: str, tmp_path, monkeypatch
):
    monkeypatch.setattr(Search, "run", lambda *_: pytest.fail("training began"))
    with pytest.raises(KitError, match=message):
        kit.search(micro_config(**given), out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_largest_batch_that_fits_is_accepted(micro: str, tmp_path):
    assert Search(micro_config(batch_size=240), tmp_path / "x").batches["train"].steps_per_epoch == 1
    assert len(Search(micro_config(train_images=100), tmp_path / "x").batches["train"].data) == 100
    assert not (tmp_path / "x").exists()
