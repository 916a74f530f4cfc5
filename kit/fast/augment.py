"""`Policy.apply` on the CPU by the compiled kernels of `pixels.py`: one call for a whole batch.

Needs numba (the extra `fast`). What is not taken here goes the way of torch, which is the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kit.augment.kernels import OPERATIONS, Parameters
from kit.augment.ops import WIDEST
from kit.fast.pixels import KNOWN, OP, Drawn, Recipe, run_compiled

assert OP._fields == tuple(OPERATIONS)[:KNOWN], "kit/fast/pixels.py must number the operations as kit/augment does"
WARPS = ("Rotate", "ShearX", "ShearY")  # as `pixels.operate` numbers their matrices
# whether torch's kernels round a product and its sum together on this processor, as `pixels.py` does
_PROBE = torch.full((64,), 1 + 2.0**-12, dtype=torch.float32)
FUSED = bool((_PROBE.addcmul(_PROBE, _PROBE, value=-1) != _PROBE - _PROBE * _PROBE).all())


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
        flat = Parameters(magnitude.flatten(), sign.flatten(), center.flatten(0, 1))
        found = [OPERATIONS[name].make(flat, height, width) for name in WARPS]
        torch.stack(found, out=matrices.view(len(WARPS), n * k, 2, 3))
    shift = torch.empty(0, 2, dtype=torch.int64) if draw.shift is None else draw.shift
    flip = torch.empty(0, dtype=torch.bool) if draw.flip is None else draw.flip
    hole = torch.empty(0, 2, dtype=torch.float32) if draw.hole is None else draw.hole
    fill = torch.zeros(channels, dtype=torch.uint8) if basics.fill is None else basics.fill
    tensors = (draw.ops, magnitude, sign, center, matrices, shift, flip, hole)
    drawn = Drawn(*(t.contiguous().numpy() for t in tensors))
    recipe = Recipe(WIDEST, basics.pad, basics.cutout, fill.contiguous().numpy())
    out = torch.empty_like(images)
    # not split over threads: a batch takes a few milliseconds, and two threads took no less (on two busy cores)
    done = run_compiled(images.flatten(2).numpy(), out.flatten(2).numpy(), width, drawn, recipe)
    return out if done else None


def _taken(images: Tensor, draw, basics) -> bool:
    if not FUSED or type(images) is not Tensor or images.dtype != torch.uint8 or images.ndim != 4:
        return False
    (n, channels, height, width), k = images.shape, draw.ops.shape[1]
    expected = (
        (draw.ops, (n, k), torch.int64),
        (draw.magnitude, (n, k), None),
        (draw.sign, (n, k), None),
        (draw.center, (n, k, 2), None),
        (draw.shift, (n, 2), torch.int64),
        (draw.flip, (n,), torch.bool),
        (draw.hole, (n, 2), torch.float32),
        (basics.fill, (channels,), torch.uint8),
    )
    return (
        images.numel() > 0
        and images.device.type == "cpu"
        and (height + 2) * (width + 2) < 2**24
        and (k == 0 or channels in (1, 3))
        and (draw.shift is None) == (draw.flip is None)
        and all(
            t is None or (t.device.type == "cpu" and t.shape == shape and dtype in (None, t.dtype))
            for t, shape, dtype in expected
        )
    )
