"""What a grid point of the loss landscape costs: python benchmarks/landscape.py [--image 32 --channels 16 --cells 8
--images 256]

Three things take turns in one process, round by round: a bare forward pass of the model over the images (no loss), a
grid point of `kit.landscape`, and one of a loop over `loss_landscapes.random_plane` with its Loss metric. Figures are
medians over the rounds, ratios medians of the rounds' ratios, with quartiles.

--sharpness: the Hessian's largest eigenvalue by `kit.landscape` beside that of landscaper's PyHessian (pip install
landscaper, which kit does not need), of the networks of short runs on digits, one a seed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from unittest import mock

import common
import torch
from loss_landscapes import random_plane
from loss_landscapes.metrics import Loss
from torch import nn
from torch.nn import functional as F

import kit
from kit import space
from kit.data import ImageSet
from kit.run.predict import TrainedModel
from kit.run.provenance import pick_device
from kit.search.progress import Silent
from kit.space import DARTS_V2
from kit.studies import landscape


def network(a: argparse.Namespace, device: torch.device) -> nn.Module:
    """DARTS V2 cells with BatchNorm statistics of random images."""
    torch.manual_seed(0)
    image = (a.image_channels, a.image, a.image)
    net = space.build("cell", 10, image, channels=a.channels, cells=a.cells, genotype=DARTS_V2)
    model = TrainedModel(net, list("0123456789")).to(device).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model(torch.randint(0, 256, (64, *image), dtype=torch.uint8, device=device))
    return model.eval()


def ways(model: nn.Module, data: ImageSet, a: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Each runs its thing once and says how many grid points that was."""
    side = 2 * round((a.points**0.5 - 1) / 2) + 1
    metric = Loss(F.cross_entropy, data.images, data.labels)

    @torch.no_grad()
    def bare() -> int:
        for _ in range(side * side):
            for x, _ in data.chunks(a.batch):
                model(x)
        return side * side

    def kit() -> int:
        landscape.plane(model, data, steps=side, radius=0.5, batch_size=a.batch)
        return side * side

    def library() -> int:
        with torch.no_grad():
            random_plane(model, metric, distance=1, steps=side, normalization=None, deepcopy_model=True)
        return side * side

    return {"bare forward": bare, "kit": kit, "loss_landscapes": library}


def measured(device: torch.device, repeats: int, a: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds a grid point, `repeats` times, of each way."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (a.images, a.image_channels, a.image, a.image), generator=g, dtype=torch.uint8)
    data = ImageSet(images, torch.arange(a.images) % 10).to(device)
    kinds = ways(network(a, device), data, a)
    points: dict[str, int] = {}

    def counted(name: str, way: Callable[[], int]) -> Callable[[], None]:
        return lambda: points.__setitem__(name, way())

    times = common.alternately({name: counted(name, way) for name, way in kinds.items()}, repeats, device, warm=2)
    return {name: [1e3 * t / points[name] for t in found] for name, found in times.items()}


def section(device: torch.device, repeats: int, a: argparse.Namespace | None = None) -> str:
    a = a or parser().parse_args([])
    each = measured(device, repeats, a)
    rows = [
        (
            name,
            f"{common.median(found):.2f}",
            *(common.shown(common.ratio(found, each[base]), 3) for base in ("bare forward", "loss_landscapes")),
        )
        for name, found in each.items()
    ]
    return (
        f"## landscape: {a.images} images {a.image_channels}×{a.image}×{a.image}, C={a.channels}, {a.cells} cells\n\n"
        "A bare forward pass of the model (no loss), a grid point of `kit.landscape`, and one of a loop over "
        "`loss_landscapes.random_plane` with its Loss metric.\n\n"
        + common.table(
            ("what", "ms a grid point, median", "÷ bare forward (median, quartiles)", "÷ loss_landscapes"), rows
        )
        + f"\n\nn = {repeats} rounds of about {a.points} points, in turn.\n"
    )


def trained(seeds: range) -> Iterator[tuple[nn.Module, ImageSet]]:
    """DARTS V2 cells as 8 epochs of digits leave them, with the test images."""
    for seed in seeds:
        config = kit.Config(dataset="digits", method="plain", epochs=8, seed=seed, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            model = kit.search(config, out=folder, progress=Silent()).model()
        yield model.requires_grad_(True), config.sets().test


def by_landscaper(model: nn.Module, data: ImageSet) -> float:
    from landscaper import PyHessian

    torch.manual_seed(0)  # where its power iteration starts
    hessian = PyHessian(model, F.cross_entropy, list(data.chunks(len(data))), "cpu")
    return hessian.eigenvalues(maxIter=200, tol=1e-4)[0][0]


def by_kit(model: nn.Module, data: ImageSet) -> float:
    return landscape.largest_eigenvalue(model, data, len(data))


def sharpness(seeds: range) -> str:
    """Each network's largest eigenvalue both ways, and the Hessian-vector products and CPU seconds that it took."""
    rows, ways = [], {"kit": by_kit, "landscaper": by_landscaper}
    for seed, (model, data) in zip(seeds, trained(seeds)):
        rows.append([seed])
        for way in ways.values():
            with mock.patch("torch.autograd.grad", wraps=torch.autograd.grad) as grad:
                began = common.clock(data.device)
                value = way(model, data)
                rows[-1] += [
                    value,
                    grad.call_count // 2,
                    common.clock(data.device) - began,
                ]  # a product differentiates twice
    header = ("seed", *(f"{name}, {what}" for name in ways for what in ("eigenvalue", "products", "CPU s")))
    apart = [theirs / ours - 1 for _, ours, _, _, theirs, _, _ in rows]
    return (
        f"## sharpness: the Hessian's largest eigenvalue, beside landscaper {metadata.version('landscaper')}\n\n"
        f"DARTS V2 cells after 8 epochs of digits (laptop), {len(data)} test images. Here Lanczos' method to 1e-4, "
        "landscaper has power iteration, until a step changes the value by less than 1e-4.\n\n"
        + common.table(header, [[f"{cell:.{5 if k % 3 == 1 else 3}g}" for k, cell in enumerate(row)] for row in rows])
        + f"\n\nn = {len(rows)} networks; landscaper's value is {min(apart):+.3%} to {max(apart):+.3%} beside kit's.\n"
    )


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("image", 8),
        ("image_channels", 1),
        ("channels", 8),
        ("cells", 5),
        ("images", 256),
        ("batch", 256),
        ("points", 9),
        ("rounds", 15),
        ("threads", 1),
    ):
        found.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    found.add_argument("--device", default="auto")
    found.add_argument("--sharpness", type=int, default=0, metavar="N", help="of N networks, beside landscaper's")
    return found


def main() -> None:
    a = parser().parse_args()
    torch.set_num_threads(a.threads)
    print(sharpness(range(a.sharpness)) if a.sharpness else section(pick_device(a.device), a.rounds, a))


if __name__ == "__main__":
    main()
