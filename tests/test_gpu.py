"""What only a GPU shows, each test small. Skipped, with a message, where there is none; KIT_TEST_DEVICE=cpu rehearses
on a CPU what a CPU can do, so that no test here runs for the first time on a rented GPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from test_augment_ops import ALL_OPS, SIGNED, assert_alike, draw, draw_images, reference
from test_methods import BEFORE, VARIANTS
from tests_micro import Stop, StopAfterEachEpoch, assert_same_run, micro_config

import kit
from kit import data, space
from kit.augment import apply_mixed, apply_op
from kit.augment.policy import Basics
from kit.augment.softmax import PairSoftmax
from kit.run import export
from kit.run.provenance import pick_device
from kit.search import build, grads
from kit.search.learner import generator
from kit.search.progress import Silent
from kit.search.step import STEPS
from kit.space import DARTS_V2, latency
from kit.space.limits import Limits
from kit.studies import landscape

DEVICE = torch.device(os.environ.get("KIT_TEST_DEVICE", "cuda"))
CUDA = DEVICE.type == "cuda"
pytestmark = pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="no CUDA device on this machine")
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def exact_float32():
    """On GPUs torch's convolutions take float32 numbers in TF32, with 10 bits, unless told otherwise."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@contextlib.contextmanager
def no_waits() -> Iterator[None]:
    """Whatever waits for the GPU raises."""
    if not CUDA:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def config_of(method: str = "dha", **changes) -> kit.Config:
    before = BEFORE.get(method, 1)
    own = VARIANTS[method] | {"search_epochs": before, "epochs": before + 1}
    return micro_config(**({"device": DEVICE.type, "precision": "auto"} | own | changes))


@pytest.fixture(scope="module")
def run(micro: str, tmp_path_factory: pytest.TempPathFactory) -> kit.Run:
    return kit.search(config_of(), out=tmp_path_factory.mktemp("run"), progress=Silent())


@pytest.fixture(scope="module")
def test_set(micro: str) -> data.ImageSet:
    return kit.load_dataset(micro).test


# ---- augmentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_OPS)
def test_every_operation_gives_the_cpus_pixels_and_torchvisions(name: str):
    for channels, size in ((3, (33, 32)), (1, (28, 28))):
        images = draw_images(64, channels, *size)
        _, magnitude, sign, center = draw(64)
        sign = sign if name in SIGNED else torch.ones(64)
        given = (images, magnitude, sign, center)
        found = apply_op(name, *(t.to(DEVICE) for t in given)).cpu()
        assert torch.equal(found, apply_op(name, *given))
        theirs = [reference(name, i, m, s, c) for i, m, s, c in zip(images, magnitude, sign.tolist(), center.tolist())]
        assert_alike(name, found, torch.stack(theirs))


def test_the_masked_path_gives_the_grouped_ones_pixels():
    given = [t.to(DEVICE) for t in (draw_images(320, 3, 33, 32), *draw(320))]
    apply_mixed(*given, grouped=False)  # kernels are loaded
    with no_waits():
        masked = apply_mixed(*given, grouped=False)
    grouped = apply_mixed(*given, grouped=True)
    assert torch.equal(masked, grouped) and torch.equal(masked.cpu(), apply_mixed(*(t.cpu() for t in given)))


def test_a_policys_draw_gives_the_cpus_pixels():
    fill = torch.tensor([9, 99, 199], dtype=torch.uint8)
    policy = PairSoftmax(Basics(4, True, 8, fill.to(DEVICE)), generator(0, "τ", DEVICE), (32, 32))
    there, images = policy.sample(64), draw_images(64, 3, 32, 32)
    here = type(there)(**{name: None if t is None else t.cpu() for name, t in vars(there).items()})
    twin = PairSoftmax(Basics(4, True, 8, fill), generator(0, "τ"), (32, 32))
    assert torch.equal(policy.apply(images.to(DEVICE), there).cpu(), twin.apply(images, here))


# ---- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", kit.methods() if CUDA else ["dha"])  # the CPU's own tests have all of them
def test_every_method_runs(method: str, micro: str, tmp_path):
    run = kit.search(config_of(method), out=tmp_path, progress=Silent())
    assert run.finished and 0 <= run.metrics["test_accuracy"] <= 1 and run.metrics["peak_memory_mb"] > 0
    assert run.provenance["device"] == (torch.cuda.get_device_name() if CUDA else "cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"] if CUDA else ["float32"])
def test_deterministic_runs_are_equal_to_the_bit_and_resume_so(precision: str, micro: str, tmp_path):
    # with what training draws, and what has a backward pass that is not deterministic by default
    changes = {"drop_path": 0.2, "dropout": 0.1, "auxiliary": 0.4, "precision": precision}
    config = config_of("da+hpo", deterministic=True, search_epochs=None, **changes)
    one, two = (kit.search(config, out=tmp_path / name, progress=Silent()) for name in "ab")
    with pytest.raises(Stop):
        kit.search(config, out=tmp_path / "c", progress=StopAfterEachEpoch())
    for other in (two, kit.search(config, out=tmp_path / "c", progress=Silent())):
        assert_same_run(one, other)


def test_a_search_resumes_to_the_bit(micro: str, tmp_path):
    config = config_of(deterministic=True, precision="float32")
    whole = kit.search(config, out=tmp_path / "whole", progress=Silent())
    with pytest.raises(Stop):
        kit.search(config, out=tmp_path / "parts", progress=StopAfterEachEpoch())
    assert_same_run(whole, kit.search(config, out=tmp_path / "parts", progress=Silent()))


# ---- numbers -------------------------------------------------------------------------------------


def child_on(device: torch.device, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-sample losses and the flat gradient of DARTS's cells on 16 fixed images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = space.build("cell", 10, (3, 32, 32), channels=8, cells=5, auxiliary=0.4, genotype=DARTS_V2)
    net = net.to(device, memory_format=torch.channels_last).train()
    net.amp_dtype = dtype
    losses, _ = net.losses(
        draw_images(16, 3, 32, 32).to(device), torch.arange(16, device=device) % 10, net.only_child()
    )
    theta = grads.backward(losses.mean(), net, net.only_child()).theta
    return losses.detach().cpu(), torch.cat([g.flatten() for g in theta]).cpu()


def test_float32_is_the_cpus_within_rounding():
    (losses, gradient), (there, other) = child_on(torch.device("cpu")), child_on(DEVICE)
    torch.testing.assert_close(there, losses, rtol=1e-4, atol=1e-4)
    assert (other - gradient).norm() < 1e-2 * gradient.norm()  # a max pool may take another pixel of a tie


def test_bfloat16_is_float32_within_its_own_rounding():
    (losses, gradient), (there, other) = child_on(DEVICE), child_on(DEVICE, torch.bfloat16)
    assert there.dtype == torch.float32 and not torch.equal(there, losses)
    torch.testing.assert_close(there, losses, rtol=0.1, atol=0.1)
    assert torch.nn.functional.cosine_similarity(other, gradient, dim=0) > 0.9


@needs_cuda
def test_a_run_on_the_gpu_takes_bfloat16_by_itself(micro: str):
    config = config_of()
    parts = build.Plan(config, config.stages[0], kit.load_dataset(micro).to(DEVICE), DEVICE).parts()
    assert parts.net.amp_dtype == torch.bfloat16


# ---- the trained model ---------------------------------------------------------------------------


def test_the_model_predicts_alike_on_both_devices(run: kit.Run, test_set):
    here, there = (run.predict(test_set.images, device=device) for device in ("cpu", DEVICE))
    torch.testing.assert_close(there.probabilities, here.probabilities, rtol=1e-3, atol=1e-4)
    # bfloat16 in the run on a GPU, float32 here: a few images may change sides
    accuracy = (here.labels == test_set.labels).float().mean().item()
    assert accuracy == pytest.approx(run.metrics["test_accuracy"], abs=0.1)


@pytest.mark.filterwarnings("default")  # exporters warn of their own future
@pytest.mark.parametrize("ending", ["safetensors", "pt2", "onnx"] if CUDA else ["safetensors"])
def test_the_model_is_exported(ending: str, run: kit.Run, test_set, tmp_path):
    if ending == "onnx" and not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        pytest.skip("onnx is not installed")
    path = run.export(tmp_path / f"model.{ending}")
    if ending == "safetensors":
        scores = export.load(path).to(DEVICE)(test_set.images.to(DEVICE)).cpu()
        torch.testing.assert_close(scores, run.model()(test_set.images), rtol=1e-3, atol=1e-3)


def test_the_landscape_is_the_cpus(run: kit.Run, test_set):
    planes = [landscape.plane(run.model(where), test_set.to(where), steps=3, radius=0.5) for where in ("cpu", DEVICE)]
    torch.testing.assert_close(*(torch.from_numpy(plane.values) for plane in planes), rtol=1e-3, atol=1e-3)


def test_a_limit_on_latency_is_kept_by_times_of_this_device(micro: str, tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.01)
    config = config_of(cells=2)
    plan = build.Plan(config, config.stages[0], kit.load_dataset(micro).to(DEVICE), DEVICE)
    net = plan.network()
    low, high = Limits(net, latency=latency.table(net, DEVICE, config.latency_batch)).reach("max_latency_ms")
    run = kit.search(config.but(max_latency_ms=low + 0.7 * (high - low)), out=tmp_path, progress=Silent())
    table = latency.stored(run.path / "latency.json")
    assert table.hardware == latency.hardware(DEVICE) and table.fixed_ms >= 0
    assert table.predict(net.picks_of(run.genotype)) <= run.config.max_latency_ms
    with pytest.raises(kit.KitError, match="max_latency_ms"):
        kit.search(config.but(max_latency_ms=low / 1000), out=tmp_path, progress=Silent())


# ---- the step ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"hyper": "fresh", "augment": "flip-crop-cutout"}, {"method": "joint"}], ids=str
)
def test_the_step_never_waits_for_the_device(changes: dict, micro: str):
    """On the CPU it only runs; test_gpu_waits.py looks at it there."""
    config = config_of(**({"auxiliary": 0.4, "drop_path": 0.2} | changes))
    sets, take = kit.load_dataset(micro).to(pick_device(DEVICE)), STEPS["one-level"].make
    parts, batches = build.Plan(config, config.stages[0], sets, DEVICE, steps=9).parts(), build.streams(config, 0, sets)
    parts.net.train().drop_path = 0.2
    take(parts, batches, 1.0)  # kernels are loaded
    with no_waits():
        for frozen in ([], [0, 3]):
            parts.arch.freeze(frozen)
            losses, _, _ = take(parts, batches, 0.5)
    assert losses.isfinite().all() and losses.device.type == DEVICE.type


@needs_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one search on several GPUs needs two CUDA devices")
def test_two_gpus_search_as_one(tmp_path):
    small = {"method": "dha", "epochs": 2, "search_epochs": 1, "channels": 4, "cells": 3, "batch_size": 128}
    values = small | {"device": "cuda", "dataset": "digits", "precision": "float32", "sync_batchnorm": True}
    given = [*(f"{name}={value}" for name, value in values.items()), f"out={tmp_path}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "kit"]
    subprocess.run([*torchrun, *given], check=True)
    config = kit.Config(**values)
    run, one = kit.Run.load(tmp_path / config.name), kit.search(config, out=tmp_path / "one")
    assert run.provenance["ranks"] == 2 and run.provenance["backend"] == "nccl"
    losses = [r.history[r.history["name"] == "step/loss"]["value"].to_numpy() for r in (run, one)]
    # the first step; later ones drift apart as float32 rounds
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-3)
    assert abs(run.metrics["test_accuracy"] - one.metrics["test_accuracy"]) < 0.2
