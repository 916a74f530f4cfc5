"""A search neither sees nor changes what of torch's state belongs to its caller, and threads do not see each other."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading

import pytest
import torch
from tests_micro import assert_same_run, micro_config

import kit
from kit.search.progress import Silent


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def other_numbers():
    before = gc.get_threshold()
    gc.set_threshold(before[0] + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        yield
    gc.set_threshold(*before)


CALLERS = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "other random numbers, and searches for cycles": other_numbers,
}


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
def test_the_callers_state_neither_changes_a_search_nor_is_changed(caller, finished, micro, tmp_path):
    with caller():
        modes = torch.get_default_dtype, torch.is_grad_enabled, torch.is_inference_mode_enabled, gc.get_threshold
        about = lambda: [mode() for mode in modes]
        before, numbers = about(), torch.get_rng_state()
        run = kit.search(micro_config(), out=tmp_path, progress=Silent())
        assert about() == before and torch.equal(torch.get_rng_state(), numbers)
    assert_same_run(run, finished)


def test_searches_in_threads_are_those_in_turn(finished, micro, tmp_path):
    configs = {"dha": micro_config(), "plain": micro_config(method="plain", epochs=1)}
    made = {}

    def work(name: str) -> None:
        made[name] = kit.search(configs[name], out=tmp_path / "threads", progress=Silent())

    threads = [threading.Thread(target=work, args=(name,)) for name in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same_run(made["dha"], finished)
    assert_same_run(made["plain"], kit.search(configs["plain"], out=tmp_path / "alone", progress=Silent()))


def test_backward_hooks_work_on_every_module(finished):
    model, fired = finished.model().train(), []
    for module in model.modules():
        module.register_full_backward_hook(lambda *_: fired.append(1))
    x = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    with pytest.warns(UserWarning, match="no inputs require gradients"):
        model(x).sum().backward()
    assert len(fired) > 50


LOADS_TORCH = """
import os, sys
class Witness:
    def find_spec(self, name, *rest):
        if name == "torch":
            sys.exit(os.environ.get("OMP_WAIT_POLICY"))  # said on stderr; what torch would do with it takes seconds
sys.meta_path.insert(0, Witness())
import kit
"""


@pytest.mark.parametrize(("own", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_cores_to_others_unless_told_otherwise(own, found):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    done = subprocess.run([sys.executable, "-c", LOADS_TORCH], env=environment, capture_output=True, text=True)
    assert done.stderr.split() == [found]  # torch reads it when it is loaded


@pytest.mark.parametrize(("asked", "used"), [(None, 1), ("2", 2)])
def test_small_images_keep_one_thread_busy_unless_told_otherwise(micro, tmp_path, monkeypatch, asked, used):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    torch.set_num_threads(2)
    try:
        run = kit.search(micro_config("plain", epochs=1), out=tmp_path, progress=Silent())
        assert (run.provenance["threads"], torch.get_num_threads()) == (used, 2)  # the caller's own are as they were
    finally:
        torch.set_num_threads(1)
