"""Image transformations on uint8 batches, every sample with its own operation, magnitude and sign.

Ranges are AutoAugment's as torchvision uses them, and pixels equal `torchvision.transforms.v2.functional` on uint8
tensors. Grids are computed in float32 element by element, without fused multiply-add, so that one draw gives one picture
on every device; torchvision takes them from the BLAS of the machine, which may round a pixel on the edge of two cells
the other way. DHA and DiffAutoML use `OPS`, DAAS `DAAS_OPS`; a draw holds indices into `ALL_OPS`.
"""

import difflib
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

OPS = (
    "AutoContrast", "Equalize", "Rotate", "Posterize", "Solarize", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Identity",
)  # fmt: skip
DAAS_OPS = (*OPS[:13], "Invert", "Cutout")
ALL_OPS = (*OPS, "Invert", "Cutout")
SIGNED = (
    "Rotate", "Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip

MAX_MAGNITUDE = 10.0
_PORTION_BYTES = 2**20


class _Draw(NamedTuple):
    """Parameters of n samples in float64, so that they round as Python's numbers do: [n], [n], [n, 2]."""

    magnitude: Tensor
    sign: Tensor
    center: Tensor

    def take(self, index) -> "_Draw":
        return _Draw(*(t[index] for t in self))

    def only(self, chosen: Tensor) -> "_Draw":
        # Magnitude 0 is the identity of every operation outside the tables.
        return self._replace(magnitude=torch.where(chosen, self.magnitude, 0.0))


# ---------------------------------------------------------------------------------------------- public functions


def apply_op(name: str, images: Tensor, magnitude, sign=None, center=None) -> Tensor:
    """One operation on a whole batch, each sample with its own parameters.

    Args:
        name: one of `ALL_OPS`.
        images: uint8 [N, C, H, W]. Color and Contrast need C = 1 or 3 (Color leaves one channel as it is).
        magnitude: [N] or one number, in [0, 10]; 10 is shear 0.3, 150/331 of the side for translations, 30 degrees,
            factor 1 ± 0.9, 4 bits, solarize threshold 0, a cutout of 60/331 of the shorter side.
        sign: [N] of ±1, None for +1; only `SIGNED` operations look at it.
        center: [N, 2] (row, column) in [0, 1), None for the middle; only Cutout looks at it.

    Returns:
        uint8 [N, C, H, W], a new tensor, equal to torchvision.transforms.v2.functional to the pixel.

    Raises:
        TypeError, ValueError: what is not as above. The values are checked on every device: on an accelerator that waits for it.

    Source: METHOD.md section 1; AutoAugment (Cubuk et al. 2019) with torchvision's ranges.
    """
    if name not in ALL_OPS:
        nearest = sorted(ALL_OPS, key=lambda op: -difflib.SequenceMatcher(None, str(name).lower(), op.lower()).ratio())
        raise ValueError(f"unknown operation {name!r}; did you mean {nearest[0]!r}? Valid: {', '.join(nearest)}")
    _check_images(images, any_channels=name not in ("Color", "Contrast"))
    draw = _make_draw(images, magnitude, sign, center, check_values=True)
    if images.numel() == 0:
        return images.clone()
    return _apply_runs(images, [(name, slice(0, len(images)))], draw, torch.arange(len(images), device=images.device))


def apply_mixed(
    images: Tensor, ops: Tensor, magnitude, sign=None, center=None, *, grouped: bool | None = None
) -> Tensor:
    """Sample n goes through operation ALL_OPS[ops[n]]; the same pixels as `apply_op` sample by sample.

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3.
        ops: int64 [N], indices into `ALL_OPS`.
        magnitude, sign, center: as in `apply_op`.
        grouped: True sorts the samples by operation, so that each costs only its own operation, but waits for the
            device; False computes everything for all samples with parameters that leave the others alone and never
            waits. None takes True on the CPU and False elsewhere.

    Returns:
        uint8 [N, C, H, W], a new tensor.

    Raises:
        TypeError, ValueError: as in `apply_op`. With grouped=False on an accelerator only types and shapes are
            checked, since looking at values would stall the device: there an index outside `ALL_OPS` acts as Identity.
    """
    _check_images(images, any_channels=False)
    on_cpu = images.device.type == "cpu"
    grouped = on_cpu if grouped is None else grouped
    draw = _make_draw(images, magnitude, sign, center, check_values=on_cpu or grouped)
    _check_ops(ops, images, check_values=on_cpu or grouped)
    if images.numel() == 0:
        return images.clone()
    return _apply_grouped(images, ops, draw) if grouped else _apply_masked(images, ops, draw)


# ----------------------------------------------------------------------------------------------- the two ways


def _apply_grouped(images: Tensor, ops: Tensor, draw: _Draw) -> Tensor:
    # In this order samples that share a gather or a warp are neighbours.
    families = (*_TABLES, *_MATRICES, "Color", "Sharpness", "Cutout", "Identity")
    rank = torch.tensor([families.index(name) for name in ALL_OPS], device=ops.device)
    ranks, order = rank[ops].sort()
    runs, start = [], 0
    for name, count in zip(families, torch.bincount(ranks, minlength=len(families)).tolist()):
        if count:
            runs.append((name, slice(start, start + count)))
        start += count
    return _apply_runs(images, runs, draw, order)


def _apply_runs(images: Tensor, runs: list[tuple[str, slice]], draw: _Draw, order: Tensor) -> Tensor:
    """Sample order[k] goes through the operation in whose run k lies."""
    # int64 indices are 8 times the images: in portions they stay in the cache.
    n, size = len(images), images[:1].numel()
    portion = max(1, _PORTION_BYTES // max(1, size)) if images.device.type == "cpu" else n
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    # Scattering whole words is 6 times faster than scattering bytes.
    word = torch.int64 if size % 8 == 0 else torch.uint8
    for start in range(0, n, portion):
        members, stop = order[start : start + portion], start + portion
        inside = [
            (name, slice(max(run.start, start) - start, min(run.stop, stop) - start))
            for name, run in runs
            if run.start < stop and run.stop > start
        ]
        part = images.index_select(0, members)
        _apply_portion(part, inside, draw.take(members))
        result.view(n, -1).view(word).index_put_((members,), part.view(len(part), -1).view(word))
    return result


def _apply_portion(images: Tensor, runs: list[tuple[str, slice]], draw: _Draw) -> None:
    height, width = images.shape[2:]
    tables, warps = [], []
    for name, run in runs:
        part, own = images[run], draw.take(run)
        if name in _TABLES:
            tables.append((run, _TABLES[name](part, own).expand(-1, part.shape[1], -1)))
        elif name in ("TranslateX", "TranslateY"):
            part.copy_(_shift(part, _shift_pixels(width if name == "TranslateX" else height, own), name))
        elif name in _MATRICES:
            warps.append((run, _MATRICES[name](own, height, width)))
        elif name != "Identity":
            part.copy_(_BLENDS[name](part, own))
    for pieces, kernel in ((tables, _look_up), (warps, _warp)):
        if pieces:
            part = images[pieces[0][0].start : pieces[-1][0].stop]
            part.copy_(kernel(part, torch.cat([values for _, values in pieces])))


def _apply_masked(images: Tensor, ops: Tensor, draw: _Draw) -> Tensor:
    height, width = images.shape[2:]
    chosen = {name: ops == index for index, name in enumerate(ALL_OPS)}
    tables = torch.arange(256, device=images.device, dtype=torch.uint8)
    for name, build in _TABLES.items():
        tables = torch.where(chosen[name][:, None, None], build(images, draw), tables)
    matrix = _matrix(draw.magnitude)
    for name, build in _MATRICES.items():
        matrix = torch.where(chosen[name][:, None, None], build(draw, height, width), matrix)
    images = _look_up(images, tables.expand(-1, images.shape[1], -1))
    images = _warp(images, matrix)
    for name, blend in _BLENDS.items():
        images = blend(images, draw.only(chosen[name]))
    return images


# ------------------------------------------------------------------- tables: uint8 [n, C or 1, 256] from images


def _look_up(images: Tensor, tables: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    index = images.reshape(n * channels, height * width).long()
    return tables.reshape(n * channels, 256).gather(1, index).view(images.shape)


def _levels(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(256, device=images.device, dtype=dtype)


def _autocontrast_table(images: Tensor, draw: _Draw) -> Tensor:
    planes = images.flatten(2)
    low, high = planes.amin(2, keepdim=True).float(), planes.amax(2, keepdim=True).float()
    flat = high == low
    scale = torch.where(flat, 1.0, (high - low) * (1.0 / 255))
    return _to_uint8((_levels(images) - torch.where(flat, 0.0, low)) / scale)


def _histogram(images: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    bins = n * channels * 256
    offset = torch.arange(0, bins, 256, device=images.device, dtype=torch.int32).view(n, channels, 1, 1)
    index = images.int().add_(offset).flatten()
    if images.device.type == "cpu":
        counts = torch.bincount(index, minlength=bins)
    else:  # bincount asks the device for the largest index
        counts = torch.zeros(bins, device=images.device, dtype=torch.int64)
        counts.scatter_add_(0, index.long(), counts.new_ones(1).expand(index.shape))
    return counts.view(n, channels, 256)


def _equalize_table(images: Tensor, draw: _Draw) -> Tensor:
    # PIL's rule: one output level per `step` pixels, not counting those of the brightest level present.
    counts = _histogram(images)
    cumulative = counts.cumsum(2)
    total = images.shape[2] * images.shape[3]
    below_brightest = torch.where(cumulative < total, cumulative, 0).amax(2, keepdim=True)
    step = below_brightest // 255
    table = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step == 0, _levels(images, torch.int64), table).to(torch.uint8)


def _posterize_table(images: Tensor, draw: _Draw) -> Tensor:
    dropped_bits = (4 * draw.magnitude / 10).round().int()[:, None, None]
    return ((_levels(images, torch.int32) >> dropped_bits) << dropped_bits).to(torch.uint8)


def _solarize_table(images: Tensor, draw: _Draw) -> Tensor:
    levels, threshold = _levels(images), _per_image(255 * (1 - draw.magnitude / 10))[:, 0]
    return torch.where(levels >= threshold, 255 - levels, levels).to(torch.uint8)


def _contrast_table(images: Tensor, draw: _Draw) -> Tensor:
    gray = _gray(images.float())
    # Whole numbers: float32 is exact along a row, float64 over the image, whatever the order of summation.
    mean = gray.sum(3).double().sum(2).div_(gray[0].numel()).float()[:, :, None]
    factor = _factor(draw)
    return _to_uint8(torch.addcmul(_levels(images) * _per_image(factor)[:, 0], mean, _per_image(1 - factor)[:, 0]))


def _brightness_table(images: Tensor, draw: _Draw) -> Tensor:
    return _to_uint8(_levels(images) * _per_image(_factor(draw))[:, 0])


def _invert_table(images: Tensor, draw: _Draw) -> Tensor:
    return _levels(images, torch.uint8).bitwise_not_().expand(len(images), 1, 256)


_TABLES = {
    "AutoContrast": _autocontrast_table, "Equalize": _equalize_table, "Posterize": _posterize_table,
    "Solarize": _solarize_table, "Contrast": _contrast_table, "Brightness": _brightness_table,
    "Invert": _invert_table,
}  # fmt: skip


# ------------------------------------------ geometry: float64 [n, 2, 3] from output to source, in pixels from the middle


def _matrix(like: Tensor, xx=1.0, xy=0.0, x=0.0, yx=0.0, yy=1.0, y=0.0) -> Tensor:
    entries = [v if isinstance(v, Tensor) else torch.full_like(like, v) for v in (xx, xy, x, yx, yy, y)]
    return torch.stack(entries, 1).view(-1, 2, 3)


def _rotation(draw: _Draw, height: int, width: int) -> Tensor:
    # The operations and their order are torchvision's, so that every last bit is: its rotate() turns by -angle modulo 360.
    angle = torch.deg2rad(-torch.remainder(draw.sign * (30.0 * draw.magnitude / 10), 360))
    cos, sin = angle.cos(), angle.sin()
    return _matrix(angle, xx=cos, xy=sin, yx=-sin, yy=cos)


def _shear_angle(draw: _Draw) -> Tensor:
    return torch.deg2rad(torch.rad2deg(torch.atan(draw.sign * (0.3 * draw.magnitude / 10))))


def _shear_x(draw: _Draw, height: int, width: int) -> Tensor:
    slope = _shear_angle(draw).tan()
    return _matrix(slope, xy=slope, x=slope * (0.5 * height))


def _shear_y(draw: _Draw, height: int, width: int) -> Tensor:
    angle = _shear_angle(draw)
    slope = angle.sin() / angle.cos()
    return _matrix(slope, yx=slope, y=(slope * (0.5 * width) - 0.5 * height) + 0.5 * height)


def _shift_pixels(side: int, draw: _Draw) -> Tensor:
    return draw.sign * (150.0 / 331.0 * side * draw.magnitude / 10).floor()


_MATRICES = {
    "Rotate": _rotation,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": lambda draw, height, width: _matrix(draw.sign, x=-_shift_pixels(width, draw)),
    "TranslateY": lambda draw, height, width: _matrix(draw.sign, y=-_shift_pixels(height, draw)),
}


def _source(coefficients: Tensor, x: Tensor, y: Tensor, side: int) -> Tensor:
    """Nearest source column (or row) of every output pixel, float32 [n, H, W]; -1 or `side` outside the image."""
    # float64 quotients round to the float32 quotient on every device; CUDA would multiply by a reciprocal.
    to_x, to_y, constant = (coefficients.float().double() / (0.5 * side)).float()[:, :, None, None].unbind(1)
    grid = (x * to_x + y * to_y).add_(constant)
    return grid.add_(1).mul_(0.5 * side).sub_(0.5).round_().clamp_(-1, side)


def _warp(images: Tensor, matrix: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    x = torch.arange(width, device=images.device) - 0.5 * (width - 1)
    y = (torch.arange(height, device=images.device) - 0.5 * (height - 1))[:, None]
    column, row = _source(matrix[:, 0], x, y, width), _source(matrix[:, 1], x, y, height)
    # A border of zeros is what lies outside: cheaper than comparing every coordinate with both ends.
    index = row.mul_(width + 2).add_(column).add_(width + 3).int().long().view(n, 1, -1)
    return pad(images, (1, 1, 1, 1)).flatten(2).gather(2, index.expand(-1, channels, -1)).view(images.shape)


def _shift(images: Tensor, pixels: Tensor, name: str) -> Tensor:
    """A translation as one copy of whole rows from the zero-padded images: 10 times cheaper than the warp."""
    n, channels, height, width = images.shape
    along_x = name == "TranslateX"
    margin = int(150.0 / 331.0 * (width if along_x else height))
    padded = pad(images, (margin, margin, 0, 0) if along_x else (0, 0, margin, margin))
    plane, stride = padded[0, 0].numel(), padded.shape[3]
    first = margin - pixels.long() if along_x else (margin - pixels.long()) * stride
    row = torch.arange(height, device=images.device) * stride
    starts = torch.arange(n * channels, device=images.device).view(n, channels, 1) * plane + first[:, None, None] + row
    windows = padded.view(-1).unfold(0, width, 1)
    return windows.index_select(0, starts.flatten()).view(images.shape)


# ------------------------------------------------------------------------------------------- blends and cutout


def _factor(draw: _Draw) -> Tensor:
    return 1.0 + draw.sign * (0.9 * draw.magnitude / 10)


def _per_image(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None]


def _gray(images: Tensor) -> Tensor:
    """Whole gray levels, float32 [n, 1, H, W], of float32 [n, 1 or 3, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _to_uint8(values: Tensor) -> Tensor:
    """Truncates to [0, 255] and overwrites its argument."""
    # float32 -> int8 is vectorised on the CPU, float32 -> uint8 is not and takes three times as long.
    return values.clamp_(0, 255).floor_().sub_(128).to(torch.int8).view(torch.uint8).bitwise_xor_(128)


def _color(images: Tensor, draw: _Draw) -> Tensor:
    if images.shape[1] == 1:
        return images
    values, factor = images.float(), _factor(draw)
    gray = _gray(values)
    # addcmul rounds once, as torchvision's add(alpha=...) does.
    return _to_uint8(values.mul_(_per_image(factor)).addcmul_(gray, _per_image(1 - factor)))


def _sharpness(images: Tensor, draw: _Draw) -> Tensor:
    if min(images.shape[2:]) <= 2:
        return images
    values = images.short()
    rows = (values[:, :, :-2] + values[:, :, 1:-1]).add_(values[:, :, 2:])
    total = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])
    center = values[:, :, 1:-1, 1:-1]
    # (8 neighbours + 5 centre) / 13 is never nearer than 1/26 to a half, so any float arithmetic rounds it alike.
    blurred = total.add_(center, alpha=4).float().mul_(1.0 / 13.0).round_()
    inner = center.float()
    inner = inner.addcmul_(blurred.sub_(inner), _per_image(1 - _factor(draw)))
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _to_uint8(inner)
    return result


def _cutout(images: Tensor, draw: _Draw) -> Tensor:
    height, width = images.shape[2:]
    length = (60.0 / 331.0 * min(height, width) * draw.magnitude / 10).round()[:, None]
    inside = []
    for side, center in ((height, draw.center[:, :1]), (width, draw.center[:, 1:])):
        offset = torch.arange(side, device=images.device) - ((center * side).floor() - (length / 2).floor())
        inside.append((offset >= 0) & (offset < length))
    return images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


_BLENDS = {"Color": _color, "Sharpness": _sharpness, "Cutout": _cutout}


# ------------------------------------------------------------------------------------------------------ checks


def _check_images(images: Tensor, any_channels: bool) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a uint8 tensor [N, C, H, W], got {given}; convert with .to(torch.uint8)")
    if images.ndim != 4:
        raise ValueError(f"images must be [N, C, H, W], got shape {list(images.shape)}; add a batch with images[None]")
    if not any_channels and images.shape[1] not in (1, 3):
        raise ValueError(
            f"colour operations are defined for C = 1 or 3 channels, got C = {images.shape[1]}; use apply_op with an "
            "operation other than Color and Contrast"
        )
    if (images.shape[2] + 2) * (images.shape[3] + 2) >= 2**24:
        raise ValueError(f"images of {list(images.shape[2:])} pixels exceed 2**24, the last exact float32; resize them")


def _check_ops(ops: Tensor, images: Tensor, check_values: bool) -> None:
    if not isinstance(ops, Tensor) or ops.dtype != torch.int64:
        raise TypeError(f"ops must be an int64 tensor [N] of indices into ALL_OPS, got {getattr(ops, 'dtype', type(ops).__name__)}")
    _check_shape("ops", ops, (len(images),), images)
    if check_values:
        _check_range("ops", ops, (ops >= 0) & (ops < len(ALL_OPS)), f"indices into ALL_OPS, 0 to {len(ALL_OPS) - 1}")


def _check_shape(name: str, values: Tensor, shape: tuple[int, ...], images: Tensor) -> None:
    if values.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)} for {len(images)} images, got {list(values.shape)}")
    if values.device != images.device:
        raise ValueError(f"{name} is on {values.device}, images on {images.device}; move it with .to(images.device)")


def _check_range(name: str, values: Tensor, valid: Tensor, allowed: str) -> None:
    if not bool(valid.all()):
        where = int(valid.flatten(1).all(1).int().argmin()) if valid.ndim > 1 else int(valid.int().argmin())
        raise ValueError(f"{name} must be {allowed}; sample {where} has {values[where].tolist()}")


def _as_float64(name: str, values, shape: tuple[int, ...], images: Tensor) -> Tensor:
    if isinstance(values, (int, float)) and not isinstance(values, bool):
        return torch.full(shape, float(values), dtype=torch.float64, device=images.device)
    if not isinstance(values, Tensor) or values.dtype == torch.bool or values.dtype.is_complex:
        given = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be a real tensor {list(shape)} or one number, got {given}")
    _check_shape(name, values, shape, images)
    return values.detach().double()


def _make_draw(images: Tensor, magnitude, sign, center, check_values: bool) -> _Draw:
    n = len(images)
    draw = _Draw(
        _as_float64("magnitude", magnitude, (n,), images),
        _as_float64("sign", 1 if sign is None else sign, (n,), images),
        _as_float64("center", 0.5 if center is None else center, (n, 2), images),
    )
    if check_values:
        m, s, c = draw
        _check_range("magnitude", m, (m >= 0) & (m <= MAX_MAGNITUDE), f"in [0, {MAX_MAGNITUDE:g}]")
        _check_range("sign", s, s.abs() == 1, "+1 or -1")
        _check_range("center", c, (c >= 0) & (c < 1), "in [0, 1), relative to the image's sides")
    return draw
