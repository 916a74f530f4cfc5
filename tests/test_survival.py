"""A run stops where its numbers do, keeps the last good state, and one process at a time works on it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from tests_micro import assert_same_run, micro_config
from torch.nn import functional as F

import kit
from kit import KitError, Run, files
from kit.run import store
from kit.search.engine import NonFinite, Search
from kit.search.progress import Silent


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    finished: Run, tmp_path: Path, monkeypatch
):
    folder, real, late = tmp_path / finished.path.name, F.cross_entropy, []
    kept = folder / "checkpoints" / "epoch-00001.safetensors"

    def poisoned(*given, **options):  # from the second step of the second epoch on
        late.extend([1] if kept.exists() and torch.is_grad_enabled() else [])
        return real(*given, **options) * (float("nan") if len(late) > 1 else 1)

    with monkeypatch.context() as patch, pytest.raises(NonFinite) as error:
        patch.setattr(F, "cross_entropy", poisoned)
        kit.search(finished.config, out=tmp_path, progress=Silent())
    message, failure = str(error.value), store.read_json(folder / "failure.json")
    # look-ahead's own η is broken by that gradient: the last sound one is named
    assert re.search(r"the loss is nan at step 6 \(epoch 2\) with lr=0\.\d+ and weight_decay=0\.\d+; ", message)
    assert str(kept) in message and "Try a smaller lr" in message
    assert (failure["error"], failure["message"], failure["epoch"]) == ("NonFinite", message, 1)
    assert Run.load(folder).status == "failed" and store.read_state(kept)["epoch"] == 1
    assert not (folder / "metrics.json").exists()
    # without the cause it goes on from there, and the failure is forgotten
    run = kit.search(finished.config, out=tmp_path, progress=Silent())
    assert_same_run(run, finished)
    assert not (folder / "failure.json").exists() and run.status == "finished"


@pytest.mark.parametrize("recover", ["epoch", "step"])
def test_a_run_that_diverges_by_itself_says_where(recover: str, micro: str, tmp_path: Path):
    wild = {"lr": 10.0, "weight_decay": 1.0, "hyper": "fixed", "clip": 0.0, "recover": recover, "batch_size": 12}
    with pytest.raises(NonFinite, match=r"at step \d+ \(epoch 1\) with lr=.*no epoch was completed"):
        kit.search(micro_config(**wild), out=tmp_path, progress=Silent())


@pytest.mark.parametrize("letter", "θατη")
def test_what_breaks_in_the_last_step_of_an_epoch_is_not_checkpointed(letter, micro: str, tmp_path: Path, monkeypatch):
    real, steps = Search.train_epoch, []

    def train_epoch(engine: Search) -> dict[str, float]:
        step, parts = engine.take_step, engine.parts
        of = {
            "θ": parts.net.parameters,
            **dict(zip("ατη", (p.variables for p in (parts.arch, parts.augment, parts.hyper)))),
        }

        def last_step_breaks(*given):
            outcome = step(*given)
            steps.append(outcome)
            if len(steps) == 4:
                list(of[letter]())[-1].data.fill_(float("nan"))
            return outcome

        engine.take_step = last_step_breaks
        return real(engine)

    monkeypatch.setattr(Search, "train_epoch", train_epoch)
    said = f"{letter} is not finite after step 4 \\(epoch 1\\) with lr=0.*no epoch was completed"
    with pytest.raises(NonFinite, match=said):
        kit.search(micro_config(), out=tmp_path, progress=Silent())
    assert not list((tmp_path / micro_config().name).glob("checkpoints/*"))


def test_an_interruption_by_the_user_is_not_a_failure(micro: str, tmp_path: Path):
    class Impatient(Silent):
        def start(self, *what) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kit.search(micro_config(), out=tmp_path, progress=Impatient())
    assert Run.load(tmp_path / micro_config().name).status == "interrupted"


def test_the_lock_goes_with_its_holder(interrupted: Run):
    search = lambda **options: kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent(), **options)
    with files.exclusive(interrupted.path):
        for resume in (True, False):  # nor may the directory be put aside under the process that works in it
            with pytest.raises(KitError, match=f"in use by process {os.getpid()}"):
                search(resume=resume)
        assert interrupted.path.exists()
    assert search().finished
