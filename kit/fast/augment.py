"""`Policy.apply` on the CPU, compiled by numba (the extra `fast`): an image goes through all of its operations while it
lies in the cache. The pixels are those of the reference, `kit.augment` in torch, to the bit: products are fused with
sums where torch's kernels fuse them. All stands in one file, since numba's cache sees changes in one file only."""

from collections import namedtuple
from collections.abc import Callable

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from kit.augment.ops import OPERATIONS, WIDEST, Parameters

NAMES = "AutoContrast Equalize Rotate Posterize Solarize Color Contrast Brightness Sharpness ShearX ShearY "
NAMES += "TranslateX TranslateY Identity Invert Cutout"
KNOWN = len(NAMES.split())
OP = namedtuple("Operations", NAMES)(*range(KNOWN))  # spelled out: what numba has cached does not follow a change
assert OP._fields == tuple(OPERATIONS)[:KNOWN], "kit/fast/augment.py must number the operations as kit/augment does"
Drawn = namedtuple("Drawn", "ops magnitude sign center matrices shift flip hole")
Recipe = namedtuple("Recipe", "widest pad side fill")
# float32 throughout: numba would take Python's numbers as float64
ZERO, HALF, ONE, TOP = (np.float32(v) for v in (0, 0.5, 1, 255))
RED, GREEN, BLUE, PER_LEVEL, THIRTEENTH = (np.float32(v) for v in (0.2989, 0.587, 0.114, 1.0 / 255, 1.0 / 13.0))

# Divisions by zero give inf, as in torch: without a branch, loops vectorise. Without wrappers to call it from Python.
inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # images: uint8 [C, H*W]


@intrinsic
def fma(typing, a, b, c):
    """a · b + c rounded once, as torch's kernels do; numba by itself never contracts."""
    return types.float32(*[types.float32] * 3), lambda context, builder, signature, arguments: builder.fma(*arguments)


@inner
def to_uint8(value):
    value = value if value > ZERO else ZERO
    return np.uint8(np.int32(value if value < TOP else TOP))


@inner
def gray_of(image, i):
    if len(image) == 1:
        return np.float32(image[0, i])
    red, green, blue = np.float32(image[0, i]), np.float32(image[1, i]), np.float32(image[2, i])
    return np.float32(np.int32(fma(blue, BLUE, fma(green, GREEN, red * RED))))


@inner
def copy(image, done):
    values, out = image.reshape(image.size), done.reshape(image.size)
    for i in range(values.size):
        out[i] = values[i]


@inner
def equalized(plane, table):
    counts, before = np.zeros(256, np.int64), 0
    for i in range(plane.size):
        counts[plane[i]] += 1
    # PIL's rule: one output level per `step` pixels, not counting those of the brightest level present
    step = (plane.size - counts[plane.max()]) // 255
    for level in range(256):
        table[level] = min((before + step // 2) // step, 255) if step else level
        before += counts[level]


@inner
def tabulated(plane, table, op, magnitude, factor, added):
    """What each level becomes. added: of Contrast, 1 - factor and the mean gray."""
    low, high = np.float32(plane.min()), np.float32(plane.max())
    base, scale = (ZERO, ONE) if low == high else (low, (high - low) * PER_LEVEL)
    kept = (255 << min(int(np.rint(4 * magnitude / 10)), 8)) & 255
    threshold = np.float32(255 * (1 - magnitude / 10)) if op == OP.Solarize else ZERO
    for level in range(256):
        value = np.float32(level)
        if op == OP.AutoContrast:
            table[level] = to_uint8((value - base) / scale)
        elif op == OP.Contrast:
            table[level] = to_uint8(fma(added[1], added[0], value * factor))
        elif op == OP.Brightness:
            table[level] = to_uint8(value * factor)
        elif op == OP.Posterize:
            table[level] = level & kept
        else:  # Solarize, Invert
            table[level] = level if value < threshold else 255 - level


@inner
def by_table(image, done, op, magnitude, factor, rest):
    total, table = 0, np.empty(256, np.uint8)
    if op == OP.Contrast:
        for i in range(image.shape[1]):
            total += np.int32(gray_of(image, i))
    mean = np.float32(total / image.shape[1])
    for c in range(len(image)):
        if op == OP.Equalize:
            equalized(image[c], table)
        else:
            tabulated(image[c], table, op, magnitude, factor, (rest, mean))
        for i in range(image.shape[1]):
            done[c, i] = table[image[c, i]]


@inner
def color(image, done, factor, rest):
    for i in range(image.shape[1]):
        gray = gray_of(image, i)
        for c in range(3):
            done[c, i] = to_uint8(fma(gray, rest, np.float32(image[c, i]) * factor))


@inner
def sharpness(image, done, width, rest):
    copy(image, done)  # the border stays
    for c in range(len(image)):
        for y in range(1, image.shape[1] // width - 1):
            above, row = image[c, (y - 1) * width : y * width], image[c, y * width : (y + 1) * width]
            below, out = image[c, (y + 1) * width : (y + 2) * width], done[c, y * width : (y + 1) * width]
            for x in range(1, width - 1):
                total = np.int32(4) * row[x]  # and each of the nine once; whole numbers are exact in any order
                for k in range(x - 1, x + 2):
                    total += np.int32(above[k]) + np.int32(row[k]) + np.int32(below[k])
                center = np.float32(row[x])
                out[x] = to_uint8(fma(np.rint(np.float32(total) * THIRTEENTH) - center, rest, center))


@inner
def move(image, done, width, down, right, mirrored):
    """By whole pixels, zeros where nothing comes from."""
    for c in range(len(image)):
        for y in range(image.shape[1] // width):
            start = (y - down) * width
            inside = 0 <= start < image.shape[1]
            for x in range(width):
                column = x - right
                to = y * width + (width - 1 - x if mirrored else x)
                done[c, to] = image[c, start + column] if inside and 0 <= column < width else 0


@inner
def source(coefficients, x, y, side):
    """Nearest source column (or row); -1 or `side` is outside the image."""
    half = np.float32(0.5 * side)
    value = np.rint((((x * coefficients[0] + y * coefficients[1]) + coefficients[2]) + ONE) * half - HALF)
    value = value if value > -ONE else -ONE
    return np.int32(value if value < np.float32(side) else np.float32(side))


@inner
def warp(image, done, width, matrix):
    height, index = image.shape[1] // width, np.empty(width, np.int32)
    to_column, to_row = np.empty(3, np.float32), np.empty(3, np.float32)
    for k in range(3):
        to_column[k] = np.float64(np.float32(matrix[0, k])) / (0.5 * width)
        to_row[k] = np.float64(np.float32(matrix[1, k])) / (0.5 * height)
    for y in range(height):
        down = np.float32(y - 0.5 * (height - 1))
        for x in range(width):
            right = np.float32(x - 0.5 * (width - 1))
            row, column = source(to_row, right, down, height), source(to_column, right, down, width)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index[x] = row * width + column if inside else -1
        for c in range(len(image)):
            for x in range(width):
                done[c, y * width + x] = image[c, index[x]] if index[x] >= 0 else 0


@inner
def cut(image, width, top, left, side, fill):
    height = image.shape[1] // width
    for c in range(len(image)):
        for y in range(max(top, 0), min(top + side, height)):
            for x in range(max(left, 0), min(left + side, width)):
                image[c, y * width + x] = fill[c]


@inner
def operate(image, done, width, drawn, i, k):
    op, magnitude, sign, center = drawn.ops[i, k], drawn.magnitude[i, k], drawn.sign[i, k], drawn.center[i, k]
    height, double = image.shape[1] // width, 1.0 + sign * (0.9 * magnitude / 10)
    factor, rest = np.float32(double), np.float32(1 - double)
    if op == OP.Color and len(image) == 3:
        color(image, done, factor, rest)
    elif op == OP.Sharpness and min(height, width) > 2:
        sharpness(image, done, width, rest)
    elif op == OP.TranslateX or op == OP.TranslateY:
        pixels = int(sign * np.floor(150.0 / 331.0 * (width if op == OP.TranslateX else height) * magnitude / 10))
        move(image, done, width, pixels if op == OP.TranslateY else 0, pixels if op == OP.TranslateX else 0, False)
    elif op == OP.Rotate or op == OP.ShearX or op == OP.ShearY:
        warp(image, done, width, drawn.matrices[0 if op == OP.Rotate else 1 if op == OP.ShearX else 2, i, k])
    elif op == OP.Color or op == OP.Sharpness or op == OP.Cutout or op == OP.Identity:
        copy(image, done)
        if op == OP.Cutout:
            side = int(np.rint(60.0 / 331.0 * min(height, width) * magnitude / 10))
            row, column = int(np.floor(center[0] * height)), int(np.floor(center[1] * width))
            cut(done, width, row - side // 2, column - side // 2, side, np.zeros(3, np.uint8))
    else:
        by_table(image, done, op, magnitude, factor, rest)


@inner
def valid(drawn, recipe, i):
    if len(drawn.shift) and (min(drawn.shift[i]) < 0 or max(drawn.shift[i]) > 2 * recipe.pad):
        return False
    for k in range(drawn.ops.shape[1]):
        row, column = drawn.center[i, k]
        known = 0 <= drawn.ops[i, k] < KNOWN and abs(drawn.sign[i, k]) == 1
        if not (known and 0 <= drawn.magnitude[i, k] <= recipe.widest and 0 <= row < 1 and 0 <= column < 1):
            return False
    return True


def compiled(function: Callable) -> Callable:
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache that can be written
        return njit(nogil=True, error_model="numpy")(function)


@compiled
def run(images, out, width, drawn, recipe):
    """Images [n, C, H*W] into `out`. False, with some of the images done, where a number of the draw is not allowed."""
    n, channels, size = images.shape
    image, done = np.empty((channels, size), np.uint8), np.empty((channels, size), np.uint8)
    for i in range(n):
        if not valid(drawn, recipe, i):
            return False
        if len(drawn.shift):
            down, right = drawn.shift[i]
            move(images[i], image, width, recipe.pad - down, recipe.pad - right, drawn.flip[i])
        else:
            copy(images[i], image)
        for k in range(drawn.ops.shape[1]):
            operate(image, done, width, drawn, i, k)
            image, done = done, image
        copy(image, out[i])
        if len(drawn.hole):
            row, column = drawn.hole[i]
            top, left = np.int64(row * np.float32(size // width)), np.int64(column * np.float32(width))
            cut(out[i], width, top - recipe.side // 2, left - recipe.side // 2, recipe.side, recipe.fill)
    return True


WARPS = ("Rotate", "ShearX", "ShearY")  # as `operate` numbers their matrices
# whether torch's kernels round a product and its sum together on this processor, as `fma` does
_PROBE = torch.full((64,), 1 + 2.0**-12, dtype=torch.float32)
FUSED = bool((_PROBE.addcmul(_PROBE, _PROBE, value=-1) != _PROBE - _PROBE * _PROBE).all())


def apply(images: Tensor, draw, basics) -> Tensor | None:
    """`Policy.apply` for images uint8 [n, C, H, W] on the CPU; None for what is not taken here, or not valid."""
    if not _taken(images, draw):
        return None
    (n, channels, height, width), k = images.shape, draw.ops.shape[1]
    magnitude, sign, center = draw.magnitude.double(), draw.sign.double(), draw.center.double()
    matrices = torch.empty(len(WARPS), n, k, 2, 3, dtype=torch.float64)
    if k:
        flat = Parameters(magnitude.flatten(), sign.flatten(), center.flatten(0, 1))
        made = [OPERATIONS[name].make(flat, height, width) for name in WARPS]
        torch.stack(made, out=matrices.view(len(WARPS), n * k, 2, 3))
    shift = torch.empty(0, 2, dtype=torch.int64) if draw.shift is None else draw.shift
    flip = torch.empty(0, dtype=torch.bool) if draw.flip is None else draw.flip
    hole = torch.empty(0, 2, dtype=torch.float32) if draw.hole is None else draw.hole
    fill = torch.zeros(channels, dtype=torch.uint8) if basics.fill is None else basics.fill
    tensors = (draw.ops, magnitude, sign, center, matrices, shift, flip, hole)
    drawn = Drawn(*(t.contiguous().numpy() for t in tensors))
    recipe = Recipe(WIDEST, basics.pad, basics.cutout, fill.contiguous().numpy())
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    done = run(images.contiguous().flatten(2).numpy(), out.flatten(2).numpy(), width, drawn, recipe)
    return out if done else None


def _taken(images: Tensor, draw) -> bool:
    if not FUSED or type(images) is not Tensor or images.dtype != torch.uint8 or images.ndim != 4 or draw.ops.ndim != 2:
        return False
    (n, k), channels = draw.ops.shape, images.shape[1]
    shapes = {"magnitude": (n, k), "sign": (n, k), "center": (n, k, 2), "shift": (n, 2), "flip": (n,), "hole": (n, 2)}
    given = [(t, shape) for name, shape in shapes.items() if (t := getattr(draw, name)) is not None]
    fits = all(t.shape == shape and t.device.type == "cpu" for t, shape in [*given, (draw.ops, (len(images), k))])
    whole = (draw.shift is None) == (draw.flip is None) and images.numel() > 0
    return fits and whole and images.device.type == "cpu" and (k == 0 or channels in (1, 3))
