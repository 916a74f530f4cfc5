"""What a grid point of the loss landscape costs: python benchmarks/landscape.py [--image 32 --channels 16 --cells 8 --images 256]

Four things take turns in one process, round by round: a bare forward pass of the model over the images (no loss), a grid point of
`kit.landscape`, a grid point of a loop over `loss_landscapes.random_plane` with its Loss metric, and, where the device takes several
points in a pass, a grid point of such a pass. Figures are medians over the rounds, ratios medians of the rounds' ratios, with quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Callable

import numpy as np
import torch
from loss_landscapes import random_plane
from loss_landscapes.metrics import Loss
from torch import nn
from torch.nn import functional as F

from kit import provenance, space
from kit.data import ImageSet
from kit.landscape.walker import Walker
from kit.run import TrainedModel
from kit.search import pick_device
from kit.space import GENOTYPES


def network(a: argparse.Namespace, device: torch.device) -> nn.Module:
    """DARTS V2 cells with BatchNorm statistics of random images."""
    torch.manual_seed(0)
    image = (a.image_channels, a.image, a.image)
    net = space.build("cell", 10, image, channels=a.channels, cells=a.cells, genotype=GENOTYPES["darts-v2"])
    model = TrainedModel(net, list("0123456789")).to(device).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model(torch.randint(0, 256, (64, *image), dtype=torch.uint8, device=device))
    return model.eval()


def ways(model: nn.Module, data: ImageSet, a: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Each runs its thing once and says how many grid points that was."""
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (a.points, 2))
    walker = Walker(model, data, a.batch)
    axes = [walker.axis(0, which) for which in ("δ", "η")]
    size = a.points_per_pass or walker._size(axes)
    metric = Loss(F.cross_entropy, data.images, data.labels)

    @torch.no_grad()
    def bare() -> int:
        for _ in points:
            for x, _ in data.chunks(a.batch):
                model(x)
        return len(points)

    def kit() -> int:
        for point in points:
            walker.value(axes, point)
        return len(points)

    def library() -> int:
        side = max(2, round(len(points) ** 0.5))
        with torch.no_grad():
            random_plane(model, metric, distance=1, steps=side, normalization=None, deepcopy_model=True)
        return side * side

    def passes() -> int:
        walker.stacked(axes, np.resize(points, (size, 2)))
        return size

    return {"bare forward": bare, "kit": kit, "loss_landscapes": library} | ({f"kit, {size} a pass": passes} if size > 1 else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("image", 8), ("image_channels", 1), ("channels", 8), ("cells", 5), ("images", 256), ("batch", 256), ("points", 9),
                          ("rounds", 15), ("threads", 1), ("points_per_pass", 0)):  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    device = pick_device(a.device)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (a.images, a.image_channels, a.image, a.image), generator=g, dtype=torch.uint8)
    data = ImageSet(images, torch.arange(a.images) % 10).to(device)
    kinds = ways(network(a, device), data, a)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for i in range(a.rounds + 2):
        for name, way in kinds.items():
            began = time.perf_counter()
            n = way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i >= 2:
                times[name].append(1e3 * (time.perf_counter() - began) / n)
    where = provenance.describe(device)
    print(f"{where['device']}, {where['processor']}, {a.threads} thread(s), torch {torch.__version__}, commit {where['commit']}")
    print(f"{a.images} images {a.image_channels}×{a.image}×{a.image} in batches of {a.batch}, C={a.channels}, {a.cells} cells, "
          f"n={a.rounds} rounds of {a.points} points")  # fmt: skip
    for name, found in times.items():
        ratios = [[x / y for x, y in zip(found, times[base])] for base in ("bare forward", "loss_landscapes")]
        q = statistics.quantiles(ratios[0], n=4)
        print(f"{name:>20}: {statistics.median(found):8.2f} ms a grid point, {statistics.median(ratios[0]):.3f} × bare forward "
              f"(quartiles {q[0]:.3f}, {q[2]:.3f}), {statistics.median(ratios[1]):.3f} × loss_landscapes")  # fmt: skip


if __name__ == "__main__":
    main()
