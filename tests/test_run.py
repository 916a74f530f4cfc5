"""What a run leaves behind: it is read with suspicion, and what it predicts is what it measured."""

from __future__ import annotations

import functools
import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_micro import Stop, StopAfterEachEpoch, assert_same_run, micro_config

import kit
from kit import KitError, Run
from kit.search.progress import Silent

# ---- broken and foreign files --------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, 0.99])
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
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"dataset": '])
def test_a_broken_config_is_an_error_that_names_the_file(text: str, interrupted: Run):
    (interrupted.path / "config.json").write_text(text)
    with pytest.raises(KitError, match="config.json"):
        Run.load(interrupted.path)
    # the search knows its configuration and mends it
    kit.search(micro_config(), out=interrupted.path.parent, progress=Silent())
    assert Run.load(interrupted.path).config == micro_config()


def test_weights_of_another_network_are_refused(finished: Run, tmp_path: Path):
    other = kit.search(micro_config("plain", epochs=1), out=tmp_path, progress=Silent())
    (other.path / "model" / "model.safetensors").write_bytes(
        (finished.path / "model" / "model.safetensors").read_bytes()
    )
    with pytest.raises(KitError, match="does not hold the weights of the network in model.json.*resume=False"):
        other.model()


def test_a_missing_run_is_an_error_that_lists_those_nearby(finished: Run, tmp_path: Path):
    for path in (finished.path.parent, finished.path.parent / "other"):
        with pytest.raises(KitError, match=f"is not a run directory.*runs nearby: {re.escape(str(finished.path))}"):
            Run.load(path)
    with pytest.raises(KitError, match="kit.search\\(kit.Config"):
        Run.load(tmp_path / "empty" / "nothing")


# ---- the result ----------------------------------------------------------------------------------


def test_predictions_are_what_the_metrics_say(finished: Run, micro: str):
    test = kit.load_dataset(micro).test
    got = finished.predict(test.images, batch_size=7)
    assert got.labels.dtype == torch.int64 and got.labels.shape == (60,)
    assert got.probabilities.dtype == torch.float32 and got.probabilities.shape == (60, 10)
    torch.testing.assert_close(got.probabilities.sum(1), torch.ones(60))
    assert torch.equal(got.labels, got.probabilities.argmax(1)) and got.names == [
        finished.classes[i] for i in got.labels.tolist()
    ]
    assert (got.labels == test.labels).float().mean().item() == pytest.approx(finished.metrics["test_accuracy"])
    loss = -got.probabilities.log()[torch.arange(60), test.labels].mean()
    assert loss.item() == pytest.approx(finished.metrics["test_loss"], rel=1e-4)
    for same in (test.images.numpy(), test.images[:, 0]):  # arrays, and grey images without their channel
        assert torch.equal(finished.predict(same).labels, got.labels)
    assert finished.predict(test.images[:0]).probabilities.shape == (0, 10)
    model = finished.model()
    assert not model.training and not any(m.training for m in model.modules())


def test_an_unknown_curve_is_refused_with_the_known_ones(finished: Run, interrupted: Run):
    with pytest.raises(KitError, match="no curve 'los'; it has: .*loss"):
        finished.curve("los")
    assert repr(finished).endswith(f"test accuracy {finished.metrics['test_accuracy']:.4f}>") and repr(
        interrupted
    ).endswith("interrupted>")


def test_metrics_are_written_last(micro: str, tmp_path: Path, monkeypatch):
    """They say that the run is finished: a death while the model is written must not leave them."""
    order, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(Path(b).name) or real(a, b))
    kit.search(micro_config("plain", epochs=1), out=tmp_path, progress=Silent())
    assert (
        order[-1] == "metrics.json"
        and order.count("metrics.json") == 1
        and "model.safetensors" in order
        and order[0] == "config.json"
    )
