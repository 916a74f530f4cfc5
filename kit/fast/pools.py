"""3×3 pools for training on the CPU, as fast as depthwise convolutions; the reference is torch's own."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kit.fast.depthwise import depthwise


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Maximum over a 3×3 window: [N, C, H, W] → [N, C, ceil(H/stride), ceil(W/stride)].

    bfloat16 goes by way of float32, in which torch's kernels take half the time; a maximum is exact in both.
    """
    wide = x.float() if x.dtype == torch.bfloat16 else x
    return F.max_pool2d(wide, 3, stride, 1).to(x.dtype)


def average_pool(x: Tensor, stride: int) -> Tensor:
    """Mean of those pixels of a 3×3 window that lie in the image: [N, C, H, W] → [N, C, ceil(H/stride),
    ceil(W/stride)], H and W at least 2.

    A depthwise convolution by 1/9 sums the pixels. A window at an edge holds 6 of its 9 pixels, so there the mean is
    9/6 = 3/2 of that; in a corner it holds 4, and row and column together give 3/2 · 3/2 = 9/4. In bfloat16 this takes
    a tenth of the time of torch's average pooling with its gradient. There 1/9 is rounded, too (by 0.2%), which the
    BatchNorm that follows takes out again.
    """
    y = depthwise(x, x.new_full((x.shape[1], 1, 3, 3), 1 / 9), stride, 1)
    for axis, view in ((2, (-1, 1)), (3, (-1,))):
        scale = y.new_ones(y.shape[axis])
        scale[0] = 1.5
        # with stride 2 and an even side, the last window ends at the last pixel and does not hang over the border
        if stride == 1 or x.shape[axis] % 2 == 1:
            scale[-1] = 1.5
        y = y.mul_(scale.view(view))
    return y
