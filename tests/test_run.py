"""A run survives what happens to it: kills, a second process, broken files, losses that leave the numbers; and what it leaves is checked."""

from __future__ import annotations

import functools
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_methods import Stop, StopAfterEachEpoch, assert_same_run
from tests_micro import micro_config

import kit
from kit import KitError, Run, search as search_function, store
from kit.progress import Silent
from kit.search import NonFinite

TESTS = Path(__file__).resolve().parent
search_module = sys.modules[search_function.__module__]


@pytest.fixture(scope="module")
def finished(micro: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return kit.search(micro_config(), out=tmp_path_factory.mktemp("runs"), progress=Silent())


@pytest.fixture
def interrupted(micro: str, tmp_path: Path) -> Run:
    """The same run, stopped after its first epoch."""
    with pytest.raises(Stop):
        kit.search(micro_config(), out=tmp_path, progress=StopAfterEachEpoch())
    return Run.load(tmp_path / micro_config().name)


# ---- kills -------------------------------------------------------------------------------------------------------------------

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
                with pytest.raises(KitError, match=f"{re.escape(str(folder))} is in use by process {process.pid}: wait"):
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
    assert (folder / "model" / "model.safetensors").read_bytes() == (whole.path / "model" / "model.safetensors").read_bytes()
    images = kit.load_dataset(micro).test.images
    assert torch.equal(run.predict(images).probabilities, whole.predict(images).probabilities)
    assert not [p for p in folder.rglob("*") if p.name.endswith(".tmp") and str(process.pid) in p.name]
    assert len(list((folder / "checkpoints").glob("epoch-*.safetensors"))) == 2


class Killed(BaseException):
    """Ends a run as a kill does: nothing in between catches it."""


# (which write of the attempt, whether it still reached its place). The first is config.json; then history, alpha, tau and checkpoint
# of an epoch; after the last epoch model.safetensors, model.json, provenance and metrics.
DEATHS = ((2, False), (3, True), (4, False), (5, True), (4, True), (5, True), (3, False), (5, False))
WRITES = ["history.parquet", "alpha.npz", "tau.npz", "epoch-00001.safetensors", "tau.npz", "epoch-00002.safetensors", "model.json", "metrics.json"]


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


# ---- broken and foreign files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_cut_newest_checkpoint_is_left_for_the_one_before(keep: float, finished: Run, tmp_path: Path, capsys):
    config = micro_config(epochs=3)
    for _ in range(2):
        with pytest.raises(Stop):
            kit.search(config, out=tmp_path / "cut", progress=StopAfterEachEpoch())
    newest = tmp_path / "cut" / config.name / "checkpoints" / "epoch-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[: int(keep * newest.stat().st_size)])
    seen = []

    class Spy(Silent):
        def start(self, name: str, epochs: int, done: int) -> None:
            seen.append(done)

    run = kit.search(config, out=tmp_path / "cut", progress=Spy())
    assert seen == [1] and "epoch-00002.safetensors is not a checkpoint that can be read" in capsys.readouterr().out
    assert_same_run(run, whole_of_three(tmp_path.parent))


@functools.cache
def whole_of_three(out: Path) -> Run:
    return kit.search(micro_config(epochs=3), out=out / "three", progress=Silent())


def test_with_every_checkpoint_gone_the_run_begins_again(interrupted: Run, finished: Run):
    for path in (interrupted.path / "checkpoints").glob("*"):
        path.write_bytes(b"")
    assert_same_run(kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent()), finished)


class Bomb:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_nothing_in_a_run_directory_is_ever_unpickled(interrupted: Run, finished: Run, tmp_path: Path):
    mark = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(mark))
    pickle.loads(bomb)
    assert mark.exists()  # it does go off where it is unpickled
    mark.unlink()
    newest = interrupted.path / "checkpoints" / "epoch-00009.safetensors"
    newest.write_bytes(bomb)
    assert_same_run(kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent()), finished)
    run = Run.load(interrupted.path)
    weights = run.path / "model" / "model.safetensors"
    for poison in (bomb, torch_pickle(Bomb(mark))):
        weights.write_bytes(poison)
        with pytest.raises(KitError, match="model.safetensors holds no tensors"):
            run.model()
    np.savez(run.path / "tau.npz", probabilities=np.array([Bomb(mark)], dtype=object))
    (run.path / "alpha.npz").write_bytes(bomb)
    for name in ("tau", "alpha"):
        with pytest.raises(KitError, match=f"{name}.npz holds no arrays"):
            getattr(run, name)
    assert not mark.exists()


def torch_pickle(value: object) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"dataset": '])
def test_a_broken_config_is_an_error_that_names_the_file(text: str, interrupted: Run):
    (interrupted.path / "config.json").write_text(text)
    with pytest.raises(KitError, match="config.json"):
        Run.load(interrupted.path)
    # the search knows its configuration and mends it
    kit.search(interrupted_config(), out=interrupted.path.parent, progress=Silent())
    assert Run.load(interrupted.path).config == interrupted_config()


def interrupted_config() -> kit.Config:
    return micro_config()


def test_weights_of_another_network_are_refused(finished: Run, tmp_path: Path):
    other = kit.search(micro_config("plain", epochs=1), out=tmp_path, progress=Silent())
    (other.path / "model" / "model.safetensors").write_bytes((finished.path / "model" / "model.safetensors").read_bytes())
    with pytest.raises(KitError, match="does not hold the weights of the network in model.json.*resume=False"):
        other.model()


def test_a_missing_run_is_an_error_that_lists_those_nearby(finished: Run, tmp_path: Path):
    for path in (finished.path.parent, finished.path.parent / "other"):
        with pytest.raises(KitError, match=f"is not a run directory.*runs nearby: {re.escape(str(finished.path))}"):
            Run.load(path)
    with pytest.raises(KitError, match="kit.search\\(kit.Config"):
        Run.load(tmp_path / "empty" / "nothing")


# ---- the result --------------------------------------------------------------------------------------------------------------


def test_predictions_are_what_the_metrics_say(finished: Run, micro: str):
    test = kit.load_dataset(micro).test
    got = finished.predict(test.images, batch_size=7)
    assert got.labels.dtype == torch.int64 and got.labels.shape == (60,)
    assert got.probabilities.dtype == torch.float32 and got.probabilities.shape == (60, 10)
    torch.testing.assert_close(got.probabilities.sum(1), torch.ones(60))
    assert torch.equal(got.labels, got.probabilities.argmax(1)) and got.names == [finished.classes[i] for i in got.labels.tolist()]
    assert (got.labels == test.labels).float().mean().item() == pytest.approx(finished.metrics["test_accuracy"])
    loss = -got.probabilities.log()[torch.arange(60), test.labels].mean()
    assert loss.item() == pytest.approx(finished.metrics["test_loss"], rel=1e-4)
    for same in (test.images.numpy(), test.images[:, 0]):  # arrays, and grey images without their channel
        assert torch.equal(finished.predict(same).labels, got.labels)
    assert finished.predict(test.images[:0]).probabilities.shape == (0, 10)
    model = finished.model()
    assert not model.training and not any(m.training for m in model.modules())


@pytest.mark.parametrize("images", [
    torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 1, 9, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8),
    np.zeros((2, 1, 8, 8), dtype=np.int64),
])  # fmt: skip
def test_predict_refuses_what_it_was_not_trained_on(images, finished: Run):
    with pytest.raises(KitError, match=r"uint8 images of shape \[N, 1, 8, 8\]; got "):
        finished.predict(images)


def test_an_unknown_curve_is_refused_with_the_known_ones(finished: Run, interrupted: Run):
    with pytest.raises(KitError, match="no curve 'los'; it has: .*loss"):
        finished.curve("los")
    assert repr(finished).endswith(f"test accuracy {finished.metrics['test_accuracy']:.4f}>") and repr(interrupted).endswith("interrupted>")


def test_metrics_are_written_last(micro: str, tmp_path: Path, monkeypatch):
    """They say that the run is finished: a death while the model is written must not leave them."""
    order, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(Path(b).name) or real(a, b))
    kit.search(micro_config("plain", epochs=1), out=tmp_path, progress=Silent())
    assert order[-1] == "metrics.json" and order.count("metrics.json") == 1 and "model.safetensors" in order and order[0] == "config.json"


# ---- failures ----------------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(finished: Run, tmp_path: Path, monkeypatch):
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
    assert re.search(f"the loss is nan at step 6 \\(epoch 2\\) with lr={rate:.4g} and weight_decay={decay:.4g}; ", message)
    assert str(kept) in message and "Try a smaller lr" in message
    failure = store.read_json(folder / "failure.json")
    assert failure["error"] == "NonFinite" and failure["message"] == message and failure["epoch"] == 1 and "poisoned" not in failure["message"]
    assert Run.load(folder).status == "failed" and store.read_state(kept)["epoch"] == 1 and not (folder / "metrics.json").exists()
    # without the cause it goes on from there, and the failure is forgotten
    run = kit.search(finished.config, out=tmp_path, progress=Silent())
    assert_same_run(run, finished)
    assert not (folder / "failure.json").exists() and run.status == "finished"


@pytest.mark.parametrize("recover", ["epoch", "step"])
def test_a_run_that_diverges_by_itself_says_where(recover: str, micro: str, tmp_path: Path):
    with pytest.raises(NonFinite, match=r"at step \d+ \(epoch 1\) with lr=.*no epoch was completed"):
        kit.search(micro_config(lr=10.0, weight_decay=1.0, hyper="fixed", clip=0.0, recover=recover, batch_size=3), out=tmp_path, progress=Silent())


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
