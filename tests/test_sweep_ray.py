"""A sweep on a Ray cluster of several node processes: what a lost worker or node had under way goes on elsewhere, with
the same results.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from test_process import SMALL, gone, until
from tests_micro import assert_same_run

import kit
from kit import KitError
from kit.lab import sweep

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    ray = None

needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed: pip install 'kit[ray]'")
# Ray's own: it forks, and leaves sockets to its garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RUNS = {**SMALL, "epochs": 12, "seed": range(5)}


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of one core each; a node's loss is noticed within seconds."""
    quick = {
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 1000,
        "health_check_failure_threshold": 3,
        "health_check_initial_delay_ms": 0,
    }
    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
    made = Cluster()
    try:
        made.add_node(**node, include_dashboard=False, _system_config=quick)
        others = [made.add_node(**node) for _ in range(2)]
    except Exception as error:  # Ray's own time-outs, which a machine that is busy with other things does not keep
        made.shutdown()
        pytest.skip(f"Ray's nodes do not start on this machine: {error}")
    yield SimpleNamespace(address=made.address, cluster=made, others=others)
    made.shutdown()


def at_work(out: Path) -> list[psutil.Process]:
    """The processes of runs between two epochs of theirs."""
    found = []
    for lock in out.glob("*/.lock"):
        if any(lock.parent.glob("checkpoints/*.safetensors")) and not (lock.parent / "metrics.json").exists():
            with contextlib.suppress(psutil.NoSuchProcess, ValueError):
                found.append(psutil.Process(int(lock.read_text())))
    return found


def ancestors(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.parents()
    except psutil.NoSuchProcess:
        return []


@needs_ray
def test_a_killed_worker_and_a_lost_node_cost_no_run(cluster, tmp_path):
    configs, out, results = sweep.grid(**RUNS), tmp_path / "ray", []
    where = {"backend": "ray", "address": cluster.address}
    thread = threading.Thread(target=lambda: results.append(sweep.run(configs, out=out, **where)))
    thread.start()

    run, (server, worker, *_) = until(lambda: [(p, up) for p in at_work(out) if len(up := ancestors(p)) > 2], "a run")[
        0
    ]
    worker.kill()  # the run below it has to end, and its fork server
    assert gone(run) and gone(server)

    nodes = {node.all_processes["raylet"][0].process.pid: node for node in cluster.others}

    def on_a_node() -> list:
        return [(p, nodes[up.pid]) for p in at_work(out) for up in ancestors(p) if up.pid in nodes]

    run, node = until(on_a_node, "a run on a node that can be lost")[0]
    cluster.cluster.remove_node(node, allow_graceful=False)
    thread.join(timeout=240)
    assert not thread.is_alive() and gone(run)

    (result,) = results
    assert not result.failures and [run.config for run in result.runs] == configs
    for here, there in zip(sweep.run(configs[:1], out=tmp_path / "local").runs, result.runs):
        assert_same_run(here, there)

    marks = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.json")}
    more = sweep.grid(**{**RUNS, "seed": 5, "batch_size": [64, 4096]})
    again = sweep.run([*configs, *more], out=out, **where)
    assert [run.config for run in again.runs] == [*configs, more[0]]
    assert list(again.failures) == [more[1].name]
    assert again.failures[more[1].name].startswith("KitError: batch_size is 4096")  # in words, not Ray's traceback
    assert {path: path.stat().st_mtime_ns for path in marks} == marks


@needs_ray
def test_more_gpus_than_the_cluster_has_are_refused(cluster, tmp_path):
    where = {"backend": "ray", "address": cluster.address}
    for wanted, says in (
        ({"gpus": 1}, "gpus=1 for each run, and no machine"),
        ({"gpus": 0, "threads": 64}, "threads=64"),
    ):
        with pytest.raises(KitError, match=says):
            sweep.run([kit.Config()], out=tmp_path, **where, **wanted)
    assert not ray.is_initialized() and not any(tmp_path.iterdir())


@needs_ray
def test_an_address_that_does_not_answer_is_refused(tmp_path):
    with pytest.raises(KitError, match="no Ray cluster answers at 'nonsense'.*ray start --head"):
        sweep.run([kit.Config()], out=tmp_path, backend="ray", address="nonsense")
    assert not any(tmp_path.iterdir())


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(KitError, match=r"pip install 'kit\[ray\]'"):
        sweep.run([kit.Config()], out=tmp_path, backend="ray")
