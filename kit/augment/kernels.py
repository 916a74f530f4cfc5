"""The arithmetic of kit's image operations, batched, and the table in which operations stand: `OPERATIONS`.

Pixels are those of torchvision's functional operations on uint8 tensors: the order of roundings matters and is theirs.
A magnitude of 10 is the end of AutoAugment's range; where a range goes beyond 10, it goes on linearly. `ops.py` decides
which samples go through which operation.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from kit.registry import Registry


class Parameters(NamedTuple):
    """Of n samples: [n], [n] and [n, 2], in float64 so that they round as Python's numbers do."""

    magnitude: Tensor
    sign: Tensor
    center: Tensor


def _each(values: Tensor) -> Tensor:
    """One number for each image, float32 [n, 1, 1, 1]."""
    return values.float()[:, None, None, None]


def _to_uint8(values: Tensor) -> Tensor:
    """Truncated and clamped to [0, 255]; by way of int16, to which float32 converts faster on the CPU."""
    return values.to(torch.int16).clamp_(0, 255).to(torch.uint8)


# ---- images: (images uint8 [n, C, H, W], parameters) → images


def _factor(p: Parameters) -> Tensor:
    return 1.0 + p.sign * (0.9 * p.magnitude / 10)


def _gray(images: Tensor) -> Tensor:
    """Whole gray levels, float32 [n, 1, H, W], of 1 or 3 channels."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _autocontrast(images: Tensor, p: Parameters) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True).float(), images.amax((2, 3), keepdim=True).float()
    flat = high == low
    scale = torch.where(flat, 1.0, (high - low) * (1.0 / 255))
    return _to_uint8((images - torch.where(flat, 0.0, low)) / scale)


def _equalize(images: Tensor, p: Parameters) -> Tensor:
    pixels = images.flatten(2).long()
    counts = pixels.new_zeros(*pixels.shape[:2], 256).scatter_add_(2, pixels, torch.ones_like(pixels))
    # PIL's rule: one output level per `step` pixels, not counting those of the brightest level present
    cumulative = counts.cumsum(2)
    step = torch.where(cumulative < pixels.shape[2], cumulative, 0).amax(2, keepdim=True) // 255
    table = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step == 0, pixels, table.gather(2, pixels)).to(torch.uint8).view(images.shape)


def _posterize(images: Tensor, p: Parameters) -> Tensor:
    step = _each(1 << (4 * p.magnitude / 10).round().int())
    return _to_uint8((images / step).floor() * step)


def _solarize(images: Tensor, p: Parameters) -> Tensor:
    return torch.where(images >= _each(255 * (1 - p.magnitude / 10)), 255 - images, images)


def _color(images: Tensor, p: Parameters) -> Tensor:
    if images.shape[1] == 1:
        return images
    return _to_uint8((images * _each(_factor(p))).addcmul_(_gray(images), _each(1 - _factor(p))))


def _contrast(images: Tensor, p: Parameters) -> Tensor:
    # Whole numbers: float32 is exact along a row, float64 over the image, whatever the order of summation.
    mean = _gray(images).sum(3).double().sum((1, 2)).div(images[0, 0].numel())
    # addcmul rounds product and sum together, as torch's add(alpha=...) does in torchvision; but where that add meets a
    # single number, it rounds twice in an image's last numel() % 16 values: there torchvision may be one level off.
    return _to_uint8((images * _each(_factor(p))).addcmul(_each(mean), _each(1 - _factor(p))))


def _brightness(images: Tensor, p: Parameters) -> Tensor:
    return _to_uint8(images * _each(_factor(p)))


def _sharpness(images: Tensor, p: Parameters) -> Tensor:
    if min(images.shape[2:]) <= 2:
        return images
    values = images.short()
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    center = values[:, :, 1:-1, 1:-1]
    # (8 neighbours + 5 centre) / 13 is never nearer than 1/26 to a half, so any float arithmetic rounds it alike.
    blurred = total.add_(center, alpha=4).float().mul_(1.0 / 13.0).round_()
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _to_uint8(center.float().addcmul(blurred - center, _each(1 - _factor(p))))
    return result


def square(images: Tensor, center: Tensor, length: Tensor | int) -> Tensor:
    """Whether a pixel lies in the square of `length` ([n, 1]) around `center` [n, 2] in [0, 1): bool [n, 1, H, W]."""
    inside = []
    for side, middle in zip(images.shape[2:], center[:, :, None].unbind(1)):
        offset = torch.arange(side, device=images.device) - ((middle * side).floor() - length // 2)
        inside.append((offset >= 0) & (offset < length))
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]


def _cutout(images: Tensor, p: Parameters) -> Tensor:
    length = (60.0 / 331.0 * min(images.shape[2:]) * p.magnitude / 10).round()[:, None]
    return images * ~square(images, p.center, length)


# ---- matrices: (parameters, height, width) → float64 [n, 2, 3] from output to source, pixels from the image's middle


def matrix_of(like: Tensor, xx=1.0, xy=0.0, x=0.0, yx=0.0, yy=1.0, y=0.0) -> Tensor:
    entries = [v if isinstance(v, Tensor) else torch.full_like(like, v) for v in (xx, xy, x, yx, yy, y)]
    return torch.stack(entries, 1).view(-1, 2, 3)


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Every output pixel takes the nearest source pixel's value, zero where that is outside."""
    n, channels, height, width = images.shape
    x = torch.arange(width, device=images.device) - 0.5 * (width - 1)
    y = (torch.arange(height, device=images.device) - 0.5 * (height - 1))[:, None]
    column, row = _source(matrix[:, 0], x, y, width), _source(matrix[:, 1], x, y, height)
    # A border of zeros stands for the outside: cheaper than comparing every coordinate with both ends.
    index = ((row + 1) * (width + 2) + column + 1).long().view(n, 1, -1)
    return pad(images, (1, 1, 1, 1)).flatten(2).gather(2, index.expand(-1, channels, -1)).view(images.shape)


def _source(coefficients: Tensor, x: Tensor, y: Tensor, side: int) -> Tensor:
    """Nearest source column (or row) of every output pixel, int32 [n, H, W]; -1 or `side` is outside the image."""
    # A float64 quotient rounds to the float32 one; in float32 CUDA would multiply by the reciprocal.
    to_x, to_y, constant = (coefficients.float().double() / (0.5 * side)).float()[:, :, None, None].unbind(1)
    grid = (x * to_x + y * to_y).add_(constant)
    return grid.add_(1).mul_(0.5 * side).sub_(0.5).round_().clamp_(-1, side).int()


def _rotation(p: Parameters, height: int, width: int) -> Tensor:
    # Here and below the operations and their order are torchvision's, for the sake of the last bit.
    angle = torch.deg2rad(-torch.remainder(p.sign * (30.0 * p.magnitude / 10), 360))
    return matrix_of(angle, xx=angle.cos(), xy=angle.sin(), yx=-angle.sin(), yy=angle.cos())


def _shear_angle(p: Parameters) -> Tensor:
    return torch.deg2rad(torch.rad2deg(torch.atan(p.sign * (0.3 * p.magnitude / 10))))


def _shear_x(p: Parameters, height: int, width: int) -> Tensor:
    slope = _shear_angle(p).tan()
    return matrix_of(slope, xy=slope, x=slope * (0.5 * height))


def _shear_y(p: Parameters, height: int, width: int) -> Tensor:
    slope = _shear_angle(p).sin() / _shear_angle(p).cos()
    return matrix_of(slope, yx=slope, y=(slope * (0.5 * width) - 0.5 * height) + 0.5 * height)


def _pixels(p: Parameters, side: int) -> Tensor:
    return p.sign * (150.0 / 331.0 * side * p.magnitude / 10).floor()


# ---- the table -----------------------------------------------------------------------------------

#: Operations in the order of their indices in a draw. A part's settings: geometric (its function gives matrices, see
#: above, else images) and signed (whether it looks at the sign).
OPERATIONS = Registry("augmentation operation")

for _name, _geometric, _signed, _function in (
    ("AutoContrast", False, False, _autocontrast),
    ("Equalize", False, False, _equalize),
    ("Rotate", True, True, _rotation),
    ("Posterize", False, False, _posterize),
    ("Solarize", False, False, _solarize),
    ("Color", False, True, _color),
    ("Contrast", False, True, _contrast),
    ("Brightness", False, True, _brightness),
    ("Sharpness", False, True, _sharpness),
    ("ShearX", True, True, _shear_x),
    ("ShearY", True, True, _shear_y),
    ("TranslateX", True, True, lambda p, height, width: matrix_of(p.sign, x=-_pixels(p, width))),
    ("TranslateY", True, True, lambda p, height, width: matrix_of(p.sign, y=-_pixels(p, height))),
    ("Identity", False, False, lambda images, p: images),
    ("Invert", False, False, lambda images, p: 255 - images),
    ("Cutout", False, False, _cutout),
):
    OPERATIONS.register(_name, geometric=_geometric, signed=_signed)(_function)
