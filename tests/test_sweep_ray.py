"""Sweeps on a Ray cluster of several node processes: workers and nodes die, every run finishes once, as it does here, and nothing lives on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import kit
from kit import KitError, sweep
from kit.sweep import cluster
from kit.sweep.board import epoch_of
from tests_micro import assert_same_run

ray = pytest.importorskip("ray", reason="needs the extra: pip install 'kit[ray]'")

MICRO = dict(epochs=6, search_epochs=2, channels=4, cells=3, batch_size=128, search_channels=4, search_cells=3, train_images=400)


def workers_alive(folder: Path) -> list[int]:
    """Processes that hold a lock of a run directory in `folder` open."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and any(str(folder) in os.readlink(f) for f in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    from ray.cluster_utils import Cluster

    # 12 runs on two nodes of one CPU each; a head that runs nothing
    made = Cluster()
    try:
        made.add_node(num_cpus=0, include_dashboard=False)
        workers = [made.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        made.wait_for_nodes()
    except Exception as error:  # Ray has time-outs of its own, which a busy machine does not keep
        made.shutdown()
        pytest.skip(f"Ray's nodes do not start on this machine: {error}")
    yield made, workers
    ray.shutdown()
    made.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_worker_and_a_node_die_and_all_runs_finish_as_they_do_here(nodes, tmp_path):
    made, workers = nodes
    configs = sweep.grid(method=["plain", "ista", "dha"], seed=range(4), **MICRO)
    folders = [tmp_path / "ray" / config.name for config in configs]
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:  # one worker, in the middle of a run
            under_way = [f for f in folders if 0 < epoch_of(f) and not (f / "metrics.json").exists()]
            pids = [pid for f in under_way for pid in workers_alive(f) if pid != os.getpid()]
            if pids:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
                break
            time.sleep(0.02)
        while time.monotonic() < until and sum((f / "metrics.json").exists() for f in folders) < 4:
            time.sleep(0.05)
        made.remove_node(workers[0], allow_graceful=False)
        killed.append(-1)

    killer = threading.Thread(target=kill)
    killer.start()
    result = sweep.run(configs, out=tmp_path / "ray", backend="ray", quiet=True)
    killer.join()
    assert len(killed) == 2 and not result.failures and len(result.runs) == 12
    local = sweep.run(configs, out=tmp_path / "local", workers=2, quiet=True)
    for a, b in zip(result.runs, local.runs):
        assert_same_run(a, b)
        losses = a.history[a.history["name"] == "loss"]
        assert losses["epoch"].tolist() == list(range(1, 7))  # every epoch once, whoever began it
    until = time.monotonic() + 30
    while workers_alive(tmp_path) and time.monotonic() < until:
        time.sleep(0.2)
    assert not workers_alive(tmp_path)
    written = {f: (f / "metrics.json").stat().st_mtime_ns for f in folders}
    again = sweep.run(configs, out=tmp_path / "ray", backend="ray", quiet=True)
    assert len(again.runs) == 12 and {f: (f / "metrics.json").stat().st_mtime_ns for f in folders} == written


def test_a_run_that_fails_says_why_also_from_there(nodes, tmp_path):
    bad = kit.Config(method="plain", **{**MICRO, "batch_size": 4096})
    result = sweep.run([bad], out=tmp_path, backend="ray", quiet=True, retries=1)
    assert "4096" in result.failures[0].cause


def test_what_the_cluster_has_not_is_refused(nodes):
    with pytest.raises(KitError, match="gpus=0.5: the cluster's largest node has 0 GPU"):
        cluster.executor(None, None, 1, 0.5)
    with pytest.raises(KitError, match="threads=64"):
        cluster.executor(None, None, 64, 0)


def test_an_address_that_does_not_answer_is_refused():
    with pytest.raises(KitError, match="no cluster answers there"):
        cluster._check_answers("127.0.0.1:1")
    with pytest.raises(KitError, match="HOST:PORT"):
        cluster._check_answers("nowhere")
