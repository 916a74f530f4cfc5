"""`Policy.apply` on the CPU by the compiled kernels of `pixels.py`: one call for a whole batch.

Needs numba (the extra `fast`). What is not taken here goes the way of torch, which is the reference.
"""

import torch
from torch import Tensor

from kit.augment.ops import OPERATIONS, WIDEST, Parameters
from kit.fast.pixels import KNOWN, OP, Drawn, Recipe, run_compiled

assert OP._fields == tuple(OPERATIONS)[:KNOWN], "kit/fast/pixels.py must number the operations as kit/augment does"
WARPS = ("Rotate", "ShearX", "ShearY")  # as `pixels.operate` numbers their matrices
# whether torch's kernels round a product and its sum together on this processor, as `pixels.py` does
_PROBE = torch.full((64,), 1 + 2.0**-12, dtype=torch.float32)
FUSED = bool((_PROBE.addcmul(_PROBE, _PROBE, value=-1) != _PROBE - _PROBE * _PROBE).all())


def apply(images: Tensor, draw, basics) -> Tensor | None:
    """`Policy.apply` for images uint8 [n, C, H, W] on the CPU; None where they or the draw are not of the kind taken
    here, or not valid."""
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
    # not split over threads: a batch takes a few milliseconds, and two threads took no less (on two busy cores)
    done = run_compiled(images.contiguous().flatten(2).numpy(), out.flatten(2).numpy(), width, drawn, recipe)
    return out if done else None


def _taken(images: Tensor, draw) -> bool:
    if not FUSED or type(images) is not Tensor or images.dtype != torch.uint8 or images.ndim != 4 or draw.ops.ndim != 2:
        return False
    (n, k), channels = draw.ops.shape, images.shape[1]
    shapes = {"ops": (n, k), "magnitude": (n, k), "sign": (n, k), "center": (n, k, 2)}
    shapes |= {"shift": (n, 2), "flip": (n,), "hole": (n, 2)}
    given = [(t, shape) for name, shape in shapes.items() if (t := getattr(draw, name)) is not None]
    fits = all(t.shape == shape and t.device.type == "cpu" for t, shape in given)
    whole = (draw.shift is None) == (draw.flip is None) and n == len(images) and images.numel() > 0
    return fits and whole and images.device.type == "cpu" and (k == 0 or channels in (1, 3))
