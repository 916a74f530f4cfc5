"""A run survives kills and a second process, and stops where its numbers do."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests_micro import assert_same_run, micro_config

import kit
from kit import KitError, Run
from kit.run import store
from kit.search.engine import NonFinite
from kit.search.progress import Silent

TESTS = Path(__file__).resolve().parent
search_module = sys.modules["kit.search.engine"]  # kit.search itself is the function

# ---- kills ---------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
import kit, kit.progress, tests_micro
tests_micro.register_micro()
kit.search(tests_micro.micro_config(epochs=9, search_epochs=4), out={out!r}, progress=kit.progress.Lines(every=0))
"""


def start(out: Path) -> subprocess.Popen:
    script = SCRIPT.format(root=str(TESTS.parent), tests=str(TESTS), out=str(out))
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"the process ended before it wrote {text!r} (exit {process.wait()})")


def test_killed_at_random_moments_and_started_again_it_is_the_same_run(micro: str, tmp_path: Path):
    config, chance = micro_config(epochs=9, search_epochs=4), random.Random(0)
    folder = tmp_path / "killed" / config.name
    for attempt, target in enumerate((1, 4, 7)):
        with start(tmp_path / "killed") as process:
            wait_for(process, f"epoch {target}/9")
            if attempt == 0:
                with pytest.raises(
                    KitError, match=f"{re.escape(str(folder))} is in use by process {process.pid}: wait"
                ):
                    kit.search(config, out=tmp_path / "killed", progress=Silent())
            time.sleep(chance.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        run = Run.load(folder)
        assert run.status == "interrupted" and run.metrics == {} and not (folder / "failure.json").exists()
        assert run.history["epoch"].max() >= target
        with pytest.raises(KitError, match="no model yet \\(interrupted\\)"):
            run.model()
    with start(tmp_path / "killed") as process:
        output = process.stdout.read()
        assert process.wait() == 0, output
    assert int(re.search(r"goes on after epoch (\d)", output).group(1)) >= 7
    whole = kit.search(config, out=tmp_path / "whole", progress=Silent())
    run = Run.load(folder)
    assert_same_run(run, whole)
    assert (folder / "model" / "model.safetensors").read_bytes() == (
        whole.path / "model" / "model.safetensors"
    ).read_bytes()
    images = kit.load_dataset(micro).test.images
    assert torch.equal(run.predict(images).probabilities, whole.predict(images).probabilities)
    assert not [p for p in folder.rglob("*") if p.name.endswith(".tmp") and str(process.pid) in p.name]
    assert len(list((folder / "checkpoints").glob("epoch-*.safetensors"))) == 2


class Killed(BaseException):
    """Ends a run as a kill does: nothing in between catches it."""


# (which write of the attempt, whether it still reached its place). The first is config.json; then history, alpha, tau
# and checkpoint
# of an epoch; after the last epoch model.safetensors, model.json, provenance and metrics.
DEATHS = ((2, False), (3, True), (4, False), (5, True), (4, True), (5, True), (3, False), (5, False))
WRITES = [
    "history.parquet",
    "alpha.npz",
    "tau.npz",
    "epoch-00001.safetensors",
    "tau.npz",
    "epoch-00002.safetensors",
    "model.json",
    "metrics.json",
]


def test_killed_before_or_after_any_write_it_is_the_same_run(finished: Run, tmp_path: Path, monkeypatch):
    real, died_at = os.replace, []
    for at, done in DEATHS:
        left = [at]

        def replace(source: str, target: str, left=left, done=done) -> None:
            left[0] -= 1
            if left[0] == 0:
                if done:
                    real(source, target)
                died_at.append(Path(target).name)
                raise Killed
            real(source, target)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", replace)
            kit.search(finished.config, out=tmp_path, progress=Silent())
        assert Run.load(tmp_path / finished.path.name).status == "interrupted"
    assert died_at == WRITES
    assert_same_run(kit.search(finished.config, out=tmp_path, progress=Silent()), finished)


# ---- failures ------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    finished: Run, tmp_path: Path, monkeypatch
):
    real, steps = search_module.STEPS["one-level"], []

    def poisoned(net, *rest):
        steps.append(1)
        if len(steps) == 6:  # the second of the second epoch's four
            with torch.no_grad():
                net.classifier.weight[0, 0] = float("nan")
        return real(net, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(search_module, "STEPS", {"one-level": poisoned})
        with pytest.raises(NonFinite) as error:
            kit.search(finished.config, out=tmp_path, progress=Silent())
    folder = tmp_path / finished.path.name
    # look-ahead's own η is broken by the sixth step's gradient: the last sound one is the fifth step's
    rate, decay = (finished.curve(f"step/{name}")[5] for name in ("lr", "weight_decay"))
    kept = folder / "checkpoints" / "epoch-00001.safetensors"
    message = str(error.value)
    assert re.search(
        f"the loss is nan at step 6 \\(epoch 2\\) with lr={rate:.4g} and weight_decay={decay:.4g}; ", message
    )
    assert str(kept) in message and "Try a smaller lr" in message
    failure = store.read_json(folder / "failure.json")
    assert (
        failure["error"] == "NonFinite"
        and failure["message"] == message
        and failure["epoch"] == 1
        and "poisoned" not in failure["message"]
    )
    assert (
        Run.load(folder).status == "failed"
        and store.read_state(kept)["epoch"] == 1
        and not (folder / "metrics.json").exists()
    )
    # without the cause it goes on from there, and the failure is forgotten
    run = kit.search(finished.config, out=tmp_path, progress=Silent())
    assert_same_run(run, finished)
    assert not (folder / "failure.json").exists() and run.status == "finished"


@pytest.mark.parametrize("recover", ["epoch", "step"])
def test_a_run_that_diverges_by_itself_says_where(recover: str, micro: str, tmp_path: Path):
    with pytest.raises(NonFinite, match=r"at step \d+ \(epoch 1\) with lr=.*no epoch was completed"):
        kit.search(
            micro_config(lr=10.0, weight_decay=1.0, hyper="fixed", clip=0.0, recover=recover, batch_size=3),
            out=tmp_path,
            progress=Silent(),
        )


def test_an_interruption_by_the_user_is_not_a_failure(micro: str, tmp_path: Path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(search_module, "STEPS", {"one-level": interrupt})
    with pytest.raises(KeyboardInterrupt):
        kit.search(micro_config(), out=tmp_path, progress=Silent())
    assert Run.load(tmp_path / micro_config().name).status == "interrupted"


def test_the_lock_goes_with_its_holder(interrupted: Run):
    with store.exclusive(interrupted.path):
        with pytest.raises(KitError, match=f"in use by process {os.getpid()}"):
            kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent())
        # nor may the directory be put aside under the process that works in it
        with pytest.raises(KitError, match=f"in use by process {os.getpid()}"):
            kit.search(interrupted.config, out=interrupted.path.parent, resume=False, progress=Silent())
        assert interrupted.path.exists()
    assert kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent()).finished


@pytest.mark.parametrize(
    ("letter", "break_it"),
    [
        ("θ", lambda parts: parts.net.classifier.bias.data.fill_(float("inf"))),
        ("α", lambda parts: parts.arch.b.data.fill_(float("nan"))),
        ("τ", lambda parts: parts.augment.tau.fill_(float("nan"))),
        ("η", lambda parts: parts.hyper.log.data.fill_(float("nan"))),
    ],
)
def test_what_breaks_in_the_last_step_of_an_epoch_is_not_checkpointed(
    letter: str, break_it, micro: str, tmp_path: Path, monkeypatch
):
    engine_of, real = {}, search_module.STEPS["one-level"]
    monkeypatch.setattr(
        search_module.Search,
        "_open",
        lambda self, open_=search_module.Search._open: engine_of.update(it=self) or open_(self),
    )

    def last_step_breaks(net, *rest):
        outcome = real(net, *rest)
        engine_of["steps"] = engine_of.get("steps", 0) + 1
        if engine_of["steps"] == 4:
            break_it(engine_of["it"].parts)
        return outcome

    monkeypatch.setattr(search_module, "STEPS", {"one-level": last_step_breaks})
    with pytest.raises(
        NonFinite, match=f"{letter} is not finite after step 4 \\(epoch 1\\) with lr=0.*no epoch was completed"
    ):
        kit.search(micro_config(), out=tmp_path, progress=Silent())
    assert not list((tmp_path / micro_config().name).glob("checkpoints/*"))
