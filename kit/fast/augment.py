"""The same pixels as `ops.py`, compiled by numba: one call for a batch's crop, operations and cutout, image after
image.

Needs the extra `fast` (numba) and the CPU. An image goes through all its operations while it lies in the cache, and no
batch is made in
between. What is not taken here (`apply` gives None) goes the way of `ops.py`, which is the reference: float32 and
float64 round in the
same places, sums and products together where torch's kernels fuse them. Compiled once, on the first batch, then read
from numba's cache
(beside this file or in the user's cache folder; where neither can be written, compiled in every process).
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import torch
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic
from torch import Tensor

from kit.augment import kernels
from kit.augment.ops import ALL_OPS, WIDEST

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

# written out: numba's cache sees what changes in this file only
KNOWN = 16  # operations, of those in `operations()`
OP = namedtuple(
    "Operations",
    "AutoContrast Equalize Rotate Posterize Solarize Color Contrast Brightness Sharpness ShearX ShearY "
    "TranslateX TranslateY Identity Invert Cutout",
)(*range(16))
assert OP._fields == tuple(ALL_OPS)[:KNOWN], (
    "kit/augment/compiled.py must number the operations as kit/augment/ops.py does"
)
WARPS = ("Rotate", "ShearX", "ShearY")  # the order of `matrices` below
# float32 throughout: numba would take Python's numbers as float64
ZERO, HALF, ONE, TOP = (np.float32(v) for v in (0, 0.5, 1, 255))
RED, GREEN, BLUE, PER_LEVEL, THIRTEENTH = (np.float32(v) for v in (0.2989, 0.587, 0.114, 1.0 / 255, 1.0 / 13.0))
_PROBE = torch.full((64,), 1 + 2.0**-12, dtype=torch.float32)
FUSED = bool(
    (_PROBE.addcmul(_PROBE, _PROBE, value=-1) != _PROBE - _PROBE * _PROBE).all()
)  # whether torch's kernels do, on this processor

# a division by zero gives inf, as in torch: no branch, so loops vectorise; called from here only, which spares
# compiling wrappers for Python
inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@intrinsic
def fma(typing, a, b, c):
    """a · b + c rounded once, as torch's kernels do; numba by itself never contracts."""
    return types.float32(*[types.float32] * 3), lambda context, builder, signature, arguments: builder.fma(*arguments)


@intrinsic
def rint(typing, value):
    """To the nearest whole number, halves to the even one."""
    return types.float32(types.float32), lambda context, builder, signature, arguments: builder.call(
        builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()]), arguments
    )


# ------------------------------------------------------------------------------- single images: uint8 [C, H*W] to [C,
# H*W]


@inner
def to_uint8(value):
    value = value if value > ZERO else ZERO
    return np.uint8(np.int32(value if value < TOP else TOP))


@inner
def gray_of(image, i):
    if len(image) == 1:
        return np.float32(image[0, i])
    return np.float32(
        np.int32(fma(np.float32(image[2, i]), BLUE, fma(np.float32(image[1, i]), GREEN, np.float32(image[0, i]) * RED)))
    )


@inner
def copy(image, done):
    values, out = image.reshape(image.size), done.reshape(image.size)
    for i in range(values.size):
        out[i] = values[i]


@inner
def autocontrast(image, done):
    for c in range(len(image)):
        plane, to = image[c], done[c]
        low, high = np.uint8(255), np.uint8(0)
        for i in range(plane.size):
            low, high = min(low, plane[i]), max(high, plane[i])
        base = ZERO if low == high else np.float32(low)
        scale = ONE if low == high else np.float32(high - low) * PER_LEVEL
        for i in range(plane.size):
            to[i] = to_uint8((np.float32(plane[i]) - base) / scale)


@inner
def equalize(image, done):
    even, odd, before, table = (
        np.empty(256, np.int32),
        np.empty(256, np.int32),
        np.empty(256, np.int32),
        np.empty(256, np.uint8),
    )
    for c in range(len(image)):
        plane, to = image[c], done[c]
        for level in range(256):
            even[level] = odd[level] = 0
        for i in range(plane.size // 2):  # neighbours are often equal: two counts do not wait for one another
            even[plane[2 * i]] += 1
            odd[plane[2 * i + 1]] += 1
        if plane.size % 2:
            even[plane[plane.size - 1]] += 1
        total = last = 0
        for level in range(256):
            before[level] = total
            count = even[level] + odd[level]
            total, last = total + count, count if count else last
        # PIL's rule: one output level per `step` pixels, not counting those of the brightest level present
        step = (plane.size - last) // 255
        for level in range(
            256
        ):  # float64 quotients of whole numbers round down to the integers' quotient, and vectorise
            table[level] = np.int32(min(np.float64(before[level] + step // 2) / step, 255.0)) if step else level
        for i in range(plane.size):
            to[i] = table[plane[i]]


@inner
def contrast(image, done, factor, rest):
    total = 0
    for i in range(image.shape[1]):
        total += np.int32(gray_of(image, i))
    mean = np.float32(total / image.shape[1])
    values, out = image.reshape(image.size), done.reshape(image.size)
    for i in range(values.size):
        out[i] = to_uint8(fma(mean, rest, np.float32(values[i]) * factor))


@inner
def color(image, done, factor, rest):
    for i in range(image.shape[1]):
        gray = gray_of(image, i)
        for c in range(3):
            done[c, i] = to_uint8(fma(gray, rest, np.float32(image[c, i]) * factor))


@inner
def sharpness(image, done, width, rest):
    copy(image, done)  # for the first and last row
    size, sums = image.shape[1], np.empty(image.shape[1], np.float32)
    for c in range(len(image)):
        # all rows as one, longer runs than inside a border, which is put back at the end
        above, plane, below = image[c, : size - 2 * width], image[c, width : size - width], image[c, 2 * width :]
        for i in range(plane.size):
            sums[i] = np.float32(above[i]) + np.float32(plane[i]) + np.float32(below[i])
        left, middle, right = sums[: plane.size - 2], sums[1 : plane.size - 1], sums[2 : plane.size]
        centers, out = plane[1 : plane.size - 1], done[c, width + 1 : size - width - 1]
        for i in range(out.size):
            center = np.float32(centers[i])
            total = left[i] + middle[i] + right[i] + np.float32(4) * center
            out[i] = to_uint8(fma(rint(total * THIRTEENTH) - center, rest, center))
        for start in range(0, size, width):
            done[c, start], done[c, start + width - 1] = image[c, start], image[c, start + width - 1]


@inner
def bytewise(image, done, op, magnitude, factor):
    """Posterize, Solarize, Invert and Brightness."""
    values, out = image.reshape(image.size), done.reshape(image.size)
    if op == OP.Posterize:
        kept = np.uint8((255 << min(int(np.rint(4 * magnitude / 10)), 8)) & 255)
        for i in range(values.size):
            out[i] = values[i] & kept
    elif op == OP.Brightness:
        for i in range(values.size):
            out[i] = to_uint8(np.float32(values[i]) * factor)
    else:
        threshold = np.float32(255 * (1 - magnitude / 10)) if op == OP.Solarize else ZERO
        first = np.uint8(max(np.ceil(threshold), ZERO))
        for i in range(values.size):
            out[i] = values[i] if values[i] < first else 255 - values[i]


@inner
def move(image, done, width, down, right, mirrored):
    """By whole pixels, zeros where nothing comes from; then mirrored or not."""
    size, offset = image.shape[1], down * width + right
    height, first, last = size // width, min(max(right, 0), width), max(min(width + right, width), 0)
    for c in range(len(image)):
        to, start, stop = done[c], min(max(offset, 0), size), max(min(size + offset, size), 0)
        if start < stop:  # the whole plane in one go; what this brings round the border is taken away below
            part, into = image[c, start - offset : stop - offset], to[start:stop]
            for i in range(part.size):
                into[i] = part[i]
        for y in range(height):
            outside = y - down < 0 or y - down >= height
            for x in range(width if outside else first):
                to[y * width + x] = 0
            for x in range(width if outside else last, width):
                to[y * width + x] = 0
            if mirrored:
                for x in range(width // 2):
                    left, right_end = y * width + x, (y + 1) * width - 1 - x
                    to[left], to[right_end] = to[right_end], to[left]


@inner
def source(coefficients, x, y, side):
    """Nearest source column (or row), as in `kernels`; -1 or `side` is outside the image."""
    half = np.float32(0.5 * side)
    value = rint((((x * coefficients[0] + y * coefficients[1]) + coefficients[2]) + ONE) * half - HALF)
    value = value if value > -ONE else -ONE
    return value if value < np.float32(side) else np.float32(side)


@inner
def warp(image, done, width, matrix, frame):
    """frame: uint32 [(H+2)*(W+2)], the channels of a pixel side by side; its border is zero and stands for the
    outside.
    """
    height, across = image.shape[1] // width, width + 2
    from_middle, index, found = np.empty(width, np.float32), np.empty(width, np.uint32), np.empty(width, np.uint32)
    to_column, to_row = np.empty(3, np.float32), np.empty(3, np.float32)
    for k in range(3):
        to_column[k] = np.float64(np.float32(matrix[0, k])) / (0.5 * width)
        to_row[k] = np.float64(np.float32(matrix[1, k])) / (0.5 * height)
    for x in range(width):
        from_middle[x] = x - 0.5 * (width - 1)
    for y in range(height):
        row, inside = image[:, y * width : (y + 1) * width], frame[(y + 1) * across + 1 : (y + 2) * across - 1]
        if len(image) == 1:
            for x in range(width):
                inside[x] = row[0, x]
        else:
            for x in range(width):
                inside[x] = np.uint32(row[0, x]) | np.uint32(row[1, x]) << 8 | np.uint32(row[2, x]) << 16
    for y in range(height):
        down = np.float32(y - 0.5 * (height - 1))
        for x in range(width):
            place = source(to_row, from_middle[x], down, height) * np.float32(across) + source(
                to_column, from_middle[x], down, width
            )
            index[x] = np.int32(place + np.float32(across + 1))
        for x in range(width):
            found[x] = frame[index[x]]
        for c in range(len(image)):
            out = done[c, y * width : (y + 1) * width]
            for x in range(width):
                out[x] = found[x] >> np.uint32(8 * c)


@inner
def cut(image, width, top, left, side, fill):
    """A square hole, in place, clipped at the border."""
    height = image.shape[1] // width
    for c in range(len(image)):
        for y in range(max(top, 0), min(top + side, height)):
            for x in range(max(left, 0), min(left + side, width)):
                image[c, y * width + x] = fill[c]


@inner
def operate(image, done, width, op, magnitude, sign, center, matrices, frame):
    """One operation of any kind, the counterpart of `ops._apply_one`."""
    height, double = image.shape[1] // width, 1.0 + sign * (0.9 * magnitude / 10)
    factor, rest = np.float32(double), np.float32(1 - double)
    if op == OP.AutoContrast:
        autocontrast(image, done)
    elif op == OP.Equalize:
        equalize(image, done)
    elif op == OP.Contrast:
        contrast(image, done, factor, rest)
    elif op == OP.Color and len(image) == 3:
        color(image, done, factor, rest)
    elif op == OP.Sharpness and min(height, width) > 2:
        sharpness(image, done, width, rest)
    elif op == OP.TranslateX or op == OP.TranslateY:
        pixels = int(sign * np.floor(150.0 / 331.0 * (width if op == OP.TranslateX else height) * magnitude / 10))
        move(image, done, width, pixels if op == OP.TranslateY else 0, pixels if op == OP.TranslateX else 0, False)
    elif op == OP.Rotate or op == OP.ShearX or op == OP.ShearY:
        warp(image, done, width, matrices[0 if op == OP.Rotate else 1 if op == OP.ShearX else 2], frame)
    elif op == OP.Color or op == OP.Sharpness or op == OP.Cutout:
        copy(image, done)
        if op == OP.Cutout:
            side = int(np.rint(60.0 / 331.0 * min(height, width) * magnitude / 10))
            cut(
                done,
                width,
                int(np.floor(center[0] * height)) - side // 2,
                int(np.floor(center[1] * width)) - side // 2,
                side,
                np.zeros(3, np.uint8),
            )
    else:
        bytewise(image, done, op, magnitude, factor)


# -------------------------------------------------------------------------------------------------------------- the
# batch


def run(images, out, width, widest, ops, magnitude, sign, center, matrices, pad, shift, flip, hole, side, fill):
    """Images [n, C, H*W] into `out`; shift, flip, hole: empty where there is no crop or cutout. False, and some of the
    images only, where
    a number is not allowed."""
    n, channels, size = images.shape
    height = size // width
    spare, frame = np.empty((channels, size), np.uint8), np.zeros((height + 2) * (width + 2), np.uint32)
    for i in range(n):
        image, result, at_result = images[i], out[i], False
        if len(shift):
            if min(shift[i, 0], shift[i, 1]) < 0 or max(shift[i, 0], shift[i, 1]) > 2 * pad:
                return False
            move(image, result, width, pad - shift[i, 0], pad - shift[i, 1], flip[i])
            image, at_result = result, True
        for k in range(ops.shape[1]):
            if not (
                0 <= ops[i, k] < len(OP)
                and 0 <= magnitude[i, k] <= widest
                and abs(sign[i, k]) == 1
                and 0 <= center[i, k, 0] < 1
                and 0 <= center[i, k, 1] < 1
            ):
                return False
            if ops[i, k] != OP.Identity:
                done, at_result = (spare, False) if at_result else (result, True)
                operate(
                    image, done, width, ops[i, k], magnitude[i, k], sign[i, k], center[i, k], matrices[:, i, k], frame
                )
                image = done
        if not at_result:
            copy(image, result)
        if len(hole):
            top, left = np.int64(hole[i, 0] * np.float32(height)), np.int64(hole[i, 1] * np.float32(width))
            cut(result, width, top - side // 2, left - side // 2, side, fill)
    return True


def _compile(function):
    images, indices, numbers, centers = (
        types.uint8[:, :, ::1],
        types.int64[:, ::1],
        types.float64[:, ::1],
        types.float64[:, :, ::1],
    )
    signature = types.boolean(
        images,
        images,
        types.int64,
        types.int64,
        indices,
        numbers,
        numbers,
        centers,
        types.float64[:, :, :, :, ::1],
        types.int64,
        indices,
        types.boolean[::1],
        types.float32[:, ::1],
        types.int64,
        types.uint8[::1],
    )
    try:
        return njit(signature, cache=True, nogil=True, error_model="numpy")(function)
    except (RuntimeError, OSError):  # no folder for the cache that can be written
        return njit(signature, nogil=True, error_model="numpy")(function)


_run = _compile(run)


def apply(images: Tensor, draw, basics) -> Tensor | None:
    """`Policy.apply` for images uint8 [n, C, H, W] on the CPU; None where they or the draw are not of the kind taken
    here, or not valid.
    """
    if not _taken(images, draw, basics):
        return None
    n, channels, height, width = images.shape
    images, k = images.contiguous(), draw.ops.shape[1]
    magnitude, sign, center = (t.double().contiguous() for t in (draw.magnitude, draw.sign, draw.center))
    matrices = torch.empty(len(WARPS), n, k, 2, 3, dtype=torch.float64)
    if k:
        flat = kernels.Parameters(magnitude.flatten(), sign.flatten(), center.flatten(0, 1))
        torch.stack(
            [kernels.OPERATIONS[name].make(flat, height, width) for name in WARPS],
            out=matrices.view(len(WARPS), n * k, 2, 3),
        )
    out, empty = torch.empty_like(images), torch.empty(0, 2, dtype=torch.float32)
    shift, flip = (empty.long(), torch.empty(0, dtype=torch.bool)) if draw.shift is None else (draw.shift, draw.flip)
    fill = torch.zeros(channels, dtype=torch.uint8) if basics.fill is None else basics.fill
    tensors = (
        draw.ops,
        magnitude,
        sign,
        center,
        matrices,
        shift,
        flip,
        empty if draw.hole is None else draw.hole,
        fill,
    )
    ops, magnitude, sign, center, matrices, shift, flip, hole, fill = (t.contiguous().numpy() for t in tensors)
    # not split over threads: a batch takes a few milliseconds, and two threads took no less (on two busy cores)
    valid = _run(
        images.flatten(2).numpy(),
        out.flatten(2).numpy(),
        width,
        WIDEST,
        ops,
        magnitude,
        sign,
        center,
        matrices,
        basics.pad,
        shift,
        flip,
        hole,
        basics.cutout,
        fill,
    )
    return out if valid else None


def _taken(images: Tensor, draw, basics) -> bool:
    parts = [
        t for t in (draw.ops, draw.magnitude, draw.sign, draw.center, draw.shift, draw.flip, draw.hole) if t is not None
    ]
    if (
        not FUSED
        or type(images) is not Tensor
        or images.dtype != torch.uint8
        or images.ndim != 4
        or images.numel() == 0
    ):
        return False
    (n, channels, height, width), k = images.shape, draw.ops.shape[1]
    return (
        all(t.device.type == "cpu" for t in (images, *parts))
        and (height + 2) * (width + 2) < 2**24
        and (k == 0 or channels in (1, 3))
        and all(t.shape == (n, k) for t in parts[:3])
        and draw.center.shape == (n, k, 2)
        and draw.ops.dtype == torch.int64
        and (
            draw.shift is None
            or (draw.shift.shape == (n, 2) and draw.shift.dtype == torch.int64 and draw.flip.shape == (n,))
        )
        and (draw.hole is None or (draw.hole.shape == (n, 2) and draw.hole.dtype == torch.float32))
        and (basics.fill is None or (basics.fill.shape == (channels,) and basics.fill.dtype == torch.uint8))
    )
