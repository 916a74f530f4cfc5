"""One search on several ranks is the search of one process: torchrun with two processes on the CPU (gloo), all jobs in
one start, in the last of which a rank is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests_micro import Stop, StopAfterEachEpoch
from tests_ranks import CASES, LAST, searched, stepped, steps_of, whole_run

from kit import KitError, Run
from kit.run import store
from kit.search import ranks as distributed

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def whole(micro: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """In one process, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    searched(folder)
    return Run.load(folder / whole_run().name)


@pytest.fixture(scope="module")
def job(micro: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Its folder holds a run that one process began."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.raises(Stop):
        searched(folder, StopAfterEachEpoch())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tests_ranks"]
    jobs = ("steps", "parted", "refused", "searched", "killed")
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([*command, str(folder), *jobs], env=environment, capture_output=True, text=True, timeout=600)
    assert (folder / "killed").exists(), done.stderr
    return folder, done


# ---- the step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_steps_are_those_of_one_process_with_the_whole_batch(name: str, job, tmp_path: Path):
    """In float64: weights, statistics, α, τ, η and every sample's loss; the child changes from draw to draw."""
    ranks, one = store.read_state(job[0] / f"{name}.safetensors"), stepped(name, tmp_path, steps_of(name))
    children = one["children"]
    assert ranks["children"] == children and sum(a != b for a, b in zip(children, children[1:])) >= 0.85 * (
        len(children) - 1
    )
    for part in ("theta", "statistics", "alpha", "tau", "eta", "losses"):
        assert len(ranks[part]) == len(one[part]) > (-1 if part in ("tau", "eta") else 0)
        # Adam divides a gate's gradient by its size, also where it is rounding alone (a block that only normalised
        # layers read)
        near = 1e-4 if part == "alpha" else 1e-10  # a step of α is 0.1 long
        for a, b in zip(ranks[part], one[part]):
            torch.testing.assert_close(a, b, rtol=near, atol=near, msg=lambda text, part=part: f"{part}: {text}")


def test_all_four_letters_moved(job):
    """… so that equality is not that of what stands still."""
    start = stepped("dha", job[0], 0)
    end = store.read_state(job[0] / "dha.safetensors")
    for part in ("theta", "statistics", "alpha", "tau", "eta"):
        assert max(float((a - b).abs().max()) for a, b in zip(start[part], end[part]) if a.numel()) > 1e-6, part


def test_ranks_that_part_are_found(job):
    for rank in (0, 1):
        (said,) = store.read_json(job[0] / f"parted-{rank}.json")["said"]
        assert "drifted apart" in said and "last checkpoint" in said


# ---- a run ---------------------------------------------------------------------------------------


def assert_close_runs(a: Run, b: Run) -> None:
    """In float64, with sums in another order."""
    assert a.genotype == b.genotype and a.path.name == b.path.name
    assert a.history[["step", "epoch", "name"]].equals(b.history[["step", "epoch", "name"]])
    pd.testing.assert_series_equal(a.history["value"], b.history["value"], rtol=1e-9, atol=1e-9)
    assert a.metrics["test_loss"] == pytest.approx(b.metrics["test_loss"], rel=1e-9)
    weights, others = (store.read_tensors(run.path / "model" / "model.safetensors")[0] for run in (a, b))
    assert weights.keys() == others.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=1e-9, atol=1e-9)


def test_two_ranks_go_on_where_one_process_stopped(job, whole: Run):
    run = Run.load(job[0] / whole.path.name)
    assert run.provenance["ranks"] == 2 and whole.provenance["ranks"] == 1
    assert run.provenance["backend"] == "gloo"
    assert_close_runs(run, whole)


def test_a_killed_rank_ends_the_job_and_one_process_goes_on(job, whole: Run):
    out, done = job[0] / "to be killed", job[1]
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr and "rank      : 1" in done.stderr
    folder = out / whole.path.name
    assert Run.load(folder).status in ("interrupted", "failed") and len(list((folder / "checkpoints").iterdir())) == 1
    searched(out)
    assert not list(folder.rglob("*.tmp"))
    assert_close_runs(Run.load(folder), whole)


# ---- refused -------------------------------------------------------------------------------------


def test_what_is_refused_is_said_once_and_before_anything_starts(job):
    folder, said_before = job[0], job[1].stderr.split(LAST)[0]
    for said in (
        "epochz",
        "2 ranks do not divide batch_size=61: start as many as divide it",
        "is not name=value",
        "cannot be made and locked (NotADirectoryError",
        "max_latency_ms is kept by",
    ):
        assert said_before.count(said) == 1, (said, said_before)
    assert "Traceback" not in said_before
    told = [
        line for line in said_before.splitlines() if "only-rank-1.json" in line
    ]  # of what one rank alone meets, all learn
    assert sorted(line.startswith("RaisedElsewhere") for line in told) == [False, True]
    assert not (folder / "refused").exists()


def test_one_process_shares_with_nobody():
    tensors = [torch.ones(2), None]
    assert distributed.count() == 1 and distributed.rank() == 0
    assert (
        distributed.mean(tensors)[0] is tensors[0]
        and distributed.gather(tensors[0]) is tensors[0]
        and distributed.own(tensors[0]) is tensors[0]
    )
    with pytest.raises(KitError, match="none"):
        distributed.on_first(lambda: (_ for _ in ()).throw(KitError("none")))
