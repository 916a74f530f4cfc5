"""One search on several processes ("ranks"): `torchrun --nproc_per_node=2 -m kit dataset=… method=…`.

Every rank draws the whole batch's rows, transformations, masks and the one child from generators that all ranks share,
and computes its own slice. Gradients are averaged and signals gathered, so that every learner is updated alike on every
rank. Without torchrun every function here gives back what it is given."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kit.errors import KitError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=5)  # in a step, for a rank that hangs; one that dies is noticed at once
PATIENCE = timedelta(hours=24)  # outside: a data set may be fetched and decoded before the first step
AGAIN = "start the same again, it goes on from the last checkpoint"

_group: Any = None  # the patient group; None: this process is alone


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within it the processes of torchrun, or of a process group that takes CPU tensors too, work as one search."""
    global _group
    several = dist.is_available() and (dist.is_initialized() or dist.is_torchelastic_launched())
    if _group is not None or not several:
        yield
        return
    if not dist.is_initialized():
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    _group = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        _group = None


def leave() -> None:
    """Close the connections, at the end of a process whose search is done. One that failed just ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """0: the rank that writes files and reports."""
    return 0 if _group is None else dist.get_rank()


def count() -> int:
    return 1 if _group is None else dist.get_world_size()


def own_device(device: torch.device) -> torch.device:
    """This rank's GPU, on GPUs. Raises KitError where there are too few, or where `device` is one of them."""
    if count() == 1 or device.type != "cuda":
        return device
    there, mine = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", rank()))
    if device.index is not None or there <= mine:
        use = f"device='cuda' and torchrun --nproc_per_node={there} at most, or device='cpu'"
        raise KitError(f"device={str(device)!r}: {count()} ranks need a GPU each: use {use}")
    torch.cuda.set_device(mine)
    return torch.device("cuda", mine)


class RaisedElsewhere(KitError):
    """Another rank raises, and prints, the same error."""


def _exchange(operation: Callable[..., Any], *given: Any, **options: Any) -> None:
    try:
        operation(*given, **options)
    except RuntimeError as error:
        raise KitError(f"another rank has ended or does not answer ({error}); its message says why: {AGAIN}") from error


def together(action: Callable[[], T]) -> T:
    """action() on every rank. A KitError on one is raised on all of them, so that none waits for those that stopped."""
    if count() == 1:
        return action()
    value, failure, messages = None, None, [None] * count()
    try:
        value = action()
    except KitError as error:
        failure = error
    _exchange(dist.all_gather_object, messages, failure and str(failure), group=_group)
    for failed, message in enumerate(messages):
        if message is not None:
            raise failure if failed == rank() else RaisedElsewhere(message)
    return value


def on_first(action: Callable[[], T]) -> T:
    """action() on the first rank, and its value on all of them; its KitError is raised on all of them."""
    value = [together(lambda: None if rank() else action())]
    if count() > 1:
        _exchange(dist.broadcast_object_list, value, src=0, group=_group)
    return value[0]


def own(of_all: T) -> T:
    """This rank's samples of the whole batch's: of a tensor [N, …], or of a dataclass of such tensors and Nones."""
    if count() == 1:
        return of_all
    if isinstance(of_all, Tensor):
        return of_all.chunk(count())[rank()]
    return dataclasses.replace(of_all, **{name: own(t) for name, t in vars(of_all).items() if t is not None})


def gather(tensor: Tensor) -> Tensor:
    """The whole batch's samples [N, …] from every rank's [n, …]; no gradient passes."""
    return tensor if count() == 1 else side_by_side(tensor.detach()).flatten(0, 1)


def mean(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The ranks' mean of each tensor, the same to the bit on all ranks, in one message; None stays None."""
    given = [t.detach() for t in tensors if t is not None]
    if count() == 1 or not given:
        return list(tensors)
    flat = total(torch.cat([t.reshape(-1) for t in given])).div_(count())
    parts = iter(flat.split([t.numel() for t in given]))
    # of the tensors' own types and memory layouts
    return [None if t is None else torch.empty_like(t).copy_(next(parts).view(t.shape)) for t in tensors]


def total(tensor: Tensor) -> Tensor:
    """The sum over the ranks, in the given tensor's place."""
    if count() > 1:
        _exchange(dist.all_reduce, tensor)
    return tensor


class Total(torch.autograd.Function):
    """The sum over ranks, differentiable to any order: its derivative, forward and backward, is itself."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return total(x.detach().clone())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return Total.apply(g)

    jvp = backward


def side_by_side(tensor: Tensor) -> Tensor:
    """Every rank's tensor: [ranks, …], differentiable."""
    empty = torch.zeros_like(tensor)
    return Total.apply(torch.stack([tensor if r == rank() else empty for r in range(count())]))


def check_agreement(tensors: Sequence[Tensor]) -> None:
    """Raises KitError where the ranks' variables differ by more than rounding, as after drawing different children."""
    if count() > 1 and tensors:
        sizes = side_by_side(torch.stack([t.detach().double().abs().sum().cpu() for t in tensors]))
        if (sizes.amax(0) - sizes.amin(0) > 1e-5 * sizes.amax(0)).any():
            raise KitError(f"the ranks' variables have drifted apart (rank {rank()}): {AGAIN}")
