"""What people share names no folder of the machine that it was made on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kit
from kit import Run, figures
from kit.run.export import FORMATS
from kit.search.progress import Silent
from kit.studies import landscape, page, report


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[bytes]]:
    """Every file that is made to be handed on, of a run on images in the home directory; and the machine's folders."""
    home, work = (tmp_path_factory.mktemp(name) for name in ("home-of-somebody", "work-of-somebody"))
    chance, given, handed = np.random.RandomState(0), home / "photos" / "pets", work / "handed-on"
    for name in ("cat", "dog"):
        for i in range(8):
            (given / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(chance.randint(0, 255, (8, 8)).astype(np.uint8)).save(given / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("KIT_DATA", str(home / "data"))
        patch.chdir(work)
        patch.setattr(figures, "save_all", lambda *_, **__: [])
        patch.setattr(figures, "png", lambda figure: b"!")
        few = {"epochs": 1, "channels": 4, "cells": 3, "batch_size": 4, "device": "cpu"}
        run = kit.search(kit.Config(dataset="~/photos/pets", method="plain", **few), progress=Silent())
        for _, ending, _ in FORMATS.values():
            run.export(handed / f"model{ending}")
        report.write("ablation", [run], handed)
        report.write("limits", [run], handed, cost="params")
        measured = landscape.compare([run], steps=3, directions=2)
        report.write("landscape", [run], handed, measured=measured)
        page.write(Run.load(run.path), handed / "page.html")
    here = (home, work, Path(kit.__file__).parents[1], Path.home())
    return sorted(handed.iterdir()), [str(folder).encode() for folder in here]


def test_no_file_that_is_handed_on_names_a_folder_of_this_machine(shared):
    files, folders = shared
    assert {path.suffix for path in files} >= {".onnx", ".pt2", ".safetensors", ".md", ".html", ".json", ".csv", ".tex"}
    assert len(files) == 3 * 2 + 3 * 5 + 1  # models with their cards, reports, a page
    for path in files:
        content = path.read_bytes()
        for folder in folders:
            assert folder not in content, f"{path.name} names {folder.decode()}"
        assert b"photos/pets" not in content, path.name
