"""Augmentation in images/s, kit against torchvision and kornia: python benchmarks/augment.py [--repeats 7 --device
auto]
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable

import common
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from kit.augment import Augment, Plain
from kit.augment.ops import OPS, operations
from kit.augment.policy import Basics, Draw
from kit.augment.softmax import PairSoftmax
from kit.run.provenance import pick_device
from kit.search.learner import generator

BATCH = {32: 512, 64: 256, 224: 64}
COPY = "plain uint8 copy of the batch"
FEW = 4  # batches a round of those whose time depends on the two operations that a batch draws
BRIGHTNESS = {
    "Color": F.adjust_saturation,
    "Contrast": F.adjust_contrast,
    "Brightness": F.adjust_brightness,
    "Sharpness": F.adjust_sharpness,
}


def single(image, name: str, m: float, sign: float, side: int):
    """One operation of torchvision's on one image (tensor or PIL), with the magnitude that kit drew."""
    affine = functools.partial(F.affine, image, angle=0.0, scale=1.0)
    if name == "Identity":
        return image
    if name == "AutoContrast":
        return F.autocontrast(image)
    if name == "Equalize":
        return F.equalize(image)
    if name == "Rotate":
        return F.rotate(image, sign * 3 * m)
    if name == "Posterize":
        return F.posterize(image, 8 - round(0.4 * m))
    if name == "Solarize":
        return F.solarize(image, 255 * (1 - m / 10))
    if name in BRIGHTNESS:
        return BRIGHTNESS[name](image, 1 + sign * 0.09 * m)
    if name in ("ShearX", "ShearY"):
        degrees = sign * 0.03 * m * 57.29578
        return affine(translate=[0, 0], shear=[degrees, 0.0] if name == "ShearX" else [0.0, degrees], center=[0, 0])
    pixels = int(sign * 150 / 331 * side * m / 10)
    return affine(translate=[pixels, 0] if name == "TranslateX" else [0, pixels], shear=[0.0, 0.0])


def per_image(images: list, draw: Draw, side: int) -> Tensor:
    """A batch again, which is what training needs."""
    names, magnitudes, signs = draw.ops.tolist(), draw.magnitude.tolist(), draw.sign.tolist()
    done = []
    for image, pair, m, s in zip(images, names, magnitudes, signs):
        for k in range(2):
            image = single(image, OPS[pair[k]], m[k], s[k], side)
        done.append(F.to_image(image))
    return torch.stack(done)


def kornia_way(images: Tensor) -> Callable[[], object] | None:
    """RandAugment of the same 14 operations, two per batch: it has no way to draw them per image, which is the lighter
    task.
    """
    try:
        from kornia.augmentation.auto import RandAugment
    except ImportError:
        return None
    ranges = [
        ("auto_contrast", 0, 1),
        ("equalize", 0, 1),
        ("rotate", -30.0, 30.0),
        ("posterize", 4.0, 8.0),
        ("solarize", 0.0, 1.0),
        ("color", 0.1, 1.9),
        ("contrast", 0.1, 1.9),
        ("brightness", 0.1, 1.9),
        ("sharpness", 0.1, 1.9),
        ("shear_x", -0.3, 0.3),
        ("shear_y", -0.3, 0.3),
        ("translate_x", -0.45, 0.45),
        ("translate_y", -0.45, 0.45),
    ]
    policy = RandAugment(n=2, m=15, policy=[[r] for r in ranges])
    scaled = images.float() / 255  # kornia works on floats; the conversion is not counted
    with torch.no_grad():
        policy(scaled)
    return torch.no_grad()(lambda: [policy(scaled) for _ in range(FEW)])


def torchvision_way(images: Tensor) -> Callable[[], object]:
    """torchvision's own RandAugment of the same 14 operations, two per batch as well, on a whole batch at once."""
    policy = v2.RandAugment(num_ops=2, magnitude=15)
    return lambda: [policy(images) for _ in range(FEW)]


def dali_way(images: Tensor) -> Callable[[], object] | None:
    """DALI's RandAugment, two operations per image, of images that lie on the device; None where it is not installed.
    Fed by reference; what it gives stays on the device as well."""
    try:
        from nvidia.dali import fn, pipeline_def
        from nvidia.dali.auto_aug.rand_augment import rand_augment
    except ImportError:
        return None
    n, _, height, width = images.shape
    held = images.permute(0, 2, 3, 1).contiguous()
    held = held if images.is_cuda else held.numpy()  # of a tensor on the CPU it asks CUDA for a stream
    place, index = ("gpu", 0) if images.is_cuda else ("cpu", None)

    @pipeline_def(batch_size=n, num_threads=1, device_id=index, enable_conditionals=True, seed=0)
    def pipeline():
        x = fn.external_source(source=lambda: held, device=place, layout="HWC", no_copy=images.is_cuda)
        return rand_augment(x, n=2, m=15, shape=(height, width))

    built = pipeline()
    built.build()
    return lambda: built.run()


def measured(device: torch.device, repeats: int, batch: dict[int, int]) -> dict[int, dict[str, list[float]]]:
    """Seconds an image of each way, `repeats` times, by the images' side; kit's first. batch: {side: images}."""
    found = {}
    for side, n in batch.items():
        policy = PairSoftmax(Basics(), generator(0, "augment", device), tau_lr=0.0)
        images = torch.randint(
            0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator(0, "images", device), device=device
        )
        images = torch.nn.functional.avg_pool2d(images.float(), 5, 1, 2).to(torch.uint8)  # smooth as photographs are
        few = slice(0, min(n, 64))
        draw = policy.sample(n)
        tensors = [image.clone() for image in images[few].cpu()]
        pils = [v2.ToPILImage()(image) for image in tensors]
        module = Augment("randaugment", flip=False)
        things: dict[str, tuple[Callable[[], object] | None, int]] = {
            "kit": (lambda policy=policy, images=images, n=n: policy.apply(images, policy.sample(n)), n),
            "kit.augment.Augment, RandAugment with a crop": (functools.partial(module, images), n),
            "torchvision, tensors": (functools.partial(per_image, tensors, draw, side), len(tensors)),
            "torchvision, PIL": (functools.partial(per_image, pils, draw, side), len(pils)),
            "torchvision, whole batch": (torchvision_way(images), FEW * n),
            "kornia, whole batch": (kornia_way(images), FEW * n),
            "DALI": (dali_way(images), n),
            COPY: (images.clone, n),
        }
        if device.type == "cuda":
            there = [image.clone() for image in images[few]]
            things["torchvision, tensors on the GPU"] = functools.partial(per_image, there, draw, side), len(there)
        things = {name: thing for name, thing in things.items() if thing[0] is not None}
        times = common.alternately({name: way for name, (way, _) in things.items()}, repeats, device, warm=2)
        found[side] = {name: [t / things[name][1] for t in seconds] for name, seconds in times.items()}
    return found


def others(each: dict[str, list[float]]) -> dict[str, list[float]]:
    """Without kit's ways and the copy."""
    return {name: times for name, times in each.items() if not name.startswith("kit") and name != COPY}


def table_of(found: dict[int, dict[str, list[float]]]) -> str:
    rows = []
    for side, each in found.items():
        first, own = next(iter(each.items()))
        for name, times in each.items():
            ratio = "–" if times is own else common.shown(common.ratio(times, own), 3 if name == COPY else 1)
            rows.append((f"{side}²", name, f"{1 / statistics.median(times):,.0f}", ratio))
    return common.table(("size", "what", "images/s", f"speed of {first} ÷ its (median, quartiles)"), rows)


def missing(each: dict[str, list[float]]) -> str:
    """A sentence for each of the other libraries that is not installed here."""
    absent = [name for name in ("kornia", "DALI") if not any(way.startswith(name) for way in each)]
    return "".join(f" {name} is not installed here, so its rows are missing." for name in absent)


def about(batch: dict[int, int]) -> str:
    return (
        "Random pairs of DHA's 14 operations, one pair and two magnitudes for every image, drawn and applied to uint8 "
        f"batches ({', '.join(f'{n} images of {side}²' for side, n in batch.items())}). torchvision does the same "
        "operations and magnitudes image by image (the draw not counted; the batch stacked at the end; on the CPU, "
        "where no GPU is named). Its RandAugment and kornia's cannot draw per image: they take two operations for the "
        "whole batch (n=2, m=15), the lighter task; kornia's without Identity and on float images converted "
        "beforehand. DALI's draws two operations per image.\n\n"
    )


def section(device: torch.device, repeats: int) -> str:
    """Markdown: images/s at three sizes, one CPU thread or one GPU."""
    found = measured(device, repeats, BATCH)
    said = missing(next(iter(found.values())))
    return f"## augment\n\n{about(BATCH)}{table_of(found)}\n\nn = {repeats} rounds.{said}\n\n" + by_operation(
        device, repeats
    )


def by_operation(device: torch.device, repeats: int, side: int = 224, n: int = 24) -> str:
    """Markdown: µs an image of each operation, beside the passes over memory that torch needs for it."""
    g = generator(0, "by operation", device)
    images = torch.nn.functional.avg_pool2d(torch.rand(n, 3, side, side, generator=g, device=device) * 255, 5, 1, 2).to(
        torch.uint8
    )
    magnitude, sign = (
        torch.rand(n, generator=g, device=device) * 10,
        torch.rand(n, generator=g, device=device).sub(0.5).sign(),
    )
    tensors = [image.clone() for image in images.cpu()]
    kinds = {"torchvision, tensors": tensors, "torchvision, PIL": [v2.ToPILImage()(image) for image in tensors]}
    floats, policy, center = images.float(), Plain(Basics(), g), torch.zeros(n, 1, 2, device=device)
    rows = []
    for name in OPS:
        draw = Draw(
            torch.full((n, 1), operations().index(name), device=device), magnitude[:, None], sign[:, None], center
        )
        things = {"kit": lambda draw=draw: policy.apply(images, draw)} | {
            kind: (
                lambda name=name, held=held: [
                    single(x, name, m, s, side) for x, m, s in zip(held, magnitude.tolist(), sign.tolist())
                ]
            )
            for kind, held in kinds.items()
        }
        times = common.alternately(things, repeats, device)
        rows.append((name, *(f"{1e6 * common.median(found) / n:.0f}" for found in times.values())))
    passes = common.alternately(
        {
            "uint8 → float32": lambda: images.float(),
            "float32 · number": lambda: floats * 0.9,
            "float32 → int16": lambda: floats.short(),
            "gather by int64": lambda: images.flatten(2).gather(2, images.flatten(2).long()),
        },
        repeats,
        device,
    )
    listed = ", ".join(f"{name} {1e6 * common.median(found) / n:.0f} µs" for name, found in passes.items())
    return (
        f"### Where the time goes at {side}²\n\nµs an image, one operation for {n} images, each with its own "
        f"magnitude. One pass of torch over an image: {listed}. "
        "PIL fuses an operation's passes into one in C, which eager torch cannot.\n\n"
        + common.table(("operation", *things), rows)
        + f"\n\nn = {repeats} rounds.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    torch.set_num_threads(1)
    print(section(pick_device(a.device), a.repeats))


if __name__ == "__main__":
    main()
