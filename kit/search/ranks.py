"""One search on several processes ("ranks"), each with its GPU or its cores: `torchrun --nproc_per_node=2 -m kit
dataset=… method=…`.

A step is one step of the whole batch. Every rank draws the whole batch's rows, transformations, masks and the one child
from generators that all ranks share, and computes its own slice. Gradients are averaged as one flat tensor, over the
weights that the child used; per-sample losses and rewards are gathered; and so every learner is updated with the whole
batch's signals, alike on every rank. Nothing that a run keeps depends on the number of ranks. Without torchrun every
function here gives back what it is given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kit.errors import KitError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=5)  # for a rank that hangs; one that dies closes its connections and is noticed at once
PATIENCE = timedelta(hours=24)  # before the first step: a data set may be fetched and decoded
AGAIN = "start the same again, it goes on from the last checkpoint"


@dataclass(frozen=True)
class Ranks:
    """This process among those of the search. control: the group for CPU tensors; patient: one that waits for hours."""

    rank: int = 0
    count: int = 1
    local: int = 0
    control: Any = None
    patient: Any = None


_ranks = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within it the processes of torchrun, or of an initialised process group, work as one; else nothing changes."""
    global _ranks
    several = dist.is_available() and (dist.is_initialized() or dist.is_torchelastic_launched())
    if _ranks.control is not None or not several:
        yield
        return
    if not dist.is_initialized():
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    before, local = _ranks, int(os.environ.get("LOCAL_RANK", dist.get_rank()))
    groups = [dist.new_group(backend="gloo", timeout=timeout) for timeout in (TIMEOUT, PATIENCE)]
    _ranks = Ranks(dist.get_rank(), dist.get_world_size(), local, *groups)
    try:
        yield
    finally:
        _ranks = before


def leave() -> None:
    """Close the connections, at the end of a process whose search is done. One that failed just ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return _ranks.rank


def count() -> int:
    return _ranks.count


def first() -> bool:
    """Whether this is the rank that writes files and reports."""
    return _ranks.rank == 0


def describe(device: torch.device) -> dict:
    """For the run's provenance."""
    backend = ("nccl" if device.type == "cuda" else "gloo") if count() > 1 else None
    return {"ranks": count(), "backend": backend}


# ---- before the first step -----------------------------------------------------------------------


def check(batch_size: int, what: str = "batch_size") -> None:
    """Raises KitError where the ranks cannot share a batch evenly."""
    if batch_size % count():
        divisors = ", ".join(str(k) for k in range(1, 2 * count()) if batch_size % k == 0)
        raise KitError(
            f"{count()} ranks do not divide {what}={batch_size}: start as many as divide it ({divisors}; torchrun "
            f"--nproc_per_node), or set batch_size to a multiple of {count()}"
        )


def check_alike(max_latency_ms: float | None) -> None:
    """Raises KitError where the ranks would decide by what each of them measures."""
    if count() > 1 and max_latency_ms is not None:
        raise KitError(
            "max_latency_ms is kept by timing children, and ranks would time them differently: search in one process, "
            "or limit max_macs"
        )


def own_device(device: torch.device, asked: str) -> torch.device:
    """This rank's GPU, on GPUs. asked: the configuration's `device`. Raises KitError where there are too few."""
    if count() == 1 or device.type != "cuda":
        return device
    if ":" in asked:
        raise KitError(
            f"device={asked!r} is one GPU and {count()} ranks need one each: use device='cuda', or "
            "CUDA_VISIBLE_DEVICES to choose them"
        )
    there, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", count()))
    if wanted > there:
        raise KitError(
            f"{wanted} ranks need a GPU each and this machine has {there}: start torchrun --nproc_per_node={there}, "
            "or use device='cpu'"
        )
    torch.cuda.set_device(_ranks.local)
    return torch.device("cuda", _ranks.local)


class Lost(KitError):
    """A rank that this one needs has ended, or does not answer."""


class RaisedElsewhere(KitError):
    """Another rank raises, and prints, the same error."""


@contextlib.contextmanager
def _message() -> Iterator[None]:
    """Around every exchange with the other ranks."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[\S*\] ", "", str(error).strip()).partition(". ")[0]  # without torch's own source line
        raise Lost(
            f"another rank has ended or does not answer ({reason}). Its own message, torchrun's or failure.json says "
            f"why; {AGAIN}"
        ) from error


def together(action: Callable[[], T]) -> T:
    """action() on every rank. A KitError on one is raised on all of them, so that none waits for those that stopped."""
    if count() == 1:
        return action()
    value, failure = None, None
    try:
        value = action()
    except KitError as error:
        failure = error
    messages: list[str | None] = [None] * count()
    with _message():
        dist.all_gather_object(messages, None if failure is None else str(failure), group=_ranks.patient)
    failed = next((r for r, message in enumerate(messages) if message is not None), None)
    if failed is not None:
        raise failure if failure is not None and failed == rank() else RaisedElsewhere(messages[failed])
    return value  # type: ignore[return-value]


def on_first(action: Callable[[], T]) -> T:
    """action() on the first rank, and its value on all of them; its KitError is raised on all of them."""
    value = [together(lambda: action() if first() else None)]
    if count() > 1:
        with _message():
            dist.broadcast_object_list(value, src=0, group=_ranks.patient)
    return value[0]  # type: ignore[return-value]


def in_turn(action: Callable[[], T]) -> T:
    """action() on one rank of each machine and then on its others: what it fetches or decodes is done once."""
    if count() == 1:
        return action()
    try:
        if _ranks.local:
            wait()
        return action()
    finally:
        if not _ranks.local:
            wait()


def wait() -> None:
    """Until all ranks are here."""
    if count() > 1:
        with _message():
            dist.all_reduce(torch.zeros(1), group=_ranks.patient)


# ---- in the step ---------------------------------------------------------------------------------


def whole(n: int) -> int:
    """Of how many samples the batch is that this rank has n of."""
    return n * count()


def own(of_all: T) -> T:
    """This rank's samples of the whole batch's: of a tensor [N, …], or of a dataclass of such tensors and Nones."""
    if count() == 1:
        return of_all
    if isinstance(of_all, Tensor):
        n = len(of_all) // count()
        return of_all[rank() * n : (rank() + 1) * n]
    values = {f.name: getattr(of_all, f.name) for f in dataclasses.fields(of_all)}
    return type(of_all)(**{name: None if value is None else own(value) for name, value in values.items()})


def gather(tensor: Tensor) -> Tensor:
    """The whole batch's samples [N, …] from every rank's [n, …]; no gradient passes."""
    if count() == 1:
        return tensor
    tensor = tensor.detach().contiguous()
    parts = [torch.empty_like(tensor) for _ in range(count())]
    with _message():
        dist.all_gather(parts, tensor, group=_group(tensor))
    return torch.cat(parts)


def mean(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The ranks' mean of each tensor, the same to the bit on all ranks, in one message; None stays None."""
    given = [t for t in tensors if t is not None]
    if count() == 1 or not given:
        return list(tensors)
    flat = total(torch.cat([t.detach().reshape(-1) for t in given])).div_(count())
    means = [torch.empty_like(t) for t in given]  # of the same types and memory layouts
    parts = flat.split([t.numel() for t in given])
    torch._foreach_copy_(means, [part.view(t.shape) for part, t in zip(parts, given)])
    following = iter(means)
    return [None if t is None else next(following) for t in tensors]


def total(tensor: Tensor) -> Tensor:
    """The sum over the ranks, in the given tensor's place."""
    if count() > 1:
        with _message():
            dist.all_reduce(tensor, group=_group(tensor))
    return tensor


def same(child: T, what: object) -> T:
    """child, after all ranks have shown that they drew the same one: averaging the gradients of different weights would
    mean nothing. what: must not differ between ranks, compared by its repr. Raises KitError on all ranks where it does.
    """
    if count() > 1:
        mark = zlib.crc32(repr(what).encode())
        ends = torch.tensor([mark, -mark])
        with _message():
            dist.all_reduce(ends, dist.ReduceOp.MAX, group=_ranks.control)
        if ends[0] != -ends[1]:
            raise _apart(f"the ranks have drawn different children (rank {rank()}: {what})")
    return child


def check_agreement(tensors: Sequence[Tensor]) -> None:
    """Once per epoch: raises KitError where the ranks' weights or learned variables differ by more than rounding."""
    if count() == 1 or not tensors:
        return
    here = torch.stack([t.detach().double().abs().sum().cpu() for t in tensors])
    apart = (gather(here.unsqueeze(0)) - here).abs() > 1e-5 * here + 1e-12
    if total(apart.any().to(torch.int64)):
        raise _apart(f"the ranks' variables have drifted apart (rank {rank()})")


def _apart(what: str) -> KitError:
    return KitError(f"{what}: {AGAIN}; if this comes back, the machines' GPUs or versions differ")


def _group(tensor: Tensor) -> Any:
    return _ranks.control if tensor.device.type == "cpu" else dist.group.WORLD


class Total(torch.autograd.Function):
    """The sum over ranks, differentiable to any order: its derivative, forward and backward, is itself."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return total(x.detach().clone())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return Total.apply(g)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return Total.apply(tangent)


def side_by_side(tensor: Tensor) -> Tensor:
    """Every rank's tensor: [ranks, …], differentiable."""
    empty = torch.zeros_like(tensor)
    return Total.apply(torch.stack([tensor if r == rank() else empty for r in range(count())]))
