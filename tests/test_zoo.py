"""The baselines of kit/zoo are plug-ins: kit works without them, a file takes away its own rows and parts alone; a row
of a user's own is registered by the same call.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structure
from tests_micro import micro_config

import kit
from kit.errors import KitError
from kit.methods import METHODS
from kit.search.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
NAMES = """
import json, kit
parts = [*kit.arch.ARCH, *kit.hyper.HYPER, *kit.augment.AUGMENT, *kit.space.SPACES]
print(json.dumps([kit.__file__, kit.methods(), parts]))
"""
SEARCH = """
from kit.search.progress import Silent
from tests_micro import micro_config, register_micro

register_micro()
assert kit.search(micro_config(), out="runs", progress=Silent()).metrics["epochs"] == 2
"""
# each with its own kit, imported anew; torch, which takes longest, once for all
IN_TURN = """
import sys
for folder, code in {programs!r}:
    sys.path[0] = folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("kit", "tests_micro")]:
        del sys.modules[name]
    exec(code)
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[set[str], set[str]]]:
    """Methods and parts of a copy of kit in which a file or folder is deleted, by its name, in a process of its own."""
    programs = {"darts.py": NAMES, "zoo": NAMES + SEARCH}
    folders = {hidden: tmp_path_factory.mktemp("without") for hidden in programs}
    for hidden, folder in folders.items():
        shutil.copytree(ROOT / "kit", folder / "kit", ignore=shutil.ignore_patterns(hidden, "__pycache__"))
    code = IN_TURN.format(programs=[(str(folders[hidden]), code) for hidden, code in programs.items()])
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    run = {"cwd": folders["zoo"], "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], **run)
    assert done.returncode == 0, done.stderr
    found = {}
    for (hidden, folder), line in zip(folders.items(), done.stdout.splitlines()):
        where, methods, parts = json.loads(line)
        assert Path(where).is_relative_to(folder)
        found[hidden] = set(methods), set(parts)
    return found


def everything() -> tuple[set[str], set[str]]:
    parts = {**kit.arch.ARCH, **kit.hyper.HYPER, **kit.augment.AUGMENT, **kit.space.SPACES}
    return set(METHODS), {name for name, part in parts.items() if part.make.__module__.startswith("kit.")}


def test_a_file_takes_away_its_own_rows_and_parts_alone(left):
    (methods, parts), (left_methods, left_parts) = everything(), left["darts.py"]
    assert methods - left_methods == {"darts", "darts-second", "snas"}
    assert parts - left_parts == {"darts", "snas"}


def test_without_the_room_kit_searches_and_has_the_papers_own_methods(left):
    methods, parts = left["zoo"]
    assert {"dha", "diffautoml", "daas", "autohas", "random", "plain"} <= methods and len(methods) == 17
    assert {"sparse-coding", "lookahead", "pair-softmax", "cell"} <= parts and "hgd" not in parts


def test_no_file_of_kit_imports_one_of_the_zoo():
    assert not [wrong for wrong in structure.upward() if "zoo" in wrong]


@pytest.fixture
def found_first() -> Iterator[str]:
    """The row that docs/extending.md registers."""
    code = re.search(r"```python\n(import kit\n.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.S).group(1)
    exec(code + code)  # the cell of a notebook may run twice
    yield "found-first"
    del METHODS["found-first"]


def test_a_row_of_ones_own_is_a_method_like_kits(found_first: str, micro: str, tmp_path: Path):
    assert kit.methods()[-1] == found_first and "τ α ·  DSNAS, then DAAS's policy" in str(kit.methods())
    run = kit.search(micro_config(found_first), out=tmp_path, progress=Silent())
    assert [stage.name for stage in run.config.stages] == ["search", "tuning"] and run.policy[
        "name"
    ] == "policy-gradient"
    assert kit.Config.stored(run.config.model_dump()) == run.config


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(KitError, match="method 'dha' is already registered .DHA.*: give yours another name"):
        kit.methods.register("dha", "mine", arch="given", stages=METHODS["plain"].stages)
