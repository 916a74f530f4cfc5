"""A sweep on a Ray cluster of several node processes: what a lost worker or node had under way goes on elsewhere, with
the same results.
"""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
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
RUNS = dict(
    method=["plain", "random"],
    seed=range(6),
    epochs=12,
    search_epochs=2,
    channels=4,
    cells=3,
    search_channels=4,
    search_cells=3,
    batch_size=60,
    train_images=180,
    device="cpu",
    precision="float32",
)


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


def until(condition, seconds: float = 60.0):
    """What the condition gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def at_work(out: Path) -> list[tuple[Path, psutil.Process]]:
    """The runs between two epochs of theirs, with their processes."""
    found = []
    for lock in out.glob("*/.lock"):
        folder = lock.parent
        if any(folder.glob("checkpoints/*.safetensors")) and not (folder / "metrics.json").exists():
            try:
                found.append((folder, psutil.Process(int(lock.read_text() or 0))))
            except (psutil.NoSuchProcess, ValueError):
                continue
    return found


def workers_at_work(out: Path) -> list[tuple[psutil.Process, psutil.Process, psutil.Process]]:
    """The run, its fork server and its Ray worker, of each run that is under way."""
    found = []
    for _, run in at_work(out):
        try:
            server = run.parent()
            found.append((run, server, server.parent()))
        except (psutil.NoSuchProcess, AttributeError):  # it has ended since
            continue
    return [three for three in found if None not in three]


def descends_from(process: psutil.Process, pid: int) -> bool:
    try:
        return pid in [parent.pid for parent in process.parents()]
    except psutil.NoSuchProcess:
        return False


def run_processes(out: Path) -> list[psutil.Process]:
    """Processes of runs: forked from a fork server, working in their directory; by their locks."""
    pids = {int(lock.read_text() or 0) for lock in out.glob("*/.lock")}
    return [
        psutil.Process(pid)
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


@needs_ray
def test_a_killed_worker_and_a_lost_node_cost_no_run(cluster, tmp_path):
    configs, out = sweep.grid(dataset="digits", **RUNS), tmp_path / "ray"
    results, gone = [], []
    thread = threading.Thread(
        target=lambda: results.append(sweep.run(configs, out=out, backend="ray", address=cluster.address, quiet=True))
    )
    thread.start()

    run, server, worker = until(lambda: workers_at_work(out))[
        0
    ]  # a worker dies: the run below it has to, and its fork server
    gone += [run, server]
    worker.kill()
    psutil.wait_procs([run, server], timeout=10)
    assert not run.is_running() or run.status() == psutil.STATUS_ZOMBIE

    nodes = [(node, node.all_processes["raylet"][0].process.pid) for node in cluster.others]
    node, run = until(
        lambda: next(
            ((node, run) for node, raylet in nodes for _, run in at_work(out) if descends_from(run, raylet)), None
        )
    )
    gone.append(run)
    cluster.cluster.remove_node(node, allow_graceful=False)  # a whole node is lost, with the run on it
    thread.join(timeout=240)
    assert not thread.is_alive()

    (result,) = results
    assert not result.failures and [run.config for run in result.runs] == configs
    # each loss costs one more start: of two runs or twice of the same, or of none where the run had just ended
    assert set(result.attempts.values()) <= {1, 2, 3} and sum(result.attempts.values()) in (13, 14)
    for run in result.runs:  # none done twice: an epoch is there once
        epochs = run.history[run.history["name"] == "loss"]["epoch"]
        assert list(epochs) == list(range(1, run.config.epochs + 1))
    assert until(lambda: not run_processes(out) or None, 20) and not any(
        p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in gone
    )

    local = sweep.run(configs, out=tmp_path / "local", workers=2, quiet=True)
    for here, there in zip(local.runs, result.runs, strict=True):
        assert_same_run(here, there)

    marks = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.json")}
    (bad,) = sweep.grid(dataset="digits", **{**RUNS, "method": "plain", "seed": 0, "batch_size": 4096})
    more = [*sweep.grid(dataset="digits", **{**RUNS, "method": "plain", "seed": range(7)}), bad]
    again = sweep.run(more, out=out, backend="ray", address=cluster.address, retries=1, quiet=True)
    assert [run.config for run in again.runs] == more[:7] and [f.name for f in again.failures] == [bad.name]
    assert "4096" in again.failures[0].cause  # in words, not Ray's traceback
    assert again.attempts == {config.name: 0 for config in more[:6]} | {
        more[6].name: 1,
        bad.name: 2,
    }  # one more seed: only that is run
    assert {path: path.stat().st_mtime_ns for path in marks} == marks


@needs_ray
def test_more_gpus_than_the_cluster_has_are_refused(cluster, tmp_path):
    with pytest.raises(KitError, match="gpus=1 for each run, and no machine of the cluster .* has more than 0"):
        sweep.run([kit.Config()], out=tmp_path, backend="ray", address=cluster.address, gpus=1, quiet=True)
    with pytest.raises(KitError, match="threads=64.*room for 0"):
        sweep.run([kit.Config()], out=tmp_path, backend="ray", address=cluster.address, gpus=0, threads=64, quiet=True)
    assert not ray.is_initialized() and not any(tmp_path.iterdir())


@needs_ray
def test_an_address_that_does_not_answer_is_refused_in_seconds(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(KitError, match=f"no Ray cluster answers at '127.0.0.1:{port}'.*ray start --head"):
            sweep.run([kit.Config()], out=tmp_path, backend="ray", address=f"127.0.0.1:{port}", quiet=True)
    assert time.monotonic() - began < 60 and not any(tmp_path.iterdir())
    with pytest.raises(KitError, match="address='nonsense' is not host:port"):
        sweep.run([kit.Config()], out=tmp_path, backend="ray", address="nonsense", quiet=True)


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(KitError, match=r"pip install 'kit\[ray\]'"):
        sweep.run([kit.Config()], out=tmp_path, backend="ray", quiet=True)
