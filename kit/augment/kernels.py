"""The arithmetic of the image transformations: pointwise values, geometry, blends. Batched, no loop over images.

Each gives the pixels of torchvision's functional operations on uint8 tensors: the order of roundings matters and is
theirs. `ops.py` decides
which samples go through which of these.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Draw(NamedTuple):
    """Parameters of n samples, float64 so that they round as Python's numbers do: [n], [n], [n, 2]."""

    magnitude: Tensor
    sign: Tensor
    center: Tensor

    def take(self, index) -> "Draw":
        return Draw(*(t[index] for t in self))


# ------------- pointwise: uint8 values for float32 levels [1, 1, 256] (a table) or [n, C, H*W] (the pixels themselves)


def levels_of(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device, dtype=torch.float32).view(1, 1, 256)


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    return tables.gather(2, images.flatten(2).long()).view(images.shape)


def _column(values: Tensor) -> Tensor:
    return values.float()[:, None, None]


def _factor(draw: Draw) -> Tensor:
    return 1.0 + draw.sign * (0.9 * draw.magnitude / 10)


def _gray(pixels: Tensor) -> Tensor:
    """Whole gray levels, float32 [n, 1, H*W], of float32 [n, 1 or 3, H*W]."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _add_scaled(values: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """values + factor[n] · others in place, product and sum rounded together. values [n, …], others broadcasts against
    it.
    """
    if values.device.type == "cpu" and values[0].numel() > 2**12:
        # addcmul with a factor per image is not vectorised; add with one number is, and pays from some thousand pixels
        # on
        for own, other, alpha in zip(values, others, factor.tolist()):
            own.add_(other, alpha=alpha)
        return values
    return values.addcmul_(others, factor.view(-1, *[1] * (values.ndim - 1)))


def _to_uint8(values: Tensor) -> Tensor:
    """Truncated and clamped to [0, 255]."""
    # by way of int16, which is vectorised on the CPU: float32 -> uint8 is not, and takes twice as long
    return values.to(torch.int16).clamp_(0, 255).to(torch.uint8)


def _autocontrast(levels: Tensor, images: Tensor, draw: Draw) -> Tensor:
    pixels = images.flatten(2)
    low, high = pixels.amin(2, keepdim=True).float(), pixels.amax(2, keepdim=True).float()
    flat = high == low
    scale = torch.where(flat, 1.0, (high - low) * (1.0 / 255))
    return _to_uint8((levels - torch.where(flat, 0.0, low)).div_(scale))


def _histogram(images: Tensor) -> Tensor:
    planes = images.flatten(2)
    bins = 256 * planes.shape[0] * planes.shape[1]
    offset = torch.arange(0, bins, 256, device=images.device, dtype=torch.int32).view(*planes.shape[:2], 1)
    index = planes.int().add_(offset).flatten()
    if images.device.type == "cpu":
        counts = torch.bincount(index, minlength=bins)
    else:  # bincount would ask the device for the largest index
        counts = torch.zeros(bins, device=images.device, dtype=torch.int64)
        counts.scatter_add_(0, index.long(), counts.new_ones(1).expand(index.shape))
    return counts.view(*planes.shape[:2], 256)


def _equalize(levels: Tensor, images: Tensor, draw: Draw) -> Tensor:
    # PIL's rule: one output level per `step` pixels, not counting those of the brightest level present.
    counts = _histogram(images)
    cumulative = counts.cumsum(2)
    total = images.shape[2] * images.shape[3]
    step = torch.where(cumulative < total, cumulative, 0).amax(2, keepdim=True) // 255
    table = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step == 0, levels, table).to(torch.uint8)


def _posterize(levels: Tensor, images: Tensor, draw: Draw) -> Tensor:
    step = _column(1 << (4 * draw.magnitude / 10).round().int())
    return _to_uint8((levels / step).floor_().mul_(step))


def _solarize(levels: Tensor, images: Tensor, draw: Draw) -> Tensor:
    return torch.where(levels >= _column(255 * (1 - draw.magnitude / 10)), 255 - levels, levels).to(torch.uint8)


def _contrast(levels: Tensor, images: Tensor, draw: Draw) -> Tensor:
    gray = _gray(images.flatten(2).float()).view(len(images), *images.shape[2:])
    # Whole numbers: float32 is exact along a row, float64 over the image, whatever the order of summation.
    mean = gray.sum(2).double().sum(1).div_(gray[0].numel())
    # addcmul rounds product and sum together, as torch's add(alpha=...) does in torchvision; but where that add meets a
    # single number, it rounds twice in an image's last numel() % 16 values: there torchvision may be one level off.
    return _to_uint8((levels * _column(_factor(draw))).addcmul_(_column(mean), _column(1 - _factor(draw))))


POINTWISE = {
    "AutoContrast": _autocontrast,
    "Posterize": _posterize,
    "Contrast": _contrast,
    "Brightness": lambda levels, images, draw: _to_uint8(levels * _column(_factor(draw))),
    "Equalize": _equalize,
    "Solarize": _solarize,
    "Invert": lambda levels, images, draw: (255 - levels).to(torch.uint8),
}
# Half the time of a gather on the CPU, whose int64 indices are 8 times the images.
CHEAP_ON_PIXELS = ("AutoContrast", "Brightness")


def _posterize_bits(images: Tensor, draw: Draw) -> Tensor:
    kept = (255 << (4 * draw.magnitude / 10).round().int().clamp_(max=8)) & 255
    return images & kept.to(torch.uint8)[:, None, None, None]


def _solarize_bits(images: Tensor, draw: Draw) -> Tensor:
    # the sign of int16 differences stands for the comparison, which on uint8 is not vectorised on the CPU
    threshold = (255 * (1 - draw.magnitude / 10)).float().ceil().clamp_(min=0).short()[:, None, None, None]
    values = images.short()
    below = (values - threshold).bitwise_right_shift_(15)
    return values.bitwise_xor_(below.bitwise_not_().bitwise_and_(255)).to(torch.uint8)


# the same pixels as by POINTWISE's tables, from whole bytes: a tenth of the time
BITWISE = {"Posterize": _posterize_bits, "Solarize": _solarize_bits, "Invert": lambda images, draw: images ^ 255}


# ---------------------------- geometry: float64 [n, 2, 3] from output to source, both in pixels from the image's middle


def matrix_of(like: Tensor, xx=1.0, xy=0.0, x=0.0, yx=0.0, yy=1.0, y=0.0) -> Tensor:
    entries = [v if isinstance(v, Tensor) else torch.full_like(like, v) for v in (xx, xy, x, yx, yy, y)]
    return torch.stack(entries, 1).view(-1, 2, 3)


def _rotation(draw: Draw, height: int, width: int) -> Tensor:
    # Here and below the operations and their order are torchvision's, for the sake of the last bit.
    angle = torch.deg2rad(-torch.remainder(draw.sign * (30.0 * draw.magnitude / 10), 360))
    return matrix_of(angle, xx=angle.cos(), xy=angle.sin(), yx=-angle.sin(), yy=angle.cos())


def _shear_angle(draw: Draw) -> Tensor:
    return torch.deg2rad(torch.rad2deg(torch.atan(draw.sign * (0.3 * draw.magnitude / 10))))


def _shear_x(draw: Draw, height: int, width: int) -> Tensor:
    slope = _shear_angle(draw).tan()
    return matrix_of(slope, xy=slope, x=slope * (0.5 * height))


def _shear_y(draw: Draw, height: int, width: int) -> Tensor:
    slope = _shear_angle(draw).sin() / _shear_angle(draw).cos()
    return matrix_of(slope, yx=slope, y=(slope * (0.5 * width) - 0.5 * height) + 0.5 * height)


def _shift_pixels(draw: Draw, side: int) -> Tensor:
    return draw.sign * (150.0 / 331.0 * side * draw.magnitude / 10).floor()


MATRICES = {
    "Rotate": _rotation,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": lambda draw, height, width: matrix_of(draw.sign, x=-_shift_pixels(draw, width)),
    "TranslateY": lambda draw, height, width: matrix_of(draw.sign, y=-_shift_pixels(draw, height)),
}


def _source(coefficients: Tensor, x: Tensor, y: Tensor, side: int) -> Tensor:
    """Nearest source column (or row) of every output pixel, float32 [n, H, W]; -1 or `side` is outside the image."""
    # A float64 quotient rounds to the float32 one; in float32 CUDA would multiply by the reciprocal.
    to_x, to_y, constant = (coefficients.float().double() / (0.5 * side)).float()[:, :, None, None].unbind(1)
    grid = (x * to_x + y * to_y).add_(constant)
    return grid.add_(1).mul_(0.5 * side).sub_(0.5).round_().clamp_(-1, side)


def warp(images: Tensor, matrix: Tensor, columns: bool = True, rows: bool = True) -> Tensor:
    """columns, rows: False where the matrices leave that coordinate as it is."""
    n, channels, height, width = images.shape
    x = torch.arange(width, device=images.device) - 0.5 * (width - 1)
    y = (torch.arange(height, device=images.device) - 0.5 * (height - 1))[:, None]
    column = _source(matrix[:, 0], x, y, width) if columns else (x + 0.5 * (width - 1)).expand(n, 1, width)
    row = _source(matrix[:, 1], x, y, height) if rows else (y + 0.5 * (height - 1)).expand(n, height, 1)
    # A border of zeros stands for the outside: cheaper than comparing every coordinate with both ends.
    # By way of int32, which is vectorised on the CPU.
    index = (row * (width + 2)).add(column).add_(width + 3).int().long().view(n, 1, -1)
    return pad(images, (1, 1, 1, 1)).flatten(2).gather(2, index.expand(-1, channels, -1)).view(images.shape)


# what a matrix moves, of the operations that move one coordinate
ONE_WAY = {"ShearX": {"rows": False}, "ShearY": {"columns": False}}

# translations, which need no warp
SHIFTED = ("TranslateX", "TranslateY")


def shift(images: Tensor, name: str, draw: Draw) -> Tensor:
    """A translation as a copy of whole rows from zero-padded images: 5 times cheaper than the warp."""
    n, channels, height, width = images.shape
    along_x = name == "TranslateX"
    side = width if along_x else height
    # wide magnitudes may push an image out altogether: zeros as far as the batch's largest shift, the whole side at
    # most
    pixels = _shift_pixels(draw, side).long().clamp(-side, side)
    margin = int(pixels.abs().amax())
    padded = pad(images, (margin, margin, 0, 0) if along_x else (0, 0, margin, margin))
    stride = padded.shape[3]
    first = (margin - pixels) * (1 if along_x else stride)
    plane = torch.arange(n * channels, device=images.device).view(n, channels, 1) * padded[0, 0].numel()
    starts = plane + first[:, None, None] + torch.arange(height, device=images.device) * stride
    return padded.view(-1).unfold(0, width, 1).index_select(0, starts.flatten()).view(images.shape)


# ----------------------------------------------------------------------------------------------- blends and cutout


def _color(images: Tensor, draw: Draw) -> Tensor:
    if images.shape[1] == 1:
        return images
    pixels, factor = images.flatten(2).float(), _factor(draw)
    gray = _gray(pixels)
    return _to_uint8(_add_scaled(pixels.mul_(_column(factor)), gray, (1 - factor).float())).view(images.shape)


def _sharpness(images: Tensor, draw: Draw) -> Tensor:
    if min(images.shape[2:]) <= 2:
        return images
    values = images.short()
    rows = (values[:, :, :-2] + values[:, :, 1:-1]).add_(values[:, :, 2:])
    total = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])
    center = values[:, :, 1:-1, 1:-1]
    # (8 neighbours + 5 centre) / 13 is never nearer than 1/26 to a half, so any float arithmetic rounds it alike.
    blurred = total.add_(center, alpha=4).float().mul_(1.0 / 13.0).round_()
    inner = center.float()
    inner = _add_scaled(inner, blurred.sub_(inner), (1 - _factor(draw)).float())
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _to_uint8(inner)
    return result


def _cutout(images: Tensor, draw: Draw) -> Tensor:
    length = (60.0 / 331.0 * min(images.shape[2:]) * draw.magnitude / 10).round()[:, None]
    inside = []
    for side, center in zip(images.shape[2:], draw.center[:, :, None].unbind(1)):
        offset = torch.arange(side, device=images.device) - ((center * side).floor() - (length / 2).floor())
        inside.append((offset >= 0) & (offset < length))
    return images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


BLENDS = {"Color": _color, "Sharpness": _sharpness, "Cutout": _cutout}
