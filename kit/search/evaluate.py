"""The scores of a run's current architecture, and what it writes at its end: model, metrics and their provenance."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from kit import data
from kit.run import predict, provenance, store
from kit.search import build, ranks
from kit.search.stages import holds_out
from kit.space.layers import average_statistics

if TYPE_CHECKING:
    from kit.search.engine import Search

RECALIBRATION = 8  # batches
CHUNK = 256  # images of an evaluation pass


class Score(NamedTuple):
    """Mean cross-entropy, share of right predictions, and its mean over the classes (a rare class moves it as much as a
    common one)."""

    loss: float
    accuracy: float
    balanced_accuracy: float


@torch.no_grad()
def score(search: Search, part: data.ImageSet) -> Score:
    """Of the current architecture on images that it does not train on.

    During a search the BatchNorm statistics are recomputed first, since they were collected under other children.
    """
    net, child, device = search.parts.net, search.parts.arch.derived(), search.device
    if search.stage.search:
        size, images = search.config.batch_size, search.data.train.images
        count = min(RECALIBRATION, len(images) // size)
        net.recalibrate(child, [ranks.own(images[i * size : (i + 1) * size]) for i in range(count)])
        average_statistics(net.norms_of(child.picks))
    net.eval()
    loss = torch.zeros((), device=device)
    right, there = torch.zeros(2, search.sets.num_classes, device=device)
    for images, labels in part.chunks(CHUNK, turn=(ranks.rank(), ranks.count())):
        losses, predicted = net.losses(images, labels, child)
        loss = loss + losses.sum()
        there.scatter_add_(0, labels, torch.ones_like(losses))
        right.scatter_add_(0, labels, (predicted == labels).to(losses.dtype))
    loss, right, there = (ranks.total(sums) for sums in (loss, right, there))
    net.train()
    balanced = (right / there)[there > 0].mean()
    return Score(loss.item() / len(part), right.sum().item() / len(part), balanced.item())


def write_results(search: Search, test: Score, val: Score | None) -> None:
    """The model, and last of all the metrics, which say that the run is finished."""
    parts, child, folder = search.parts, search.parts.arch.derived(), search.folder
    model = {
        "network": parts.net.spec(child.picks),
        "genotype": parts.net.genotype(child.picks),
        "classes": list(search.sets.classes),
        "policy": _policy(search),
        "hyper": parts.hyper.found(),
        "preprocessing": predict.preprocessing(parts.net.image),
    }
    store.write_tensors(folder / "model" / "model.safetensors", build.extract(parts.net, child.picks))
    store.write_json(folder / "model" / "model.json", model)
    store.write_json(folder / "provenance.json", _provenance(search))
    cost = parts.net.cost(child.picks)
    metrics = {
        **{f"test_{name}": value for name, value in test._asdict().items()},
        "test_images": len(search.sets.test),
        **{f"val_{name}": getattr(val, name, None) for name in Score._fields},
        "val_images": len(search.sets.val) if val else 0,
        "train_images": len(search.data.train),
        "params": cost.params,
        "macs": cost.macs,
        "epochs": search.epoch,
        "steps": search.step,
        "seconds": search.seconds,
        "peak_memory_mb": provenance.peak_memory_mb(search.device),
    }
    store.write_json(folder / "metrics.json", metrics)


def _policy(search: Search) -> dict:
    policy = search.parts.augment
    learned = {name: values.tolist() for name, values in policy.snapshot().items() if name != "counts"}
    return {"name": search.config.augment, **({"ops": list(policy.ops), **learned} if learned else {})}


def _provenance(search: Search) -> dict:
    config, held_out = search.config, search.data.hold_out
    trained_on = "train" if held_out else "train and val together (this stage needs no validation data)"
    if not held_out and any(holds_out(config, i) for i in range(search.stage_index)):
        trained_on += "; searched on train, with val held out"
    exact = search.device.type == "cpu" or config.deterministic
    return {
        **provenance.describe(search.device),
        **ranks.describe(search.device),
        "seconds": search.seconds,
        "peak_memory_mb": provenance.peak_memory_mb(search.device),
        "seed": config.seed,
        "dataset": search.sets.name,
        "split": search.sets.split,
        "trained_on": trained_on,
        "determinism": "bit-identical on resume" if exact else "not deterministic (GPU)",
    }


def write_failure(folder: Path, search: Search, error: BaseException) -> None:
    """failure.json, which says what ended the run and where."""
    if ranks.count() > 1 and (folder / "failure.json").is_file():
        return  # the rank that failed first has written it; the others only notice that it is gone
    failure = {
        "error": type(error).__name__,
        "message": str(error),
        "epoch": search.epoch,
        "step": search.step,
        "traceback": traceback.format_exc(),
    }
    with contextlib.suppress(OSError, ValueError):  # a full disk must not hide the error itself
        store.write_json(folder / "failure.json", failure)
