"""kit with the room of the CPU kernels deleted: the same pixels by torch alone, and the same search."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import kit

TESTS = Path(__file__).resolve().parent
POLICY = """
import torch
from kit import augment

policy = augment.build("pair-softmax", torch.Generator().manual_seed(0), (8, 8))
assert policy.apply(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), policy.sample(6)).shape == (6, 1, 8, 8)
"""
SEARCH = """
import json, kit
from kit.search.progress import Silent
from tests_micro import micro_config, register_micro

register_micro()
run = kit.search(micro_config(), out="runs", progress=Silent())
print(json.dumps([kit.__file__, run.genotype, run.curve("step/loss").tolist()]))
"""


def said(code: str, folder: Path) -> str:
    """What a process says whose kit is that of the folder."""
    code = f"import sys; sys.modules['kit.fast'] = None\n{code}"  # an editable install would find it elsewhere
    path = os.pathsep.join([str(folder), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_policy_works_and_a_search_is_the_same(finished: kit.Run, tmp_path: Path):
    shutil.copytree(Path(kit.__file__).parent, tmp_path / "kit", ignore=shutil.ignore_patterns("fast", "__pycache__"))
    where, genotype, losses = json.loads(said(POLICY + SEARCH, tmp_path).splitlines()[-1])
    assert Path(where).is_relative_to(tmp_path) and not (tmp_path / "kit" / "fast").exists()
    np.testing.assert_allclose(losses, finished.curve("step/loss"), rtol=1e-3)
    assert genotype == finished.genotype
