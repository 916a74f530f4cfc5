"""Every operation against torchvision, to the pixel; the fast paths against each other."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as F
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torchvision.transforms.v2.functional import _geometry

from kit.augment import DAAS_OPS, OPERATIONS, OPS, apply_mixed, apply_op, operations

ALL_OPS = operations()[:16]  # kit's own
SIGNED = [name for name in ALL_OPS if OPERATIONS[name].settings["signed"]]

GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
SIZES = [(1, 1), (2, 2), (1, 5), (3, 3), (9, 7), (33, 32)]


def reference(name, image, magnitude, sign=1.0, center=(0.5, 0.5)):
    """torchvision's operation on one image [C, H, W], as its AutoAugment calls it."""
    height, width = image.shape[1:]
    m = float(magnitude)
    factor = 1.0 + sign * (0.9 * m / 10)
    slope = math.degrees(math.atan(sign * (0.3 * m / 10)))

    def affine(translate=(0, 0), shear=(0.0, 0.0), center=None):
        return F.affine(image, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear), center=center)

    calls = {
        "AutoContrast": lambda: F.autocontrast(image),
        "Equalize": lambda: F.equalize(image),
        "Rotate": lambda: F.rotate(image, sign * (30.0 * m / 10)),
        "Posterize": lambda: F.posterize(image, 8 - round(4 * m / 10)),
        "Solarize": lambda: F.solarize(image, 255 * (1 - m / 10)),
        "Color": lambda: F.adjust_saturation(image, factor),
        "Contrast": lambda: F.adjust_contrast(image, factor),
        "Brightness": lambda: F.adjust_brightness(image, factor),
        "Sharpness": lambda: F.adjust_sharpness(image, factor),
        "ShearX": lambda: affine(shear=(slope, 0.0), center=[0, 0]),
        "ShearY": lambda: affine(shear=(0.0, slope), center=[0, 0]),
        "TranslateX": lambda: affine(translate=(int(sign * (150.0 / 331.0 * width * m / 10)), 0)),
        "TranslateY": lambda: affine(translate=(0, int(sign * (150.0 / 331.0 * height * m / 10)))),
        "Identity": lambda: image,
        "Invert": lambda: F.invert(image),
        "Cutout": lambda: cutout(image, m, center),
    }
    return calls[name]()


def cutout(image, magnitude, center):
    image, (height, width) = image.clone(), image.shape[1:]
    side = round(60.0 / 331.0 * min(height, width) * magnitude / 10)
    top, left = math.floor(center[0] * height) - side // 2, math.floor(center[1] * width) - side // 2
    for row in range(max(top, 0), min(top + side, height)):
        for column in range(max(left, 0), min(left + side, width)):
            image[:, row, column] = 0
    return image


def draw_images(n, channels, height, width, seed=0):
    """Full-range, narrow-range, two-valued and constant images in turn."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, channels, height, width), generator=g, dtype=torch.uint8)
    images[1::4] = images[1::4] % 60 + 90
    images[2::4] = (images[2::4] > 200).to(torch.uint8) * 255
    images[3::4] = images[3::4, :, :1, :1]
    return images


def draw(n, seed=0, ops_in=ALL_OPS):
    g = torch.Generator().manual_seed(seed)
    indices = torch.tensor([ALL_OPS.index(name) for name in ops_in])
    return (
        indices[torch.randint(len(indices), (n,), generator=g)],
        torch.rand(n, generator=g) * 10,
        torch.randint(0, 2, (n,), generator=g) * 2.0 - 1,
        torch.rand(n, 2, generator=g),
    )


def blas_rounds_every_product(height, width):
    """Whether torchvision's grid on this machine is the one that `ops` computes (no fused multiply-add in its BLAS)."""
    theta = torch.tensor([[[0.93, 0.31, 0.77], [-0.29, 0.97, -1.3]]])
    grid = _geometry._affine_grid(theta.clone(), width, height, width, height)[0]
    x = torch.arange(width) - 0.5 * (width - 1)
    y = (torch.arange(height) - 0.5 * (height - 1))[:, None]
    rows = theta[0] / torch.tensor([[0.5 * width], [0.5 * height]])
    return all(torch.equal(grid[..., k], (x * r[0] + y * r[1]) + r[2]) for k, r in enumerate(rows))


def assert_alike(name, ours, theirs):
    """Equal to the pixel, save for two places where torchvision's own arithmetic varies with machine or position."""
    if name in GEOMETRIC and not blas_rounds_every_product(*ours.shape[-2:]):
        # Its grid then differs from ours in the last bit: rarely a pixel takes its neighbour's place.
        assert (ours != theirs).double().mean() < 1e-3
        return
    if name == "Contrast":
        # torch adds the mean with two roundings instead of one in the last values of an image (compiled that way).
        size = ours[0].numel()
        exact = size - size % 16
        ours, theirs = ours.flatten(1).int(), theirs.flatten(1).int()
        assert (ours - theirs).abs().max() <= 1
        ours, theirs = ours[:, :exact], theirs[:, :exact]
    assert torch.equal(ours, theirs)


def test_names():
    assert len(OPS) == 14 and len(DAAS_OPS) == 15 and len(ALL_OPS) == 16
    assert OPS[:3] == ("AutoContrast", "Equalize", "Rotate") and OPS[-1] == "Identity"
    assert set(DAAS_OPS) == set(ALL_OPS) - {"Identity"} and set(SIGNED) <= set(OPS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ALL_OPS)
def test_equals_torchvision(name, channels):
    for height, width in SIZES:
        images = draw_images(32, channels, height, width)
        before = images.clone()
        magnitude = torch.tensor([0.0, 3.0, 7.0, 10.0]).repeat_interleave(4).repeat(2)
        sign = torch.tensor([1.0, -1.0]).repeat_interleave(16)
        out = apply_op(name, images, magnitude, sign)
        expected = torch.stack([reference(name, *sample) for sample in zip(images, magnitude, sign.tolist())])
        assert out.dtype == torch.uint8 and out.shape == images.shape
        assert out.data_ptr() != images.data_ptr() and torch.equal(images, before)
        assert_alike(name, out, expected)


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("size, n", [((33, 32), 300), ((97, 131), 30)])
def test_geometry_at_random_magnitudes(name, size, n):
    # Every pixel is its own position, so that any wrong source shows.
    height, width = size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, rows * 7 + columns * 3]).add(1).to(torch.uint8)
    _, magnitude, sign, _ = draw(n, seed=len(name) + height)
    out = apply_op(name, image.expand(n, -1, -1, -1), magnitude, sign)
    expected = torch.stack([reference(name, image, m, s) for m, s in zip(magnitude, sign.tolist())])
    assert_alike(name, out, expected)


@pytest.mark.parametrize("name", ["Solarize", "Color", "Contrast", "Brightness", "Sharpness", "Posterize"])
def test_colour_at_random_magnitudes(name):
    for channels, (height, width) in ((3, (20, 20)), (1, (16, 24)), (1, (13, 17))):
        images = draw_images(600, channels, height, width, seed=3)
        _, magnitude, sign, _ = draw(600, seed=4)
        magnitude[:300] = magnitude[:300].round()
        out = apply_op(name, images, magnitude, sign)
        expected = torch.stack([reference(name, *sample) for sample in zip(images, magnitude, sign.tolist())])
        assert_alike(name, out, expected)


def test_cutout_at_random_centres():
    images = draw_images(200, 3, 19, 31)
    _, magnitude, _, center = draw(200)
    center[:4] = torch.tensor([[0.0, 0.0], [0.0, 0.999], [0.999, 0.0], [0.999, 0.999]])
    expected = torch.stack([cutout(i, float(m), c.tolist()) for i, m, c in zip(images, magnitude, center)])
    assert torch.equal(apply_op("Cutout", images, magnitude, center=center), expected)
    assert not torch.equal(expected, images)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("channels, height, width", [(1, 1, 1), (3, 2, 9), (1, 9, 7), (3, 33, 32), (3, 32, 32)])
def test_mixed_equals_single(channels, height, width, grouped):
    images = draw_images(320, channels, height, width)
    before = images.clone()
    index, magnitude, sign, center = draw(320)
    out = apply_mixed(images, index, magnitude, sign, center, grouped=grouped)
    for i, name in enumerate(ALL_OPS):
        own = index == i
        assert own.any()
        assert torch.equal(out[own], apply_op(name, images[own], magnitude[own], sign[own], center[own])), name
    assert out.dtype == torch.uint8 and out.is_contiguous() and torch.equal(images, before)


@pytest.mark.parametrize("grouped", [True, False])
def test_layouts_defaults_and_empty_batches(grouped):
    images = draw_images(64, 3, 10, 12)
    index, magnitude, sign, center = draw(64)
    expected = apply_mixed(images, index, magnitude, sign, center)
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(apply_mixed(last, index, magnitude, sign, center, grouped=grouped), expected)
    assert torch.equal(
        apply_mixed(images, index, 4.0, grouped=grouped),
        apply_mixed(images, index, torch.full((64,), 4.0), torch.ones(64), torch.full((64, 2), 0.5)),
    )
    none = apply_mixed(images[:0], index[:0], magnitude[:0], grouped=grouped)
    assert none.shape == (0, 3, 10, 12) and apply_op("Equalize", images[:0], 3.0).shape == none.shape
    strided = apply_op("Rotate", images[:, :, ::2, 1::2], 5.0)
    assert torch.equal(strided, apply_op("Rotate", images[:, :, ::2, 1::2].contiguous(), 5.0))


def test_other_channel_counts():
    images = draw_images(8, 4, 9, 9)
    for name in ALL_OPS:
        if name in ("Color", "Contrast"):
            with pytest.raises(ValueError, match="C = 1 or 3 .* got C = 4"):
                apply_op(name, images, 5.0)
        else:
            single = [apply_op(name, images[:, c : c + 1], 5.0) for c in range(4)]
            assert torch.equal(apply_op(name, images, 5.0), torch.cat(single, 1)), name
    with pytest.raises(ValueError, match="C = 1 or 3"):
        apply_mixed(images, torch.zeros(8, dtype=torch.int64), 5.0)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            ("rotat", None, 1.0),
            ValueError,
            r"unknown .* 'rotat'. Did you mean 'Rotate'\? Valid: Rotate, ",
        ),
        (("Rotate", torch.zeros(2, 3, 4, 4), 1.0), TypeError, "uint8 tensor .* got a torch.float32"),
        (("Rotate", "photo.png", 1.0), TypeError, "uint8 tensor .* got str 'photo.png'"),
        (("Rotate", torch.zeros(3, 4, 4, dtype=torch.uint8), 1.0), TypeError, r"of shape \[3, 4, 4\]"),
        (("Rotate", None, torch.tensor([1.0, 11.0])), ValueError, r"magnitude must be in \[0, 10\]; sample 1 has 11.0"),
        (("Rotate", None, float("nan")), ValueError, "magnitude must be .* has nan"),
        (("Rotate", None, -0.5), ValueError, "magnitude must be"),
        (("Rotate", None, torch.ones(3)), TypeError, r"magnitude must be a real tensor \[2\] .*of shape \[3\]"),
        (("Rotate", None, "5"), TypeError, "magnitude must be a real tensor .* got str"),
        (("Rotate", None, 1.0, torch.tensor([1.0, 0.0])), ValueError, r"sign must be \+1 or -1; sample 1 has 0.0"),
        (("Cutout", None, 1.0, None, torch.tensor([[0.5, 0.5], [0.1, 1.0]])), ValueError, "center must be .* sample 1"),
    ],
)
def test_errors_of_apply_op(arguments, error, message):
    name, images, *rest = arguments
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8) if images is None else images
    with pytest.raises(error, match=message):
        apply_op(name, images, *rest)


@pytest.mark.parametrize("grouped", [True, False])
def test_errors_of_apply_mixed(grouped):
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(TypeError, match="int64 tensor .* got a torch.float32 tensor"):
        apply_mixed(images, torch.zeros(2), 1.0, grouped=grouped)
    with pytest.raises(ValueError, match="sample 1 has 99"):
        apply_mixed(images, torch.tensor([0, 99]), 1.0, grouped=grouped)
    with pytest.raises(TypeError, match=r"ops must be an int64 tensor \[2\].*of shape \[1\]"):
        apply_mixed(images, torch.tensor([0]), 1.0, grouped=grouped)


def test_masked_path_never_looks_at_values():
    # Fake CUDA tensors have no values: whatever would wait for the device raises, on a machine without one as well.
    with FakeTensorMode():
        images = torch.empty(8, 3, 16, 12, dtype=torch.uint8, device="cuda")
        index = torch.zeros(8, dtype=torch.int64, device="cuda")
        out = apply_mixed(images, index, torch.rand(8, device="cuda"), None, torch.rand(8, 2, device="cuda"))
        assert out.shape == images.shape and out.dtype == torch.uint8 and out.device.type == "cuda"
        with pytest.raises(DynamicOutputShapeException):
            apply_mixed(images, index, 5.0, grouped=True)


@pytest.mark.parametrize("name", [name for name in ALL_OPS if name not in ("Identity", "Cutout")])
@pytest.mark.parametrize("size", [(97, 131)], ids=str)
def test_large_images_are_torchvisions_too(name, size):
    images = draw_images(4, 3, *size, seed=3)
    _, magnitude, sign, _ = draw(4, seed=5)
    theirs = torch.stack(
        [
            reference(name, image, m, s)
            for image, m, s in zip(images, magnitude, sign.tolist() if name in SIGNED else [1.0] * 4)
        ]
    )
    assert_alike(name, apply_op(name, images, magnitude, sign), theirs)
