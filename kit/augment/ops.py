"""Image transformations on uint8 batches, every sample with its own operation, magnitude and sign.

Ranges are AutoAugment's as torchvision uses them, and pixels equal `torchvision.transforms.v2.functional` on uint8
tensors. Grids are float32, one rounding per operation, so that a draw gives the same picture on every device;
torchvision takes them from the machine's BLAS, which may round a pixel on the edge of two cells the other way.
DHA and DiffAutoML use `OPS`, DAAS `DAAS_OPS`; draws hold indices into `operations()`.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kit.augment.kernels import OPERATIONS, Parameters, levels_of, look_up, matrix_of, warp
from kit.errors import KitError
from kit.registry import Part


class _Names(Sequence[str]):
    """The names in `OPERATIONS`, those registered later included."""

    def __getitem__(self, index):
        return tuple(OPERATIONS)[index]

    def __len__(self) -> int:
        return len(OPERATIONS)


ALL_OPS: Sequence[str] = _Names()
OPS = ALL_OPS[:14]
DAAS_OPS = (*OPS[:13], "Invert", "Cutout")
WIDEST = 60  # the largest magnitude of a batch: 10 is the papers' range, TrivialAugment's reach 45
MIX_COLOURS = ("Color", "Contrast")

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
                got = f"{done.dtype} {list(done.shape)}" if isinstance(done, Tensor) else type(done).__name__
                raise KitError(
                    f"operation {name!r} must return a uint8 tensor {list(images.shape)} like its images, got {got}"
                )
            return done

        OPERATIONS.register(name, title=title, kind="image", signed=signed)(apply)
        return function

    return add


def apply_op(name: str, images: Tensor, magnitude, sign=None, center=None) -> Tensor:
    """One operation on a whole batch, each sample with its own parameters.

    Args:
        name: one of `operations()`.
        images: uint8 [N, C, H, W]. Color and Contrast need C = 1 or 3 (Color leaves one channel as it is).
        magnitude: [N] or one number, in [0, 10]; 10 is shear 0.3, 150/331 of the side for translations, 30 degrees,
            factor 1 ± 0.9, 4 bits, solarize threshold 0, a square cutout of 60/331 of the shorter side.
        sign: [N] of ±1, None for +1; only signed operations look at it.
        center: [N, 2] (row, column) in [0, 1), None for the middle; only Cutout looks at it.

    Returns:
        uint8 [N, C, H, W], a new tensor.

    Raises:
        TypeError, ValueError: what is not as above. Looking at the values waits for an accelerator.

    Source: METHOD.md section 1; ranges of torchvision.transforms.v2.AutoAugment.
    """
    part = OPERATIONS[name]
    _check_images(images, any_channels=name not in MIX_COLOURS)
    parameters = _parameters(images, magnitude, sign, center, largest=10)
    images = images.clone(memory_format=torch.contiguous_format)
    return _apply(part, images, parameters) if images.numel() else images


def apply_mixed(
    images: Tensor, ops: Tensor, magnitude, sign=None, center=None, *, grouped: bool | None = None
) -> Tensor:
    """Sample n goes through operation operations()[ops[n]]; the same pixels as `apply_op` sample by sample.

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3.
        ops: int64 [N], indices into `operations()`.
        magnitude, sign, center: as in `apply_op`, but magnitudes may go on to 60, and kit's ranges go on linearly:
            TrivialAugment's wide ones need it.
        grouped: True sorts the samples, so that each costs its own operation only, but waits for the device; False
            computes every operation for all samples, and never waits. None takes True on the CPU, False elsewhere.

    Returns:
        uint8 [N, C, H, W], a new tensor.

    Raises:
        TypeError, ValueError: as in `apply_op`. With grouped=False on an accelerator only types and shapes are
            checked, since looking at values would stall it: there an index of no operation acts as Identity.
    """
    _check_images(images, any_channels=False)
    on_cpu = images.device.type == "cpu"
    grouped = on_cpu if grouped is None else grouped
    parameters = _parameters(images, magnitude, sign, center, largest=WIDEST if on_cpu or grouped else None)
    if not isinstance(ops, Tensor) or ops.dtype != torch.int64:
        raise TypeError(f"ops must be an int64 tensor [N] of indices into operations(), got {_kind(ops)}")
    _check_shape("ops", ops, (len(images),), images)
    if on_cpu or grouped:
        count = len(OPERATIONS)
        _check_values("ops", ops, (ops >= 0) & (ops < count), f"indices into operations(), 0 to {count - 1}")
    if images.numel() == 0:
        return images.clone()
    images = images.contiguous()
    return (_apply_grouped if grouped else _apply_masked)(images, ops, parameters)


# ---- the ways to compute -------------------------------------------------------------------------


def _apply(part: Part, images: Tensor, parameters: Parameters) -> Tensor:
    """One operation on all images."""
    if part.settings["kind"] == "table":
        return look_up(images, part.make(levels_of(images), images, parameters))
    if part.settings["kind"] == "matrix":
        return warp(images, part.make(parameters, *images.shape[2:]))
    return part.make(images, parameters)


def _apply_grouped(images: Tensor, ops: Tensor, parameters: Parameters) -> Tensor:
    # temporaries take up to 8 bytes a pixel: in portions they stay in a CPU's cache
    portion = max(1, 2**20 // images[0].numel()) if images.device.type == "cpu" else len(images)
    order, done = [], []
    for index in ops.unique().tolist():
        for rows in (ops == index).nonzero().squeeze(1).split(portion):
            order.append(rows)
            done.append(_apply(OPERATIONS[ALL_OPS[index]], images.index_select(0, rows), parameters.take(rows)))
    return torch.cat(done).index_select(0, torch.cat(order).argsort())


def _apply_masked(images: Tensor, ops: Tensor, parameters: Parameters) -> Tensor:
    """All tables are merged into one and all matrices into one, so that the batch is looked up once and warped once."""
    done, levels = images, levels_of(images)
    tables, matrix = levels.to(torch.uint8), matrix_of(parameters.magnitude)
    for index, part in enumerate(OPERATIONS.values()):
        chosen = (ops == index)[:, None, None]
        if part.settings["kind"] == "table":
            tables = torch.where(chosen, part.make(levels, images, parameters), tables)
        elif part.settings["kind"] == "matrix":
            matrix = torch.where(chosen, part.make(parameters, *images.shape[2:]), matrix)
        else:
            done = torch.where(chosen[..., None], part.make(images, parameters), done)
    return warp(look_up(done, tables), matrix)


# ---- checks --------------------------------------------------------------------------------------


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


def _parameters(images: Tensor, magnitude, sign, center, largest: float | None) -> Parameters:
    """largest: of the magnitudes; None: do not look at values."""

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
    if largest is not None:
        _check_values("magnitude", m, (m >= 0) & (m <= largest), f"in [0, {largest}]")
        _check_values("sign", s, s.abs() == 1, "+1 or -1")
        _check_values("center", c, (c >= 0) & (c < 1), "in [0, 1), (row, column) relative to the image's sides")
    return Parameters(m, s, c)
