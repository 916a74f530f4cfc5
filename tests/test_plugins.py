"""Files of one's own: a data set and a learner that a file registers work by name, also in another process, and a file
that is wrong is refused before any compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kit
from kit import KitError, figures, registry
from kit.lab import sweep
from kit.search.progress import Silent

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "docs" / "recipes"
BOTH = f"{RECIPES / 'dataset.py'},{RECIPES / 'learner.py'}"
SMALL = {"epochs": 2, "search_epochs": 1, "channels": 4, "cells": 3, "batch_size": 64, "dataset": "stripes"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> kit.Run:
    config = kit.Config(plugins=BOTH, method="nas+da", augment="two-softmax", **SMALL)
    return kit.search(config, out=tmp_path_factory.mktemp("plugins"), progress=Silent())


def test_a_data_set_and_a_learner_of_ones_own_are_searched_with_by_name(found: kit.Run):
    assert found.classes == ["rows", "columns"] and found.policy["name"] == "two-softmax"
    probabilities = found.policy["probabilities"]
    assert sum(map(sum, probabilities)) == pytest.approx(1, abs=1e-5) and len(probabilities) == 12
    assert abs(probabilities[0][0] * 196 - 1) > 1e-4  # τ moved


def test_the_options_of_a_learner_become_fields_of_the_configuration(found: kit.Run):
    assert found.config.two_softmax_lr == 0.05
    with pytest.raises(KitError, match="two_softmax_lr=-1.0: input should be greater than 0 .Adam on the logits"):
        found.config.but(two_softmax_lr=-1.0)


def test_a_plug_in_that_is_loaded_changes_no_other_configuration(found: kit.Run):
    assert found.config.model_dump()["two_softmax_lr"] == 0.05
    assert "two_softmax_lr" not in kit.Config().model_dump()


def test_a_run_names_its_files_and_their_digest(found: kit.Run):
    stored = json.loads((found.path / "config.json").read_text())
    assert stored["plugins"] == BOTH and stored["plugin_digest"] == registry.load_plugins(BOTH)


FRESH = """
import kit
from kit.__main__ import main
try:
    kit.Run.load({run!r}).config
except kit.KitError as error:
    print(error)
main({given!r})
"""


def test_a_fresh_process_opens_no_file_of_a_run_and_takes_those_of_the_command_line(found: kit.Run, tmp_path: Path):
    given = [f"plugins={BOTH}", "method=da+hpo", "augment=two-softmax", "hyper=fixed", f"out={tmp_path}"]
    given += [f"{name}={value}" for name, value in SMALL.items()]
    code = FRESH.format(run=str(found.path), given=given)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    opened, searched = done.stdout.split("\n", 1)
    assert "two_softmax_lr" in opened and "never executes" in opened and f"load_plugins('{BOTH}')" in opened
    assert done.returncode == 0 and "test accuracy" in searched, done.stderr


def test_a_sweeps_processes_know_the_parts_and_figures_their_names(tmp_path: Path):
    given = {"plugins": f"{RECIPES / 'dataset.py'},{RECIPES / 'operation.py'}", "operations": "+Gamma"}
    configs = [kit.Config(method="da+hpo", seed=seed, **given, **SMALL) for seed in (0, 1)]
    result = sweep.run(configs, tmp_path, workers=2)
    assert not result.failures and len(result.runs) == 2
    for run in result.runs:
        assert run.policy["ops"][-1] == "Gamma" and len(run.policy["ops"]) == 13
    assert list(figures.policy(result.runs[0]).data[0].y)[-1] == "Gamma"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import kit\n1 / 0\n", "plug-in mine.py, line 2: ZeroDivisionError"),
        ("def broken(:\n", "plug-in mine.py, line 1: SyntaxError"),
        ("import kit\n@kit.hyper.register('fixed')\nclass X(kit.hyper.Fixed): pass\n", "'fixed' .* already registered"),
        (
            "import kit\nfrom pydantic import Field\n@kit.hyper.register('odd')\nclass Odd(kit.hyper.Fixed):\n"
            "    class Options(kit.registry.Options):\n        lam: int = Field(3)\n",
            "declares the option 'lam' as .*int.* which kit.Config has as .*float",
        ),
    ],
    ids=["raises", "no-python", "a-name-twice", "an-option-twice"],
)
def test_a_file_that_is_wrong_is_refused_by_name_and_line(text: str, message: str, tmp_path: Path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(KitError, match=message):
        kit.Config(plugins=str(tmp_path / "mine.py"))


def test_a_file_that_is_missing_is_named():
    with pytest.raises(KitError, match="plug-in 'nowhere.py' is not a file"):
        kit.Config(plugins="nowhere.py")
