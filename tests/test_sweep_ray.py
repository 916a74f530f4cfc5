"""A sweep on a Ray cluster of several node processes: what a lost worker or node had under way goes on elsewhere, with
the same results.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from test_process import ENDLESS, SMALL, gone, until
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
RUNS = {**SMALL, "epochs": 48, "seed": range(2)}


PATIENT = {  # a node's loss is noticed by its refused connection: on a busy machine nobody that lives is given up
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 120_000,
    "agent_register_timeout_ms": 300_000,
    "worker_register_timeout_seconds": 300,
    "prestart_worker_first_driver": False,
    "enable_worker_prestart": False,
}


def free_ports() -> dict[str, int]:
    """Of a node's helpers: for a port that they choose themselves Ray waits 15 seconds, whatever the machine does."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in zip(names, sockets)}


def started() -> tuple[Any, Any]:
    """A cluster of two nodes of one core each, without Ray's log monitor and autoscaler, and the second one."""
    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "include_log_monitor": False}
    made = Cluster()
    try:
        made.add_node(**node, **free_ports(), include_dashboard=False, no_monitor=True, _system_config=PATIENT)
        return made, made.add_node(**node, **free_ports())
    except Exception:
        made.shutdown()
        raise


@pytest.fixture(scope="module")
def cluster():
    for last in (False, False, True):
        try:
            made, other = started()
            break
        except Exception as error:  # Ray gives a node 30 seconds, which a machine that is busy does not always keep
            if last:
                pytest.skip(f"Ray's nodes do not start on this machine: {error}")
    yield SimpleNamespace(address=made.address, made=made, other=other)
    made.shutdown()


@pytest.fixture(autouse=True)
def _no_cluster_left_connected():
    """A test that fails in the middle of a sweep leaves its neighbours none of it: its runs end with the connection."""
    yield
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def at_work(out: Path) -> list[tuple[psutil.Process, list[psutil.Process]]]:
    """The processes of runs between two epochs of theirs, each with its ancestors: fork server, Ray worker, raylet."""
    found = []
    for lock in out.glob("*/.lock"):
        if any(lock.parent.glob("checkpoints/*.safetensors")) and not (lock.parent / "metrics.json").exists():
            with contextlib.suppress(psutil.NoSuchProcess, ValueError):
                process = psutil.Process(int(lock.read_text()))
                found.append((process, process.parents()))
    return [(process, ancestors) for process, ancestors in found if len(ancestors) > 2]


@needs_ray
def test_a_killed_worker_and_a_lost_node_cost_no_run(cluster, tmp_path):
    configs, out, results = sweep.grid(**RUNS), tmp_path / "ray", []
    before, bad = (kit.Config(**{**SMALL, "seed": 3, **more}) for more in ({"epochs": 1}, {"batch_size": 4096}))
    (finished,) = sweep.run([before], out=out).runs
    marks = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}
    where = {"backend": "ray", "address": cluster.address}
    todo = [before, *configs, bad]
    work = lambda: results.append(sweep.run(todo, out=out, workers=len(todo), **where))  # no run waits for another here
    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    raylet = cluster.other.all_processes["raylet"][0].process.pid

    held = {}  # by whether its node is the one that will be lost: a run stopped where it is, and its ancestors

    def one_on_each_node() -> bool:
        """Whichever is seen first is stopped first: the other node's may come much later on a busy machine."""
        for run, ancestors in at_work(out):
            if (on_other := any(up.pid == raylet for up in ancestors)) not in held:
                with contextlib.suppress(psutil.NoSuchProcess):
                    run.suspend()
                    held[on_other] = run, ancestors
        return len(held) == 2

    until(one_on_each_node, "a run on each of the two nodes")
    (lost, _), (run, (server, worker, *_)) = held[True], held[False]
    worker.kill()  # the run below it has to end, and its fork server
    assert gone(run) and gone(server)
    cluster.made.remove_node(cluster.other, allow_graceful=False)
    assert gone(lost)
    thread.join(timeout=480)
    assert not thread.is_alive()

    (result,) = results
    assert [run.config for run in result.runs] == [before, *configs]
    assert list(result.failures) == [bad.name]
    assert result.failures[bad.name].startswith("KitError: batch_size=4096")  # in words, not Ray's traceback
    (here,) = sweep.run(configs[:1], out=tmp_path / "local").runs
    assert_same_run(here, result.runs[1])
    marks |= {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.json")}
    assert len(sweep.run([before, *configs], out=out, **where).runs) == 3
    assert {path: path.stat().st_mtime_ns for path in marks} == marks


@needs_ray
def test_a_sweep_that_is_left_ends_and_leaves_nothing_running(cluster, tmp_path):
    config, where = kit.Config(**ENDLESS), {"backend": "ray", "address": cluster.address}
    thread = threading.Thread(target=lambda: sweep.run([config], out=tmp_path, **where), daemon=True)
    thread.start()
    ((run, _),) = until(lambda: at_work(tmp_path), "the first epoch")
    ray.shutdown()  # what Ctrl-C does
    thread.join(timeout=120)
    assert not thread.is_alive() and gone(run)


@needs_ray
def test_a_cluster_of_this_machine_alone_is_reached_from_it_alone():
    mine, ports = psutil.Process(), []
    before = set(mine.children(recursive=True))
    _, room, stop = sweep.on_ray("local", 1, 0)
    try:
        for process in {mine, *mine.children(recursive=True)} - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                ports += [port for port in process.net_connections("tcp") if port.status == "LISTEN"]
        assert room and len(ports) > 3
        assert {port.laddr.ip.removeprefix("::ffff:") for port in ports} == {"127.0.0.1"}
    finally:
        stop()


@needs_ray
def test_more_gpus_than_the_cluster_has_are_refused(cluster, tmp_path):
    where = {"backend": "ray", "address": cluster.address}
    for wanted, says in (
        ({"gpus": 1}, "no machine of the cluster .* has threads=1, gpus=1: ask for fewer"),
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
