"""Image transformations on uint8 batches, every sample with its own operation, magnitude and sign.

Ranges are AutoAugment's as torchvision uses them, and pixels equal `torchvision.transforms.v2.functional` on uint8
tensors. Grids are float32, one rounding per operation, so that a draw gives the same picture on every device;
torchvision takes them from the machine's BLAS, which may round a pixel on the edge of two cells the other way.
DHA and DiffAutoML use `OPS`, DAAS `DAAS_OPS`; draws hold indices into `ALL_OPS`.
"""

import difflib

import torch
from torch import Tensor

from kit.augment.kernels import (
    BITWISE,
    BLENDS,
    CHEAP_ON_PIXELS,
    MATRICES,
    ONE_WAY,
    POINTWISE,
    SHIFTED,
    Draw,
    levels_of,
    look_up,
    matrix_of,
    shift,
    warp,
)

OPS = (
    "AutoContrast",
    "Equalize",
    "Rotate",
    "Posterize",
    "Solarize",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Identity",
)
DAAS_OPS = (*OPS[:13], "Invert", "Cutout")
ALL_OPS = (*OPS, "Invert", "Cutout")
SIGNED = ("Rotate", "Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY")

_PORTION_BYTES = 2**20
WIDEST = 60  # the largest magnitude of a batch: 10 is the papers' range, TrivialAugment's reach 45


def apply_op(name: str, images: Tensor, magnitude, sign=None, center=None) -> Tensor:
    """One operation on a whole batch, each sample with its own parameters.

    Args:
        name: one of `ALL_OPS`.
        images: uint8 [N, C, H, W]. Color and Contrast need C = 1 or 3 (Color leaves one channel as it is).
        magnitude: [N] or one number, in [0, 10]; 10 is shear 0.3, 150/331 of the side for translations, 30 degrees,
            factor 1 ± 0.9, 4 bits, solarize threshold 0, a square cutout of 60/331 of the shorter side.
        sign: [N] of ±1, None for +1; only `SIGNED` operations look at it.
        center: [N, 2] (row, column) in [0, 1), None for the middle; only Cutout looks at it.

    Returns:
        uint8 [N, C, H, W], a new tensor.

    Raises:
        TypeError, ValueError: what is not as above. Looking at the values waits for an accelerator.

    Source: METHOD.md section 1; ranges of torchvision.transforms.v2.AutoAugment.
    """
    if name not in ALL_OPS:
        nearest = sorted(ALL_OPS, key=lambda op: -difflib.SequenceMatcher(None, str(name).lower(), op.lower()).ratio())
        raise ValueError(f"unknown operation {name!r}; did you mean {nearest[0]!r}? Valid: {', '.join(nearest)}")
    _check_images(images, any_channels=name not in ("Color", "Contrast"))
    draw = _make_draw(images, magnitude, sign, center, check_values=True)
    everything = torch.arange(len(images), device=images.device)
    return _apply_runs(images, [(name, slice(0, len(images)))] if name != "Identity" else [], draw, everything)


def apply_mixed(
    images: Tensor, ops: Tensor, magnitude, sign=None, center=None, *, grouped: bool | None = None
) -> Tensor:
    """Sample n goes through operation ALL_OPS[ops[n]]; the same pixels as `apply_op` sample by sample.

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3.
        ops: int64 [N], indices into `ALL_OPS`.
        magnitude, sign, center: as in `apply_op`, but magnitudes may go on to 60: the ranges go on linearly, which
        TrivialAugment's
            wide ones need.
        grouped: True sorts the samples, so that each costs its own operation only, but waits for the device; False
            computes everything for all, with parameters that leave the others alone, and never waits. None takes True
            on the CPU, False elsewhere.

    Returns:
        uint8 [N, C, H, W], a new tensor.

    Raises:
        TypeError, ValueError: as in `apply_op`. With grouped=False on an accelerator only types and shapes are
            checked, since looking at values would stall it: there an index outside `ALL_OPS` acts as Identity.
    """
    _check_images(images, any_channels=False)
    on_cpu = images.device.type == "cpu"
    grouped = on_cpu if grouped is None else grouped
    draw = _make_draw(images, magnitude, sign, center, check_values=on_cpu or grouped, largest=WIDEST)
    if not isinstance(ops, Tensor) or ops.dtype != torch.int64:
        raise TypeError(f"ops must be an int64 tensor [N] of indices into ALL_OPS, got {_kind(ops)}")
    _check_shape("ops", ops, (len(images),), images)
    if on_cpu or grouped:
        _check_values("ops", ops, (ops >= 0) & (ops < len(ALL_OPS)), f"indices into ALL_OPS, 0 to {len(ALL_OPS) - 1}")
    return _apply_grouped(images, ops, draw) if grouped else _apply_masked(images, ops, draw)


# ------------------------------------------------------------------------------------------------- the two ways


def _apply_grouped(images: Tensor, ops: Tensor, draw: Draw) -> Tensor:
    order = ops.argsort()
    runs, start = [], 0
    for name, count in zip(ALL_OPS, torch.bincount(ops, minlength=len(ALL_OPS)).tolist()):
        if count and name != "Identity":
            runs.append((name, slice(start, start + count)))
        start += count
    return _apply_runs(images, runs, draw, order)


def _apply_runs(images: Tensor, runs: list[tuple[str, slice]], draw: Draw, order: Tensor) -> Tensor:
    """Sample order[k] goes through the operation in whose run k lies; those in no run stay as they are."""
    result = images.clone(memory_format=torch.contiguous_format)
    if images.numel() == 0:
        return result
    n, size = len(images), images[0].numel()
    # Temporaries take up to 8 bytes a pixel: in portions they stay in the cache.
    portion = max(1, _PORTION_BYTES // size) if images.device.type == "cpu" else n
    # Scattering whole words is 6 times faster than scattering bytes.
    words = result.view(n, size).view(torch.int64 if size % 8 == 0 else torch.uint8)
    draw = draw.take(order)
    for name, run in runs:
        for start in range(run.start, run.stop, portion):
            here = slice(start, min(start + portion, run.stop))
            done = _apply_one(name, images.index_select(0, order[here]), draw.take(here))
            words.index_copy_(0, order[here], done.reshape(-1, size).view(words.dtype))
    return result


def _apply_one(name: str, images: Tensor, draw: Draw) -> Tensor:
    if name in BITWISE:
        return BITWISE[name](images, draw)
    if name in CHEAP_ON_PIXELS:
        return POINTWISE[name](images.flatten(2).float(), images, draw).view(images.shape)
    if name in POINTWISE:
        return look_up(images, POINTWISE[name](levels_of(images), images, draw).expand(-1, images.shape[1], -1))
    if name in SHIFTED:
        return shift(images, name, draw)
    if name in MATRICES:
        return warp(images, MATRICES[name](draw, *images.shape[2:]), **ONE_WAY.get(name, {}))
    return BLENDS[name](images, draw)


def _apply_masked(images: Tensor, ops: Tensor, draw: Draw) -> Tensor:
    if images.numel() == 0:
        return images.clone()
    images, (height, width) = images.contiguous(), images.shape[2:]
    chosen = {name: (ops == index)[:, None, None] for index, name in enumerate(ALL_OPS)}
    levels, matrix = levels_of(images), matrix_of(draw.magnitude)
    tables = levels.to(torch.uint8)
    for name, compute in POINTWISE.items():
        tables = torch.where(chosen[name], compute(levels, images, draw), tables)
    for name, build in MATRICES.items():
        matrix = torch.where(chosen[name], build(draw, height, width), matrix)
    images = look_up(images, tables.expand(len(images), images.shape[1], -1))
    images = warp(images, matrix)
    for name, blend in BLENDS.items():
        # Magnitude 0 is the identity of every blend.
        own = draw._replace(magnitude=torch.where(chosen[name].flatten(), draw.magnitude, 0.0))
        images = blend(images, own)
    return images


# ---------------------------------------------------------------------------------------------------------- checks


def _kind(value) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"{type(value).__name__} {value!r:.60}"


def _check_images(images: Tensor, any_channels: bool) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images must be a uint8 tensor [N, C, H, W], got {_kind(images)}; use .to(torch.uint8)")
    if images.ndim != 4:
        raise ValueError(f"images must be [N, C, H, W], got shape {list(images.shape)}; one image needs images[None]")
    if not any_channels and images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must have C = 1 or 3 channels where colours are mixed, got C = {images.shape[1]}; "
            "for other C use apply_op with any operation but Color and Contrast"
        )
    if (images.shape[2] + 2) * (images.shape[3] + 2) >= 2**24:
        raise ValueError(f"images must have fewer than 2**24 pixels (float32 grids), got {list(images.shape[2:])}")


def _check_shape(name: str, values: Tensor, shape: tuple[int, ...], images: Tensor) -> None:
    if values.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)} for {len(images)} images, got {list(values.shape)}")
    if values.device != images.device:
        raise ValueError(f"{name} is on {values.device}, images on {images.device}; use .to(images.device)")


def _check_values(name: str, values: Tensor, valid: Tensor, allowed: str) -> None:
    if not bool(valid.all()):
        where = int(valid.view(len(valid), -1).all(1).int().argmin())
        raise ValueError(f"{name} must be {allowed}; sample {where} has {values[where].tolist()}")


def _make_draw(images: Tensor, magnitude, sign, center, check_values: bool, largest: float = 10) -> Draw:
    def as_float64(name: str, values, *shape: int) -> Tensor:
        if isinstance(values, (int, float)) and not isinstance(values, bool):
            return torch.full(shape, float(values), dtype=torch.float64, device=images.device)
        if not isinstance(values, Tensor) or values.dtype == torch.bool or values.is_complex():
            raise TypeError(f"{name} must be a real tensor {list(shape)} or one number, got {_kind(values)}")
        _check_shape(name, values, shape, images)
        return values.detach().double()

    n = len(images)
    m = as_float64("magnitude", magnitude, n)
    s = as_float64("sign", 1 if sign is None else sign, n)
    c = as_float64("center", 0.5 if center is None else center, n, 2)
    if check_values:
        _check_values("magnitude", m, (m >= 0) & (m <= largest), f"in [0, {largest}]")
        _check_values("sign", s, s.abs() == 1, "+1 or -1")
        _check_values("center", c, (c >= 0) & (c < 1), "in [0, 1), (row, column) relative to the image's sides")
    return Draw(m, s, c)
