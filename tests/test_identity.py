"""A run is known by its configuration and by what its data hold, not by how its folder is spelled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_micro import Stop, StopAfterEachEpoch, micro_config

import kit
from kit.data import Source, register
from kit.errors import KitError
from kit.search.progress import Silent


def small(**changes) -> kit.Config:
    few = {"epochs": 1, "channels": 4, "cells": 3, "batch_size": 4, "device": "cpu", "image_size": 8}
    return kit.Config(**({"method": "plain"} | few | changes))


def paint(file: Path, seed: int) -> None:
    pixels = np.random.RandomState(seed).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def pets(tmp_path) -> Path:
    for k, name in enumerate(("cat", "dog")):
        for i in range(6):
            paint(tmp_path / "pets" / name / f"{i}.png", 10 * k + i)
    return tmp_path / "pets"


def add_class(folder: Path) -> None:
    for i in range(6):
        paint(folder / "fox" / f"{i}.png", 40 + i)


CHANGES = {
    "a pixel": lambda folder: paint(folder / "cat" / "0.png", 99),
    "an image more": lambda folder: paint(folder / "cat" / "6.png", 99),
    "a label": lambda folder: shutil.move(folder / "cat" / "0.png", folder / "dog" / "9.png"),
    "a class": add_class,
    "a class's name": lambda folder: (folder / "dog").rename(folder / "wolf"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_data_are_another_run(pets, change):
    config = small(dataset=str(pets))
    before = config.name
    assert config.name == before
    change(pets)
    assert config.name != before


def test_a_second_search_of_a_changed_folder_trains_on_it(pets, tmp_path):
    config = small(dataset=str(pets))
    first = kit.search(config, out=tmp_path / "runs", progress=Silent())
    add_class(pets)
    again = kit.search(config, out=tmp_path / "runs", progress=Silent())
    assert first.classes == ["cat", "dog"] and again.classes == ["cat", "dog", "fox"] and again.path != first.path
    assert kit.search(config, out=tmp_path / "runs", progress=Silent()).path == again.path


def test_an_interrupted_run_does_not_go_on_with_other_data(pets, tmp_path):
    config = small(dataset=str(pets), epochs=2)
    with pytest.raises(Stop):
        kit.search(config, out=tmp_path / "runs", progress=StopAfterEachEpoch())
    held = config.name
    add_class(pets)
    with pytest.raises(KitError, match=rf"{held}.*classes.*fox.*resume=False"):
        kit.search(config, out=tmp_path / "runs", progress=Silent())
    anew = kit.search(config, out=tmp_path / "runs", resume=False, progress=Silent())
    assert anew.finished and kit.Run.load(tmp_path / "runs" / held).status == "interrupted"
    shutil.rmtree(pets / "fox")
    assert kit.search(config, out=tmp_path / "runs", progress=Silent()).path.name == held


def test_one_folder_spelled_in_other_ways_is_one_run(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    monkeypatch.setenv("HOME", str(pets.parent))
    (pets.parent / "link").symlink_to(pets)
    spelled = ["./pets", "pets/", str(pets), "~/pets", "../" + pets.parent.name + "/pets", "./link"]
    assert len({small(dataset=name).name for name in spelled}) == 1
    assert os.getcwd() == str(pets.parent)


def test_arrays_of_a_loader_are_data_too(tmp_path):
    images = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    register("identity_arrays", lambda root, size: Source(("a", "b"), (images, labels)))
    config = small(dataset="identity_arrays")
    before = config.name
    images[3, 0, 2, 2] = 1
    assert config.name != before


def test_a_genotype_in_a_file_is_known_by_what_it_says(finished, micro, tmp_path):
    file = tmp_path / "cell.json"
    file.write_text(json.dumps(finished.genotype))
    config = micro_config(method="plain", genotype=str(file))
    before = config.name
    shutil.copy(file, tmp_path / "copy.json")
    assert micro_config(method="plain", genotype=str(tmp_path / "copy.json")).name == before
    genotype = {kind: [nodes[0], *nodes[1:]] for kind, nodes in finished.genotype.items()}
    genotype["normal"][0] = [["skip_connect", 0], ["skip_connect", 1]]
    file.write_text(json.dumps(genotype))
    assert config.name != before
