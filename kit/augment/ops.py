"""Image transformations on uint8 batches, every sample with its own operation, magnitude and sign.

Ranges are AutoAugment's as torchvision uses them, and pixels equal `torchvision.transforms.v2.functional` on uint8
tensors. Grids are float32, one rounding per operation, so that a draw gives the same picture on every device;
torchvision takes them from the machine's BLAS, which may round a pixel on the edge of two cells the other way.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from kit.augment.kernels import OPERATIONS, Parameters, matrix_of, warp
from kit.errors import KitError
from kit.registry import Part

OPS = tuple(OPERATIONS)[:14]  # DHA's and DiffAutoML's
DAAS_OPS = (*OPS[:13], "Invert", "Cutout")
WIDEST = 60  # the largest magnitude of a batch: 10 is the papers' range, TrivialAugment's reach 45

UserOperation = Callable[[Tensor, Tensor, Tensor], Tensor]


def operations() -> tuple[str, ...]:
    """The names of all operations, in the order of the indices in a draw; a registered one comes last."""
    return tuple(OPERATIONS)


def register_operation(name: str, *, signed: bool = False, title: str = "") -> Callable[[UserOperation], UserOperation]:
    """A decorator that makes a function an operation by name, on every device and beside kit's own.

    The function gets images uint8 [N, C, H, W], magnitude float32 [N] in [0, 10] and sign float32 [N] of ±1 (where
    `signed`, else of +1), all on one device, and returns uint8 [N, C, H, W]. Each image must depend on its own row
    alone, for the batch may be any selection of a training batch.
    """

    def add(function: UserOperation) -> UserOperation:
        @functools.wraps(function)
        def apply(images: Tensor, p: Parameters) -> Tensor:
            magnitude, sign = p.magnitude.clamp(max=10).float(), p.sign.float()
            done = function(images.clone(), magnitude, sign if signed else torch.ones_like(sign))
            if not isinstance(done, Tensor) or done.dtype != torch.uint8 or done.shape != images.shape:
                alike = f"a uint8 tensor {list(images.shape)} like its images"
                raise KitError(f"operation {name!r} must return {alike}, got {_kind(done)}")
            return done

        OPERATIONS.register(name, title=title, geometric=False, signed=signed)(apply)
        return function

    return add


def apply_op(name: str, images: Tensor, magnitude, sign=None, center=None) -> Tensor:
    """One operation on a whole batch, each sample with its own parameters: uint8 [N, C, H, W], a new tensor.

    name: one of `operations()`. images: uint8 [N, C, H, W]; Color and Contrast need C = 1 or 3 (Color leaves one
    channel as it is). magnitude: [N] or one number, in [0, 10]; 10 is shear 0.3, 150/331 of the side for translations,
    30 degrees, factor 1 ± 0.9, 4 bits, solarize threshold 0, a square cutout of 60/331 of the shorter side. sign: [N]
    of ±1, None for +1; only signed operations look at it. center: [N, 2] (row, column) in [0, 1), None for the middle;
    only Cutout looks at it. Raises TypeError or ValueError for what is not so; on a GPU values are not looked at.
    """
    part = OPERATIONS[name]
    parameters = _checked(images, magnitude, sign, center, largest=10, channels=name in ("Color", "Contrast"))
    images = images.clone(memory_format=torch.contiguous_format)
    return _apply(part, images, parameters) if images.numel() else images


def apply_mixed(
    images: Tensor, ops: Tensor, magnitude, sign=None, center=None, *, grouped: bool | None = None
) -> Tensor:
    """Sample n goes through operation operations()[ops[n]]; the same pixels as `apply_op` sample by sample.

    images: uint8 [N, C, H, W], C = 1 or 3. ops: int64 [N]. magnitude, sign, center: as for `apply_op`, but magnitudes
    may go on to 60, and ranges go on linearly: TrivialAugment's wide ones need it. grouped: True computes each
    operation for its own samples, but waits for the device; False computes all of them for all samples, and never
    waits; None is True on the CPU, False elsewhere. Raises as `apply_op`.
    """
    parameters = _checked(images, magnitude, sign, center, largest=WIDEST, channels=True)
    if not isinstance(ops, Tensor) or ops.dtype != torch.int64 or ops.shape != images.shape[:1]:
        raise TypeError(f"ops must be an int64 tensor [{len(images)}] of indices into operations(), got {_kind(ops)}")
    on_cpu, last = images.device.type == "cpu", len(OPERATIONS) - 1
    if on_cpu:
        _check_values("ops", ops, (ops >= 0) & (ops <= last), f"indices into operations(), 0 to {last}")
    if images.numel() == 0:
        return images.clone()
    one_by_one = on_cpu if grouped is None else grouped
    return (_apply_grouped if one_by_one else _apply_masked)(images.contiguous(), ops, parameters)


def _apply(part: Part, images: Tensor, p: Parameters) -> Tensor:
    if part.settings["geometric"]:
        return warp(images, part.make(p, *images.shape[2:]))
    return part.make(images, p)


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
        raise TypeError(f"images must be a uint8 tensor [N, C, H, W], got {_kind(images)}")
    if channels and images.shape[1] not in (1, 3):
        raise ValueError(f"images must have C = 1 or 3 channels where colours are mixed, got C = {images.shape[1]}")

    def real(name: str, values, *shape: int) -> Tensor:
        if isinstance(values, (int, float)):
            return torch.full(shape, float(values), dtype=torch.float64, device=images.device)
        if not isinstance(values, Tensor) or values.shape != shape:
            raise TypeError(f"{name} must be a real tensor {list(shape)} or one number, got {_kind(values)}")
        return values.detach().double()

    n = len(images)
    m, s = real("magnitude", magnitude, n), real("sign", 1 if sign is None else sign, n)
    c = real("center", 0.5 if center is None else center, n, 2)
    if images.device.type == "cpu":
        _check_values("magnitude", m, (m >= 0) & (m <= largest), f"in [0, {largest}]")
        _check_values("sign", s, s.abs() == 1, "+1 or -1")
        _check_values("center", c, (c >= 0) & (c < 1), "in [0, 1), (row, column) relative to the image's sides")
    return Parameters(m, s, c)


def _check_values(name: str, values: Tensor, valid: Tensor, allowed: str) -> None:
    if not bool(valid.all()):
        where = int(valid.view(len(valid), -1).all(1).int().argmin())
        raise ValueError(f"{name} must be {allowed}; sample {where} has {values[where].tolist()}")


def _kind(value) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"
