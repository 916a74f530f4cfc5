"""Image operations on uint8 batches, every sample with its own operation, magnitude and sign: `OPERATIONS`.

Ranges are AutoAugment's as torchvision uses them, a magnitude of 10 their end; beyond it they go on linearly. Pixels,
and so the order of roundings, are those of `torchvision.transforms.v2.functional` on uint8 tensors. Grids are float32,
one rounding per operation, the same on every device; torchvision takes them from the machine's BLAS, which may round a
pixel on the edge of two cells the other way."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from kit.errors import KitError
from kit.registry import Part, Registry

WIDEST = 60  # the largest magnitude of a batch: 10 is the papers' range, TrivialAugment's reach 45


class Parameters(NamedTuple):
    """Of n samples, in float64 so that they round as Python's numbers do."""

    magnitude: Tensor  # [n]
    sign: Tensor  # [n]
    center: Tensor  # [n, 2]


def _each(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None]  # one number for each image


def _to_uint8(values: Tensor) -> Tensor:
    return values.to(torch.int16).clamp_(0, 255).to(torch.uint8)  # float32 converts faster to int16 on the CPU


# ---- images: (images uint8 [n, C, H, W], parameters) → images


def _factor(p: Parameters) -> Tensor:
    return 1.0 + p.sign * (0.9 * p.magnitude / 10)


def _gray(images: Tensor) -> Tensor:
    """Whole gray levels, float32 [n, 1, H, W]."""
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
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, pixels, counts.new_ones(()).expand_as(pixels))
    # PIL's rule: one output level per `step` pixels, not counting those of the brightest level present
    cumulative = counts.cumsum(2)
    step = torch.where(cumulative < pixels.shape[2], cumulative, 0).amax(2, keepdim=True) // 255
    table = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table).to(torch.uint8)
    return table.gather(2, pixels).view(images.shape)


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
    # addcmul rounds product and sum together, as torchvision's add(alpha=...) does; but that rounds twice in an image's
    # last numel() % 16 values, and may be one level off there.
    return _to_uint8((images * _each(_factor(p))).addcmul(_each(mean), _each(1 - _factor(p))))


def _brightness(images: Tensor, p: Parameters) -> Tensor:
    return _to_uint8(images * _each(_factor(p)))


def _sharpness(images: Tensor, p: Parameters) -> Tensor:
    if min(images.shape[2:]) <= 2:
        return images
    values = images.short()
    rows, center = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:], values[:, :, 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
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
    # here and below the operations and their order are torchvision's, for the sake of the last bit
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

OPS = tuple(OPERATIONS)[:14]  # DHA's and DiffAutoML's
DAAS_OPS = (*OPS[:13], "Invert", "Cutout")


def operations() -> tuple[str, ...]:
    """The names of all operations, in the order of the indices in a draw."""
    return tuple(OPERATIONS)


def register_operation(name: str, *, signed: bool = False, title: str = "") -> Callable:
    """A decorator that makes a function an operation by name, on every device and beside kit's own.

    The function gets images uint8 [N, C, H, W], magnitude float32 [N] in [0, 10] and sign float32 [N] of ±1 (+1 if not
    `signed`), all on one device, and returns uint8 [N, C, H, W]. Each image must depend on its own row alone."""

    def add(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable:
        @functools.wraps(function)
        def apply(images: Tensor, p: Parameters) -> Tensor:
            magnitude, sign = p.magnitude.clamp(max=10).float(), p.sign.float()
            done = function(images.clone(), magnitude, sign if signed else torch.ones_like(sign))
            if not isinstance(done, Tensor) or done.dtype != torch.uint8 or done.shape != images.shape:
                raise KitError(f"operation {name!r} must return uint8 {list(images.shape)}, got {kind_of(done)}")
            return done

        OPERATIONS.register(name, title=title, geometric=False, signed=signed)(apply)
        return function

    return add


def apply_op(name: str, images: Tensor, magnitude, sign=None, center=None) -> Tensor:
    """One operation on a whole batch, each sample with its own parameters: uint8 [N, C, H, W], a new tensor.

    name: one of `operations()`. Color and Contrast need C = 1 or 3. magnitude: [N] or one number, in [0, 10]; 10 is
    shear 0.3, 150/331 of the side for translations, 30 degrees, factor 1 ± 0.9, 4 bits, solarize threshold 0, a square
    cutout of 60/331 of the shorter side. sign: [N] of ±1, None for +1. center: [N, 2] (row, column) in [0, 1), of
    Cutout, None for the middle. Raises TypeError or ValueError; on a GPU values are not looked at."""
    part = OPERATIONS[name]
    parameters = _checked(images, magnitude, sign, center, largest=10, channels=name in ("Color", "Contrast"))
    images = images.clone(memory_format=torch.contiguous_format)
    return _apply(part, images, parameters) if images.numel() else images


def apply_mixed(images: Tensor, ops: Tensor, magnitude, sign=None, center=None, *, grouped=None) -> Tensor:
    """Sample n goes through operation operations()[ops[n]]; the same pixels as `apply_op` sample by sample.

    images: uint8 [N, C, H, W], C = 1 or 3. ops: int64 [N]. The others, and what is raised: as for `apply_op`, but
    magnitudes may go on to 60. grouped: True computes each operation for its own samples, but waits for the device;
    False computes all for all samples, and never waits; None is True on the CPU, False elsewhere."""
    parameters = _checked(images, magnitude, sign, center, largest=WIDEST, channels=True)
    if not isinstance(ops, Tensor) or ops.dtype != torch.int64 or ops.shape != images.shape[:1]:
        raise TypeError(f"ops must be an int64 tensor [{len(images)}] of indices into operations(), got {kind_of(ops)}")
    on_cpu, last = images.device.type == "cpu", len(OPERATIONS) - 1
    if on_cpu:
        _check_values("ops", ops, (ops >= 0) & (ops <= last), f"indices into operations(), 0 to {last}")
    if images.numel() == 0:
        return images.clone()
    apply = _apply_grouped if grouped or grouped is None and on_cpu else _apply_masked
    return apply(images.contiguous(), ops, parameters)


def _apply(part: Part, images: Tensor, p: Parameters) -> Tensor:
    return warp(images, part.make(p, *images.shape[2:])) if part.settings["geometric"] else part.make(images, p)


def _apply_grouped(images: Tensor, ops: Tensor, p: Parameters) -> Tensor:
    parts, done = list(OPERATIONS.values()), torch.empty_like(images)
    for index in ops.unique().tolist():
        rows = (ops == index).nonzero().squeeze(1)
        done[rows] = _apply(parts[index], images[rows], Parameters(*(t[rows] for t in p)))
    return done


def _apply_masked(images: Tensor, ops: Tensor, p: Parameters) -> Tensor:
    """All matrices are merged into one, so that the batch is warped once."""
    done, matrix = images, matrix_of(p.magnitude)
    for index, part in enumerate(OPERATIONS.values()):
        chosen = (ops == index)[:, None, None]
        if part.settings["geometric"]:
            matrix = torch.where(chosen, part.make(p, *images.shape[2:]), matrix)
        else:
            done = torch.where(chosen[..., None], part.make(images, p), done)
    return warp(done, matrix)


def _checked(images: Tensor, magnitude, sign, center, *, largest: int, channels: bool) -> Parameters:
    """The parameters as float64 on the images' device. channels: whether there have to be 1 or 3."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f"images must be a uint8 tensor [N, C, H, W], got {kind_of(images)}")
    if channels and images.shape[1] not in (1, 3):
        raise ValueError(f"images must have C = 1 or 3 channels where colours are mixed, got C = {images.shape[1]}")
    n, given = len(images), (magnitude, 1 if sign is None else sign, 0.5 if center is None else center)
    parameters = []
    for name, shape, values in zip(Parameters._fields, ((n,), (n,), (n, 2)), given):
        if isinstance(values, (int, float)):
            values = torch.full(shape, float(values), dtype=torch.float64, device=images.device)
        if not isinstance(values, Tensor) or values.shape != shape:
            raise TypeError(f"{name} must be a real tensor {list(shape)} or one number, got {kind_of(values)}")
        parameters.append(values.detach().double())
    if images.device.type == "cpu":
        m, s, c = parameters
        _check_values("magnitude", m, (m >= 0) & (m <= largest), f"in [0, {largest}]")
        _check_values("sign", s, s.abs() == 1, "+1 or -1")
        _check_values("center", c, (c >= 0) & (c < 1), "in [0, 1)")
    return Parameters(*parameters)


def _check_values(name: str, values: Tensor, valid: Tensor, allowed: str) -> None:
    if not bool(valid.all()):
        where = int(valid.view(len(valid), -1).all(1).int().argmin())
        raise ValueError(f"{name} must be {allowed}; sample {where} has {values[where].tolist()}")


def kind_of(value) -> str:
    tensor = isinstance(value, Tensor)
    return f"a {value.dtype} tensor of shape {list(value.shape)}" if tensor else f"{type(value).__name__} {value!r:.60}"
