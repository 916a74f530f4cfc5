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


def without(hidden: str, folder: Path, code: str) -> tuple[set[str], set[str]]:
    """Methods and parts of a copy of kit in which `hidden` is deleted, in a process of its own."""
    shutil.copytree(ROOT / "kit", folder / "kit", ignore=shutil.ignore_patterns(hidden, "__pycache__"))
    path = os.pathsep.join([str(folder), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, methods, parts = json.loads(done.stdout.splitlines()[0])
    assert Path(where).is_relative_to(folder)
    return set(methods), set(parts)


def everything() -> tuple[set[str], set[str]]:
    parts = {**kit.arch.ARCH, **kit.hyper.HYPER, **kit.augment.AUGMENT, **kit.space.SPACES}
    return set(METHODS), {name for name, part in parts.items() if part.make.__module__.startswith("kit.")}


def test_a_file_takes_away_its_own_rows_and_parts_alone(tmp_path: Path):
    (methods, parts), (left_methods, left_parts) = everything(), without("darts.py", tmp_path, NAMES)
    assert methods - left_methods == {"darts", "darts-second", "snas"}
    assert parts - left_parts == {"darts", "snas"}


def test_without_the_room_kit_searches_and_has_the_papers_own_methods(tmp_path: Path):
    left, parts = without("zoo", tmp_path, NAMES + SEARCH)
    assert {"dha", "diffautoml", "daas", "autohas", "random", "plain"} <= left and len(left) == 17
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
