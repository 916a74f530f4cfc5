"""A search neither sees nor changes the state of torch that belongs to its caller."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

# torch's default dtype and its random numbers belong to the whole process: searches in threads take turns
_TURN = threading.RLock()
DTYPE = torch.float32  #: of the weights


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """Within it torch has `DTYPE`, the CPU, gradients and random numbers of kit's own, whatever the caller has set;
    afterwards the caller finds everything as it was. A second thread waits until the first is done."""
    with _TURN:
        dtype, cpu = torch.get_default_dtype(), torch.device("cpu")
        # a mode, through which every call of torch would go: only where it is needed
        device = cpu if torch.get_default_device() != cpu else contextlib.nullcontext()
        torch.set_default_dtype(DTYPE)
        try:
            with torch.inference_mode(False), torch.enable_grad(), device, torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                yield
        finally:
            torch.set_default_dtype(dtype)
