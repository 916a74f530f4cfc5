"""What a joint step costs beside a plain one: python benchmarks/step.py [--image 32 --channels 16 --cells 8 --batch 64]

Plain: SGD steps of the same child with flip, crop and cutout. DHA: the same child while α, τ and η learn, with the look-ahead and with
the fresh hyper-gradient. The three take turns, step by step, in one process; the figures are medians, the ratios medians of the
ratios of neighbouring steps. Peak memory is that of one step, measured by its own (GPU: allocator; CPU: live tensors, by profiler).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from kit import augment, compose, provenance
from kit.arch import Given
from kit.compose import Parts
from kit.config import Config
from kit.data import Batches, ImageSet, ImageSets
from kit.grads import Momentum
from kit.hyper import Fixed
from kit.learner import generator
from kit.search import pick_device
from kit.step import Samples, one_level


def synthetic(side: int, channels: int, n: int = 2048) -> ImageSets:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, side, side), generator=g, dtype=torch.uint8)
    labels, third = torch.arange(n) % 10, n // 4
    parts = [ImageSet(images[a:b], labels[a:b], torch.arange(a, b)) for a, b in ((0, 2 * third), (2 * third, 3 * third), (3 * third, n))]
    return ImageSets(*parts, classes=tuple("0123456789"), name="synthetic", flip=True, split="synthetic")


def parts_of(config: Config, sets: ImageSets, device: torch.device) -> Parts:
    normal = (torch.full((sets.channels,), 0.5), torch.full((sets.channels,), 0.25))
    return compose.compose(config, 0, sets, device, normal)


def plain_twin(parts: Parts, config: Config, sets: ImageSets, device: torch.device) -> Parts:
    """The same supernet's child, fixed, with the usual augmentation and fixed η."""
    policy = augment.build("flip-crop-cutout", generator(0, "plain", device), sets.size, fill=torch.full((sets.channels,), 128, dtype=torch.uint8))
    return Parts(parts.net, Given(parts.arch.slots, parts.arch.picks), policy, Fixed(config.lr, config.weight_decay, device),
                 Momentum(parts.net, config.momentum, config.clip))  # fmt: skip


def timed(parts: Parts, batches: dict, device: torch.device) -> float:
    began = time.perf_counter()
    one_level(parts.net.train(), batches, parts.arch, parts.augment, parts.hyper, parts.sgd, 1.0, Samples())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - began)


def peak_mb(parts: Parts, batches: dict, device: torch.device) -> float:
    """Largest sum of live tensor memory during a step, over what was live before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        timed(parts, batches, device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        timed(parts, batches, device)
    live = peak = 0
    for event in sorted((e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("image", 8), ("image_channels", 1), ("channels", 8), ("cells", 5), ("batch", 64), ("steps", 40), ("threads", 1)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--recover", default="epoch", choices=("epoch", "step"))
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    device, sets = pick_device(a.device), synthetic(a.image, a.image_channels)
    sets = sets.to(device)
    config = Config(method="dha", channels=a.channels, cells=a.cells, batch_size=a.batch, recover=a.recover)
    kinds = {"look-ahead": parts_of(config, sets, device), "fresh": parts_of(config.but(hyper="fresh"), sets, device)}
    kinds = {"plain": plain_twin(kinds["look-ahead"], config, sets, device), **kinds}
    batches = {name: Batches(sets.train, a.batch, generator(0, name)) for name in ("train", "fresh")}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for i in range(a.steps + 5):
        for name, parts in kinds.items():
            took = timed(parts, batches, device)
            if i >= 5:
                times[name].append(took)
    memory = {name: peak_mb(parts, batches, device) for name, parts in kinds.items()}
    where = provenance.describe(device)
    print(f"{where['device']}, {where['processor']}, {a.threads} thread(s), torch {torch.__version__}, commit {where['commit']}")
    print(f"images {a.image_channels}×{a.image}×{a.image}, C={a.channels}, {a.cells} cells, batch {a.batch}, recovery per {a.recover}, n={a.steps} steps each")
    for name in kinds:
        ratios = [x / p for x, p in zip(times[name], times["plain"])]
        q = statistics.quantiles(ratios, n=4) if name != "plain" else (1, 1, 1)
        print(f"{name:>10}: {statistics.median(times[name]):8.2f} ms a step, {statistics.median(ratios):.3f} × plain (quartiles {q[0]:.3f}, {q[2]:.3f}), "
              f"peak {memory[name]:.1f} MB, {memory[name] / memory['plain']:.3f} × plain")


if __name__ == "__main__":
    main()
