"""The model card (Mitchell et al. 2019): what a trained model is, how good and how fast, and what it was not tested
for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from kit import data
from kit.errors import KitError
from kit.run.run import Run, TrainedModel
from kit.space import latency

PAIRS = 5  # of τ's likeliest


def card(run: Run, device: torch.device | str = "cpu") -> str:
    """Markdown. The latency is measured now, on `device`, with the run's latency_batch and torch's present number of
    threads.

    Raises KitError for a run that is not finished.
    """
    if not run.finished:
        raise KitError(
            f"{run.path} is not finished ({run.status}), so there is no model to describe: kit.search with its configuration goes on"
        )
    model = run.model(device)
    parts = [
        f"# {Path(run.config.dataset).name}: {run.config.composition.title}",
        f"A network found and trained by kit (run `{run.path.name}`). It takes uint8 images and gives the scores of {len(run.classes)} classes: "
        f"{_listed(run.classes)}.",
        "## How good, how large, how fast",
        _table(_figures(run, model)),
        "## Data",
        _table(_data(run)),
        "## How it was made",
        _table(_method(run)),
        "Architecture (genotype):",
        f"```json\n{_genotype(run.genotype)}\n```",
        "## Preprocessing",
        _table([(name, str(value)) for name, value in model.preprocessing.items()]),
        "## What it was not tested for",
        _untested(run),
        "## Where it comes from",
        _table(_origin(run)),
    ]
    return "\n\n".join(parts) + "\n"


def accuracy_interval(accuracy: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for the share of all such images that is classified correctly, from one test set of n
    images.
    """
    interval = stats.binomtest(round(accuracy * n), n).proportion_ci(level, "wilson")
    return float(interval.low), float(interval.high)


def _figures(run: Run, model: TrainedModel) -> list[tuple[str, str]]:
    m, n = run.metrics, run.metrics["test_images"]
    low, high = accuracy_interval(m["test_accuracy"], n)
    rows = [
        (
            "test accuracy",
            f"{m['test_accuracy']:.2%}, 95% interval {low:.2%} to {high:.2%} (Wilson, n = {n:,} images, evaluated once; one run)",
        )
    ]
    if m.get("test_balanced_accuracy") is not None:  # runs of older versions have none
        rows.append(("balanced test accuracy", f"{m['test_balanced_accuracy']:.2%} (mean of the classes' own)"))
    if m.get("val_accuracy") is not None:
        rows.append(("validation accuracy", f"{m['val_accuracy']:.2%} (n = {m['val_images']:,})"))
    rows += [
        ("parameters", f"{m['params']:,}"),
        ("multiply-adds per image", f"{m['macs']:,} (convolutions and linear layers)"),
        ("latency", _latency(run, model)),
    ]
    confirmed = latency.recorded(run.path / "latency.json", model.network.picks_of(run.genotype))
    if confirmed is not None:
        rows.append(("latency that the limit was confirmed by", f"{confirmed[0]:.3g} ms, {confirmed[1]}"))
    asked = {name: getattr(run.config, name, None) for name in ("max_params", "max_macs", "max_latency_ms")}
    if any(value is not None for value in asked.values()):
        rows.append(
            (
                "limits it was searched under",
                ", ".join(f"{name} = {value:,}" for name, value in asked.items() if value is not None),
            )
        )
    return rows


def _latency(run: Run, model: TrainedModel) -> str:
    device, batch, threads = model.network.mean.device, getattr(run.config, "latency_batch", 1), torch.get_num_threads()
    ms = latency.time_model(model, model.network.image, device, batch, threads)
    where = latency.hardware(device)
    on = f"on {where}" + ("" if device.type == "cuda" else f", {threads} thread(s)")
    how = f"torch {torch.__version__}; smallest median of ten passes, measured with this card"
    return f"{ms:.3g} ms for a batch of {batch}, float32, {on} ({how})"


def _data(run: Run) -> list[tuple[str, str]]:
    config, where = run.config, run.provenance
    rows = [("name", Path(config.dataset).name)]
    if config.dataset in data.datasets():
        rows.append(("about", data.describe(config.dataset)))
    else:
        rows.append(("about", "not a data set that kit knows: its origin and licence are its owner's to state"))
    return [
        *rows,
        ("split", where["split"]),
        ("trained on", f"{where['trained_on']}: {run.metrics['train_images']:,} images"),
        ("tested on", f"{run.metrics['test_images']:,} images"),
    ]


def _method(run: Run) -> list[tuple[str, str]]:
    config = run.config
    steps = f"{run.metrics['epochs']} epochs, {run.metrics['steps']:,} steps of {config.batch_size} images"
    return [
        ("method", f"{config.composition.title} (`{config.method}`, preset `{config.preset}`)"),
        ("seed", str(config.seed)),
        ("training", steps),
        ("augmentation policy τ", _policy(run.policy)),
        ("hyper-parameters η at the end", _hyper(run.hyper)),
    ]


def _policy(policy: dict[str, Any]) -> str:
    if "probabilities" not in policy:
        return f"`{policy['name']}`, fixed"
    p, ops = torch.tensor(policy["probabilities"], dtype=torch.float64), policy["ops"]
    likely = p.flatten().argsort(descending=True, stable=True)[:PAIRS].tolist()
    pairs = ", ".join(f"{ops[k // len(ops)]} then {ops[k % len(ops)]} {p.flatten()[k]:.1%}" for k in likely)
    away = float((p * (p.clamp(min=1e-300) * p.numel()).log()).sum())
    return f"`{policy['name']}`, learned: {away:.3g} nats from uniform over {p.numel()} ordered pairs; the likeliest: {pairs}"


def _hyper(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, (int, float)) else f"{name} = {value}"
        for name, value in values.items()
    )


def _untested(run: Run) -> str:
    n = run.metrics["test_images"]
    return "\n".join(
        [
            f"- Images from elsewhere: the {n:,} test images are of the same source as the training images. Another camera, light, place or time "
            "was not tried.",
            f"- Anything that belongs to none of its {len(run.classes)} classes: it names one of them all the same.",
            "- Its probabilities are a softmax of the scores; how well they are calibrated was not measured.",
            "- Corrupted, manipulated or adversarial images, and how errors differ between groups of people or things.",
            f"- Chance: this is one run with one seed. The interval above is that of {n:,} images, not that of training it again.",
        ]
    )


def _origin(run: Run) -> list[tuple[str, str]]:
    p = run.provenance
    versions = ", ".join(f"{name} {version}" for name, version in p.get("versions", {}).items() if version)
    hardware = f"{p.get('device')}; {p.get('processor')}, {p.get('cores')} cores, {p.get('threads')} thread(s)"
    return [
        ("run", run.path.name),
        ("commit", str(p.get("commit"))),
        ("hardware", hardware),
        ("wall-clock", _duration(run.metrics["seconds"])),
        ("determinism", str(p.get("determinism"))),
        ("versions", f"Python {p.get('python')}, {versions}"),
    ]


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _genotype(genotype: dict[str, Any]) -> str:
    """JSON with a line per node: the whole is read at a glance, and `genotype=` takes it back."""
    lines = []
    for name, value in genotype.items():
        listed = isinstance(value, (list, tuple)) and not all(isinstance(entry, str) for entry in value)
        text = (
            "[\n    " + ",\n    ".join(json.dumps(entry) for entry in value) + "\n  ]" if listed else json.dumps(value)
        )
        lines.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _table(rows: list[tuple[str, str]]) -> str:
    cells = (f"| {name} | {' '.join(value.split()).replace('|', '∣')} |" for name, value in rows)
    return "\n".join(["| | |", "|---|---|", *cells])
