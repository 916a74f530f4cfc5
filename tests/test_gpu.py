"""What only a GPU shows. Skipped, with a message, where there is none."""

import subprocess
import sys

import pytest
import torch

import kit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
SMALL = dict(method="dha", epochs=2, search_epochs=1, channels=4, cells=3, batch_size=128, device="cuda")


def test_a_search_runs_on_the_gpu_and_its_model_on_the_cpu(tmp_path):
    run = kit.search(kit.Config(**SMALL), out=tmp_path)
    test = kit.load_dataset("digits").test
    accuracy = (run.predict(test.images).labels == test.labels).float().mean().item()
    # bfloat16 in the run, float32 here: a few images may change sides
    assert accuracy == pytest.approx(run.metrics["test_accuracy"], abs=0.02)
    assert run.provenance["device"] == torch.cuda.get_device_name()


def test_deterministic_runs_on_the_gpu_are_equal(tmp_path):
    config = kit.Config(**SMALL, deterministic=True, precision="float32")
    one, two = (kit.search(config, out=tmp_path / name) for name in "ab")
    assert one.metrics["test_loss"] == two.metrics["test_loss"]
    assert one.history.equals(two.history)


@pytest.mark.parametrize("augment", ["pair-softmax", "flip-crop-cutout"])
def test_the_step_never_waits_for_the_device(augment):
    from pathlib import Path

    from kit.search.engine import Search

    engine = Search(kit.Config(**SMALL, augment=augment), Path("unused"))
    parts = engine.parts
    before = torch.cuda.get_sync_debug_mode()
    engine.take_step(
        parts.net.train(), engine.batches, parts.arch, parts.augment, parts.hyper, parts.sgd, 1.0
    )  # kernels are loaded
    try:
        torch.cuda.set_sync_debug_mode("error")
        engine.take_step(parts.net, engine.batches, parts.arch, parts.augment, parts.hyper, parts.sgd, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one search on several GPUs needs two CUDA devices")
def test_two_gpus_search_as_one(tmp_path):
    values = {**SMALL, "dataset": "digits", "precision": "float32", "sync_batchnorm": True}
    given = [f"{name}={value}" for name, value in values.items()]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            "-m",
            "kit",
            *given,
            f"out={tmp_path}",
        ],
        check=True,
    )
    config = kit.Config(**values)
    run, one = kit.Run.load(tmp_path / config.name), kit.search(config, out=tmp_path / "one")
    assert run.provenance["ranks"] == 2 and run.provenance["backend"] == "nccl"
    losses = [r.history[r.history["name"] == "step/loss"]["value"].to_numpy() for r in (run, one)]
    assert losses[0][0] == pytest.approx(
        losses[1][0], rel=1e-3
    )  # the first step; later ones drift apart as float32 rounds
    assert abs(run.metrics["test_accuracy"] - one.metrics["test_accuracy"]) < 0.2
