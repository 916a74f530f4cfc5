"""The scores of a run's current architecture, and what it writes at its end: model, metrics and their provenance."""

from typing import Any, NamedTuple

import torch

from kit.data import ImageSet
from kit.run import predict, provenance, store
from kit.search import build, ranks
from kit.space import Child
from kit.space.layers import average_statistics

Search = Any  # kit.search.engine's, which imports this file
RECALIBRATION = 8  # batches
CHUNK = 256  # images of an evaluation pass


class Score(NamedTuple):
    """Mean cross-entropy, share of right predictions, and the mean of that share over the classes."""

    loss: float
    accuracy: float
    balanced_accuracy: float


@torch.no_grad()
def score(search: Search, part: ImageSet, child: Child | None = None) -> Score:
    """Of the current architecture, or a child, on images that it does not train on. During a search the BatchNorm
    statistics are recomputed first, since they were collected under other children."""
    net, child = search.parts.net, child or search.parts.arch.derived()
    if search.stage.search:
        size, images = search.config.batch_size, search.batches["train"].data.images
        count = min(RECALIBRATION, len(images) // size)
        net.recalibrate(child, [ranks.own(images[i * size : (i + 1) * size]) for i in range(count)])
        average_statistics(net.norms_of(child.picks))
    net.eval()
    loss = torch.zeros((), device=search.device)
    right, there = torch.zeros(2, len(search.sets.classes), device=search.device)
    for images, labels in part.chunks(CHUNK, turn=(ranks.rank(), ranks.count())):
        losses, predicted = net.losses(images, labels, child)
        loss = loss + losses.sum()
        there.scatter_add_(0, labels, torch.ones_like(losses))
        right.scatter_add_(0, labels, (predicted == labels).to(losses.dtype))
    loss, right, there = (ranks.total(sums) for sums in (loss, right, there))
    net.train()
    return Score(loss.item() / len(part), right.sum().item() / len(part), (right / there)[there > 0].mean().item())


def write_results(search: Search, test: Score, val: Score | None) -> None:
    """The model, and last of all the metrics, which say that the run is finished."""
    parts, sets, config, folder = search.parts, search.sets, search.config, search.folder
    net, policy, picks = parts.net, parts.augment, parts.arch.derived().picks
    tau = {name: values.tolist() for name, values in policy.snapshot().items() if name != "counts"}
    model = {
        "network": net.spec(picks),
        "genotype": net.genotype(picks),
        "classes": list(sets.classes),
        "policy": {"name": config.augment, **({"ops": list(policy.ops), **tau} if tau else {})},
        "hyper": parts.hyper.result(),
        "preprocessing": predict.preprocessing(net.image),
    }
    trained_on = "train" if "val" in search.batches else "train and val together (this stage needs no validation data)"
    if "val" not in search.batches and any(build.holds_out(config, i) for i in range(search.stage_index)):
        trained_on += "; searched on train, with val held out"
    exact = config.deterministic or search.device.type == "cpu"
    place = provenance.describe(search.device) | {
        "ranks": ranks.count(),
        "backend": None if ranks.count() == 1 else "gloo" if search.device.type == "cpu" else "nccl",
        "seed": config.seed,
        **search.identity,
        "dataset": sets.name,
        "split": sets.split,
        "trained_on": trained_on,
        "determinism": "bit-identical on resume" if exact else "not deterministic (GPU)",
    }
    spent = {"seconds": search.seconds, "peak_memory_mb": provenance.peak_memory_mb(search.device)}
    metrics = {f"test_{name}": value for name, value in test._asdict().items()} | {"test_images": len(sets.test)}
    metrics |= {f"val_{name}": getattr(val, name, None) for name in Score._fields}
    metrics |= {"val_images": len(sets.val) if val else 0, "train_images": len(search.batches["train"].data)}
    metrics |= net.cost(picks)._asdict() | {"epochs": search.epoch, "steps": search.step} | spent | search.identity
    search.records.write(search.epoch, whole=True)
    store.write_tensors(folder / "model" / "model.safetensors", build.extract(net, picks))
    for name, content in (("model/model", model), ("provenance", place | spent), ("metrics", metrics)):
        store.write_json(folder / f"{name}.json", content)
