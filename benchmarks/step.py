"""What a joint step costs beside a plain one: python benchmarks/step.py [--image 32 --channels 16 --cells 8 --batch 64]

Plain: SGD steps of the same child with flip, crop and cutout. DHA: the same child while α, τ and η learn, with the
look-ahead, with the fresh hyper-gradient, and with one of validation images in every tenth step. They take turns, in
one process. Then where the time goes, and the peak memory of a step.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import common
import torch

from kit import augment
from kit.arch import Given, lasso
from kit.config import Config
from kit.data import Batches, ImageSet, ImageSets
from kit.hyper import Fixed
from kit.run.provenance import pick_device
from kit.search import build, grads
from kit.search.grads import Momentum
from kit.search.learner import generator
from kit.search.signals import Parts
from kit.search.step import one_level

TENTH = 10  # steps from one hyper-gradient to the next, in the row of that name
SIZES = (
    {"image": 32, "image_channels": 3, "channels": 16, "cells": 8, "batch": 64},
    {"image": 8, "image_channels": 1, "channels": 8, "cells": 5, "batch": 64},
)


def synthetic(side: int, channels: int, n: int = 2048) -> ImageSets:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, side, side), generator=g, dtype=torch.uint8)
    labels, third = torch.arange(n) % 10, n // 4
    parts = [ImageSet(images[a:b], labels[a:b]) for a, b in ((0, 2 * third), (2 * third, 3 * third), (3 * third, n))]
    return ImageSets(*parts, classes=tuple("0123456789"), name="synthetic", flip=True, split="synthetic")


def parts_of(config: Config, sets: ImageSets, device: torch.device) -> Parts:
    parts = build.Plan(config, config.stages[0], sets, device).parts()
    parts.net.train()
    return parts


def plain_twin(parts: Parts, config: Config, sets: ImageSets, device: torch.device) -> Parts:
    """The same supernet's child, fixed, with the usual augmentation and fixed η."""
    policy = augment.build(
        "flip-crop-cutout",
        generator(0, "plain", device),
        sets.size,
        fill=torch.full((sets.channels,), 128, dtype=torch.uint8),
    )
    return Parts(
        parts.net,
        Given(parts.arch.slots, parts.arch.picks),
        policy,
        Fixed(config.lr, config.weight_decay, device),
        Momentum(parts.net, config.momentum, config.clip),
    )


def take(parts: Parts, batches: dict[str, Any]) -> None:
    one_level(parts, batches, 1.0)


def peak_mb(parts: Parts, batches: dict, device: torch.device) -> float:
    """Largest sum of live tensor memory during a step, over what was live before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        take(parts, batches)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take(parts, batches)
    live = peak = 0
    for event in sorted(
        (e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        live += event.nbytes()
        peak = max(peak, live)
    return peak / 2**20


class Watch:
    """Seconds per part of a step, what a part calls not counted twice. On a GPU every boundary waits for the device."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, defaultdict(float)
        self.stack: list[str] = ["bookkeeping"]
        self.since = common.clock(device)

    def switch(self) -> None:
        now = common.clock(self.device)
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    @contextlib.contextmanager
    def during(self, label: str) -> Iterator[None]:
        self.switch()
        self.stack.append(label)
        yield
        self.switch()
        self.stack.pop()

    def wrap(self, owner: Any, names: str, label: str) -> None:
        for name in names.split():
            original = getattr(owner, name)

            def watched(*a: Any, _original: Any = original, **k: Any) -> Any:
                with self.during(label):
                    return _original(*a, **k)

            setattr(owner, name, watched)


def split(parts: Parts, batches: dict[str, Any], device: torch.device, steps: int) -> dict[str, float]:
    """Shares of a step's time."""
    watch, backward = Watch(device), grads.backward

    class Watched:
        def __init__(self, inner: Batches):
            self.inner = inner

        def __next__(self) -> Any:
            with watch.during("data"):
                return next(self.inner)

    watch.wrap(parts.augment, "sample apply update", "policy τ")
    watch.wrap(parts.arch, "sample update", "architecture α")
    watch.wrap(parts.hyper, "observe sample update draw", "hyper-parameters η")
    watch.wrap(parts.net, "losses", "forward")
    watch.wrap(parts.sgd, "step", "update θ")
    watch.wrap(grads, "backward", "backward")
    try:
        take(parts, {name: Watched(b) for name, b in batches.items()})
        watch.seconds.clear()
        watch.since = common.clock(device)
        for _ in range(steps):
            take(parts, {name: Watched(b) for name, b in batches.items()})
        watch.switch()
    finally:
        grads.backward = backward
    total = sum(watch.seconds.values())
    return {label: s / total for label, s in watch.seconds.items()}


def variants(config: Config, sets: ImageSets, device: torch.device) -> dict[str, Parts]:
    """The plain step and DHA's, on one child."""
    kinds = {
        "DHA, look-ahead": parts_of(config, sets, device),
        "DHA, fresh batch": parts_of(config.but(hyper="fresh"), sets, device),
    }
    return {"plain": plain_twin(kinds["DHA, look-ahead"], config, sets, device), **kinds}


def setting(
    device: torch.device, image: int, image_channels: int, channels: int, cells: int, batch: int, preset: str = "laptop"
) -> tuple[Config, ImageSets, dict[str, Batches]]:
    """α is recovered once per epoch, so not within the steps that are measured."""
    sets = synthetic(image, image_channels).to(device)
    size = {"channels": channels, "cells": cells, "batch_size": batch}
    config = Config(method="dha", preset=preset, hyper="lookahead", recover="epoch", **size)
    return config, sets, {name: Batches(sets.train, batch, generator(0, name)) for name in ("train", "fresh", "val")}


def section(
    device: torch.device, repeats: int, image: int, image_channels: int, channels: int, cells: int, batch: int
) -> str:
    config, sets, batches = setting(device, image, image_channels, channels, cells, batch)
    kinds = variants(config, sets, device)
    arch = kinds["DHA, look-ahead"].arch
    things = {name: (lambda parts=parts: take(parts, batches)) for name, parts in kinds.items()}
    b = arch.b.detach().cpu()
    tenth = parts_of(config.but(hyper="validation", hyper_every=TENTH), sets, device)
    things["ten"] = lambda: [take(tenth, batches) for _ in range(TENTH)]
    things["recovery"] = lambda: lasso(arch.A.cpu(), b * 1.001, arch.options.lam, start=arch.alpha.cpu())
    times = common.alternately(things, repeats, device, warm=3)
    peaks = {name: peak_mb(parts, batches, device) for name, parts in kinds.items()}
    rows = [
        (
            name,
            f"{1e3 * sorted(times[name])[repeats // 2]:.1f}",
            common.shown(common.ratio(times[name], times["plain"]), 3),
            f"{peaks[name]:.1f}",
            f"{peaks[name] / peaks['plain']:.3f}",
        )
        for name in kinds
    ]
    apart = {
        "DHA, validation batch in every tenth step": [seconds / TENTH for seconds in times["ten"]],
        "LASSO for all nodes, warm start": times["recovery"],
    }
    rows += [
        (name, f"{1e3 * common.median(found):.1f}", common.shown(common.ratio(found, times["plain"]), 3), "–", "–")
        for name, found in apart.items()
    ]
    shares = {
        name: split(parts, batches, device, min(repeats, 10)) for name, parts in variants(config, sets, device).items()
    }
    labels = sorted(shares["plain"] | shares["DHA, fresh batch"], key=lambda label: -shares["plain"].get(label, 0))
    return (
        f"## step, memory, recovery: {image_channels}×{image}×{image} images, C={channels}, {cells} cells, batch "
        f"{batch}\n\n"
        "Plain: the same child in the same supernet, fixed η, flip, crop and cutout. DHA's recovery is per epoch "
        "here; its cost stands in a row of its own.\n\n"
        + common.table(("step", "ms, median", "÷ plain (median, quartiles)", "peak memory, MB", "÷ plain"), rows)
        + "\n\n"
        + common.table(
            ("share of the step", *shares),
            [(label, *(f"{100 * s.get(label, 0):.1f}%" for s in shares.values())) for label in labels],
        )
        + f"\n\nn = {repeats} steps each, ten times as many where every tenth differs, in turn; the shares from "
        f"{min(repeats, 10)} further ones of each.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in ({**SIZES[0], "repeats": 15, "threads": 1}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--device", default="auto")
    a = vars(parser.parse_args())
    torch.set_num_threads(a.pop("threads"))
    print(section(pick_device(a.pop("device")), **a))


if __name__ == "__main__":
    main()
