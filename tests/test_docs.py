"""The pages: links lead somewhere, every block of code runs or is checked by name, what follows from the code is
current, and every public name has its place. `make docs` itself, which needs minutes of nobody's time, is not run here.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from inspect import getdoc, signature
from pathlib import Path
from typing import Any

import papermill
import pytest
import yaml

import kit
from kit.__main__ import main
from kit.data import DATASETS
from kit.lab import notebook, sweep
from kit.methods import METHODS, PRESETS
from kit.search.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
MADE = re.compile(r"<!-- made: questions -->.*?<!-- end -->", re.S)

# what blocks get that would take minutes: the default preset's values
SHORT = {
    "epochs": 2,
    "channels": 4,
    "cells": 3,
    "search_channels": 4,
    "search_cells": 3,
    "batch_size": 32,
    "train_images": 100,
}
# commands that are not run, with the reason; their names and values are checked
NOT_RUN = {
    "make": "installs, opens a page, or takes minutes; docs/follow.py runs those of the first page",
    "papermill": "make test runs all notebooks, with other parameters",
    "torchrun": "several processes: tests/test_distributed.py",
    "mkdir": "nothing to see",
}
# python blocks that run with kit blocked, the first of them without torch as well
WITHOUT_KIT = """
import json, sys
onnx, program = json.loads(sys.argv[1])
sys.modules |= {"kit": None, "torch": None}
exec(onnx, {})
del sys.modules["torch"]
exec(program, {})
"""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, code) of a page; the questions' are run when they are made (docs/cases.py)."""
    return BLOCK.findall(MADE.sub("", page.read_text()))


# ---- blocks of code ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working directory for all pages, so that the same run is searched once."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def short(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for field, value in SHORT.items():
        monkeypatch.setitem(PRESETS["laptop"], field, value)
    monkeypatch.setattr(sweep, "run", first_of_each_method)
    monkeypatch.chdir(place)
    (place / "docs").is_symlink() or (place / "docs").symlink_to(ROOT / "docs")
    before = [(registry, dict(registry)) for registry in (METHODS, DATASETS)]
    yield
    for registry, rows in before:
        for added in set(registry) - set(rows):
            del registry[added]


def first_of_each_method(*given: Any, **options: Any) -> sweep.Result:
    """In place of `sweep.run`, which starts processes (tests/test_sweep.py): one run of each method, in this one."""
    configs = signature(RUN).bind(*given, **options).arguments["configs"]
    chosen = {config.method: config for config in reversed(configs)}
    small = [config.but(dataset="digits") for config in chosen.values()]
    return sweep.Result([kit.search(config, progress=Silent()) for config in small], {})


RUN = sweep.run


@pytest.mark.filterwarnings("default")  # of torch.onnx
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_a_page_runs(page: Path, short: None):
    names, apart = {"__name__": "__main__"}, []
    for language, code in blocks(page):
        assert language in ("python", "sh", "text"), f"{name(page)}: say what the block is: {code[:60]!r}"
        if language == "sh":
            subprocess.run(["bash", "-n"], input=code.encode(), check=True)
            for line in code.replace("\\\n", " ").splitlines():
                run_or_check(shlex.split(line, comments=True))
        elif language == "python" and "import kit" in code or "from kit" in code or names.get("kit"):
            if "import onnxruntime" in code or "import torch\n\nextra" in code:
                apart.append(code)
            else:
                exec(compile(code, name(page), "exec"), names)
        else:
            assert language == "text", f"{name(page)}: {code[:60]!r} is not run"
    if apart:
        subprocess.run([sys.executable, "-c", WITHOUT_KIT, json.dumps(apart)], check=True, stdout=subprocess.DEVNULL)
