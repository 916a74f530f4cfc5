"""A search neither sees nor changes the state of torch that belongs to its caller."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

# torch's default dtype and its random numbers belong to the whole process: searches in threads take turns
_TURN = threading.RLock()


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """Within it torch has float32, the CPU, gradients and random numbers of kit's own, whatever the caller has set;
    afterwards the caller finds everything as it was. A second thread waits until the first is done."""
    with _TURN:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                torch.device("cpu"),
                torch.random.fork_rng(devices=[]),
            ):
                torch.manual_seed(0)
                yield
        finally:
            torch.set_default_dtype(dtype)
