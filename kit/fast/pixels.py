"""kit's image operations, compiled by numba: an image goes through all of a draw while it lies in the cache.

The same pixels as in torch (`kit.augment`), to the bit: float32 and float64 round in the same places, and products are
fused with sums where torch's kernels fuse them. All that is compiled stands in this file, for numba's cache sees what
changes in one file only.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

KNOWN = 16  # operations
OP = namedtuple(
    "Operations",
    "AutoContrast Equalize Rotate Posterize Solarize Color Contrast Brightness Sharpness ShearX ShearY "
    "TranslateX TranslateY Identity Invert Cutout",
)(*range(KNOWN))
Drawn = namedtuple("Drawn", "ops magnitude sign center matrices shift flip hole")
Recipe = namedtuple("Recipe", "widest pad side fill")
# float32 throughout: numba would take Python's numbers as float64
ZERO, HALF, ONE, TOP = (np.float32(v) for v in (0, 0.5, 1, 255))
RED, GREEN, BLUE, PER_LEVEL, THIRTEENTH = (np.float32(v) for v in (0.2989, 0.587, 0.114, 1.0 / 255, 1.0 / 13.0))

# A division by zero gives inf, as in torch: without a branch, loops vectorise. Called from compiled code only, which
# spares compiling wrappers for Python.
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


# ---- one image: from uint8 [C, H*W] into `done` of the same shape


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
    even, odd, before = np.empty(256, np.int32), np.empty(256, np.int32), np.empty(256, np.int32)
    table = np.empty(256, np.uint8)
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
        for level in range(256):  # quotients in float64 vectorise, and cut off they are the integers' quotients
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
def operate(image, done, width, drawn, i, k, frame):
    """Image i's operation k, of any kind."""
    op, magnitude, sign, center = drawn.ops[i, k], drawn.magnitude[i, k], drawn.sign[i, k], drawn.center[i, k]
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
        warp(image, done, width, drawn.matrices[0 if op == OP.Rotate else 1 if op == OP.ShearX else 2, i, k], frame)
    elif op == OP.Color or op == OP.Sharpness or op == OP.Cutout:
        copy(image, done)
        if op == OP.Cutout:
            side = int(np.rint(60.0 / 331.0 * min(height, width) * magnitude / 10))
            row, column = int(np.floor(center[0] * height)), int(np.floor(center[1] * width))
            cut(done, width, row - side // 2, column - side // 2, side, np.zeros(3, np.uint8))
    else:
        bytewise(image, done, op, magnitude, factor)


# ---- the batch -----------------------------------------------------------------------------------


@inner
def valid(drawn, recipe, i):
    if len(drawn.shift) and (min(drawn.shift[i]) < 0 or max(drawn.shift[i]) > 2 * recipe.pad):
        return False
    for k in range(drawn.ops.shape[1]):
        row, column = drawn.center[i, k]
        if not (
            0 <= drawn.ops[i, k] < KNOWN
            and 0 <= drawn.magnitude[i, k] <= recipe.widest
            and abs(drawn.sign[i, k]) == 1
            and 0 <= row < 1
            and 0 <= column < 1
        ):
            return False
    return True


def run(images, out, width, drawn, recipe):
    """Images [n, C, H*W] into `out`. False, with some of the images done, where a number of the draw is not allowed."""
    n, channels, size = images.shape
    height = size // width
    spare, frame = np.empty((channels, size), np.uint8), np.zeros((height + 2) * (width + 2), np.uint32)
    for i in range(n):
        if not valid(drawn, recipe, i):
            return False
        image, result, at_result = images[i], out[i], False
        if len(drawn.shift):
            down, right = drawn.shift[i]
            move(image, result, width, recipe.pad - down, recipe.pad - right, drawn.flip[i])
            image, at_result = result, True
        for k in range(drawn.ops.shape[1]):
            if drawn.ops[i, k] != OP.Identity:
                done, at_result = (spare, False) if at_result else (result, True)
                operate(image, done, width, drawn, i, k, frame)
                image = done
        if not at_result:
            copy(image, result)
        if len(drawn.hole):
            row, column = drawn.hole[i]
            top, left = np.int64(row * np.float32(height)), np.int64(column * np.float32(width))
            cut(result, width, top - recipe.side // 2, left - recipe.side // 2, recipe.side, recipe.fill)
    return True


def compiled(function: Callable) -> Callable:
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache that can be written
        return njit(nogil=True, error_model="numpy")(function)


run_compiled = compiled(run)
