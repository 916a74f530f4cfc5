"""The fixed policies against torchvision: AutoAugment's table, how often operations are applied, and TrivialAugment's
wide ranges.
"""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from kit import augment
from kit.augment import OPS, Draw, operations

GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
EXACT = ("AutoContrast", "Equalize", "Posterize", "Identity", "Invert", "TranslateX", "TranslateY")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(side: int, n: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), generator=stream(3), dtype=torch.uint8)


def by_torchvision(transform: v2.Transform, image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    return transform._apply_image_or_video_transform(
        image, name, magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={torch.Tensor: None}
    )


def by_kit(policy: augment.Policy, images: torch.Tensor, name: str, magnitude: float, sign: float) -> torch.Tensor:
    n = len(images)
    draw = Draw(
        torch.full((n, 1), operations().index(name)),
        torch.full((n, 1), magnitude),
        torch.full((n, 1), sign),
        torch.zeros(n, 1, 2),
    )
    return policy.apply(images, draw)


def assert_same_picture(
    name: str, ours: torch.Tensor, theirs: torch.Tensor, where: str, threshold: float | None = None, original=None
) -> None:
    """To the pixel, but for what float32 rounds either way: a threshold on a grey level, a pixel on the edge of two
    cells, a truncation.
    """
    if name in EXACT:
        assert torch.equal(ours, theirs), where
    elif name in GEOMETRIC:
        assert float((ours != theirs).any(0).float().mean()) < 0.01, where
    elif name == "Solarize":
        assert torch.equal(*(torch.where((original.float() - threshold).abs() < 1e-3, 0, x) for x in (ours, theirs))), (
            where
        )
    else:
        # a factor of 0.4 puts every fifth level on a whole number, which truncation takes either way
        assert int((ours.int() - theirs.int()).abs().max()) <= 1 and float((ours != theirs).float().mean()) < 0.25, (
            where
        )


def test_every_entry_of_the_table_makes_torchvisions_picture():
    transform, policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), augment.build("autoaugment", stream(), (32, 32))
    policy.basics = augment.Basics()
    image = some_images(32)
    for pair, ops, magnitudes in zip(transform._policies, policy.ops, policy.magnitude):
        for (name, _, level), op, magnitude in zip(pair, ops, magnitudes):
            assert operations()[int(op)] == name
            values, signed = transform._AUGMENTATION_SPACE[name]
            values = values(10, 32, 32)
            theirs = 0.0 if values is None else float(values[level])
            for sign in (1.0, -1.0):
                expected = by_torchvision(transform, image[0], name, sign * theirs if signed else theirs)
                got = by_kit(policy, image, name, float(magnitude), sign)[0]
                assert_same_picture(name, got, expected, f"{name} {level} {sign}", 255 * theirs, image[0])


def test_autoaugment_applies_each_operation_with_its_own_probability():
    policy, n = augment.build("autoaugment", stream(5), (8, 8)), 50_000
    draw = policy.sample(n)
    # the expected share of (first operation, second operation), Identity where one is not applied
    expected: dict[tuple[str, str], float] = {}
    for (a, p, _), (b, q, _) in v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies:
        for first, chance in ((a, p), ("Identity", 1 - p)):
            for second, other in ((b, q), ("Identity", 1 - q)):
                expected[first, second] = expected.get((first, second), 0.0) + chance * other / 25
    counts = {pair: 0 for pair in expected}
    for a, b in draw.ops.tolist():
        counts[operations()[a], operations()[b]] += 1
    assert all(counts[pair] == 0 for pair, chance in expected.items() if chance == 0)
    pairs = [pair for pair, chance in expected.items() if chance > 0]
    assert stats.chisquare([counts[p] for p in pairs], [expected[p] * n for p in pairs]).pvalue > 1e-3


def test_randaugment_draws_two_of_fourteen_at_nine_of_thirty():
    draw = augment.build("randaugment", stream(5), (8, 8)).sample(20_000)
    assert draw.ops.shape == (20_000, 2) and (draw.magnitude == 10 * 9 / 30).all()
    joint = torch.bincount(draw.ops[:, 0] * 14 + draw.ops[:, 1], minlength=196)
    assert len(joint) == 196 and stats.chisquare(joint.numpy()).pvalue > 1e-3


def test_randaugment_makes_torchvisions_pictures():
    transform, policy, image = v2.RandAugment(), augment.build("none", stream(), (32, 32)), some_images(32)
    assert set(transform._AUGMENTATION_SPACE) == set(OPS)
    for name, (values, signed) in transform._AUGMENTATION_SPACE.items():
        values = values(transform.num_magnitude_bins, 32, 32)
        theirs = 0.0 if values is None else float(values[transform.magnitude])
        for sign in (1.0, -1.0):
            expected = by_torchvision(transform, image[0], name, sign * theirs if signed else theirs)
            assert_same_picture(
                name, by_kit(policy, image, name, 3.0, sign)[0], expected, f"{name} {sign}", 255 * theirs, image[0]
            )


def test_trivialaugment_draws_one_of_fourteen_on_31_levels():
    policy = augment.build("trivialaugment", stream(5), (8, 8))
    draw = policy.sample(30_000)
    assert draw.ops.shape == (30_000, 1)
    levels = (draw.magnitude / policy.wide[draw.ops] * 3).round().long()
    joint = torch.bincount((draw.ops * 31 + levels).flatten(), minlength=14 * 31)
    assert len(joint) == 14 * 31 and stats.chisquare(joint.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("side", [32, 48])
def test_trivialaugments_wide_ranges_are_torchvisions(name: str, side: int):
    """Rotations to 135°, shears to 0.99, two bits, translations by 32 pixels: every level, both signs, in one batch
    with others.
    """
    transform, policy = v2.TrivialAugmentWide(), augment.build("trivialaugment", stream(), (side, side))
    policy.basics = augment.Basics()
    values, signed = transform._AUGMENTATION_SPACE[name]
    values, wide = values(31, side, side), policy.wide[OPS.index(name)]
    image = some_images(side, n=2)  # a neighbour, of which nothing may show
    for level in range(0, 31, 1 if name.startswith("Translate") else 3):
        magnitude = float((torch.tensor([level]) / 3 * wide)[0])  # as `sample` computes it
        theirs = (
            0.0 if values is None else round(float(values[level]), 4)
        )  # float32 makes 15.999999 pixels of torchvision's 16
        for sign in (1.0, -1.0):
            expected = by_torchvision(transform, image[0], name, sign * theirs if signed else theirs)
            got = by_kit(policy, image, name, magnitude, sign)[0]
            assert_same_picture(name, got, expected, f"{name} level {level} sign {sign}", 255 * theirs, image[0])


@pytest.mark.parametrize("side", [8, 28])
def test_on_small_images_trivialaugment_translates_by_the_whole_side_at_most(side: int):
    """torchvision's 32 pixels leave nothing of an 8-pixel image from a quarter of the range on: here the side is the
    range.
    """
    policy = augment.build("trivialaugment", stream(), (side, side))
    policy.basics = augment.Basics()
    image = some_images(side, n=2) | 1
    for name, axis in (("TranslateX", 2), ("TranslateY", 1)):
        for level in range(31):
            magnitude = float((torch.tensor([level]) / 3 * policy.wide[OPS.index(name)])[0])
            pixels = level * side // 30
            for sign in (1, -1):
                got, expected = by_kit(policy, image, name, magnitude, float(sign))[0], torch.zeros_like(image[0])
                if pixels < side:
                    source = image[0].narrow(axis, 0 if sign > 0 else pixels, side - pixels)
                    expected.narrow(axis, pixels if sign > 0 else 0, side - pixels).copy_(source)
                assert torch.equal(got, expected), (name, level, sign)
