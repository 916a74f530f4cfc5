"""No step of DHA's waits for a GPU, seen on a machine without one: the tensors that a GPU would hold are fake CUDA
tensors, which have no values. Whatever looks at a value raises, and so does a copy between the CPU and the GPU.

What this cannot see: kernels, the backward pass (left out), autocast, and what CUDA does. test_gpu.py sees these.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from tests_micro import micro_config
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.optim.adam import adam
from torch.utils._python_dispatch import TorchDispatchMode

from kit import data
from kit.arch import sparse
from kit.augment.policy import Basics
from kit.search import build
from kit.search.grads import Momentum
from kit.search.learner import Adam
from kit.search.signals import Parts
from kit.search.step import one_level

GPU = torch.device("cuda", 0)
HOST = {"valid", "moved", "step"}  # tensors of DHA's learners that stay on the CPU, by name


class Waited(AssertionError):
    """A copy between host and device, which waits."""


class Watch(TorchDispatchMode):
    """Raises at a copy between devices, and at an index on the CPU into a GPU's tensor, which torch copies."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, found = kwargs or {}, func(*args, **(kwargs or {}))
        if any(word in func.__name__ for word in ("copy", "index")) and not kwargs.get("non_blocking"):
            flat = [t for arg in (*args, found) for t in (arg if isinstance(arg, (list, tuple)) else [arg])]
            if len(places := {t.device.type for t in flat if isinstance(t, torch.Tensor)}) > 1:
                raise Waited(f"{func} between {' and '.join(sorted(places))}")
        return found


class Generator(torch.Generator):
    """The CPU's, which says that it is the GPU's."""

    device = GPU


def on_gpu(value: Any, known: dict[int, Any], name: str = "") -> Any:
    """The same with fake CUDA tensors, one for each tensor; objects are changed in place."""
    if isinstance(value, torch.Tensor) and name not in HOST:
        fake = torch.empty_like(value, device="cuda")
        made = torch.nn.Parameter(fake) if isinstance(value, torch.nn.Parameter) else fake
        known.setdefault(id(value), (made.requires_grad_(value.requires_grad), value))  # the value, so that ids last
        return known[id(value)][0]
    if isinstance(value, (torch.device, torch.Generator)):
        return GPU if isinstance(value, torch.device) else Generator()
    if isinstance(value, dict):
        return {key: on_gpu(held, known, key) for key, held in value.items()}
    if isinstance(value, list):
        return [on_gpu(held, known, name) for held in value]
    if isinstance(value, (Adam, Basics, data.ImageSet)):
        for key, held in list(vars(value).items()):
            object.__setattr__(value, key, on_gpu(held, known, key))
    return value


def faked(parts: Parts, batches: dict[str, data.Batches]) -> tuple[Parts, dict[str, data.Batches]]:
    known: dict[int, Any] = {}
    for module in parts.net.modules():
        for held in (module._parameters, module._buffers):
            held.update({name: t if t is None else on_gpu(t, known) for name, t in held.items()})
    for learner in (parts.arch, parts.augment, parts.hyper):
        vars(learner).update({name: on_gpu(held, known, name) for name, held in vars(learner).items()})
    parts.net.generator, parts.sgd = Generator(), Momentum(parts.net, parts.sgd.momentum, parts.sgd.clip)
    for stream in batches.values():
        on_gpu(stream.data, known)
    return parts, batches


@pytest.fixture
def take(micro, monkeypatch):
    """A function that takes steps on fake tensors, and `then` other ones."""

    def steps(then: Any = None, **changes: Any) -> None:
        sets, config = data.load_dataset(micro), micro_config(**({"drop_path": 0.2, "auxiliary": 0.4} | changes))
        parts = build.Plan(config, config.stages[0], sets, torch.device("cpu"), steps=10).parts()
        parts.net.train().drop_path = 0.2
        batches = build.streams(config, 0, sets)
        zeros = lambda loss, inputs, **_: tuple(torch.zeros_like(t) for t in inputs)
        with FakeTensorMode(allow_non_fake_inputs=True):
            faked(parts, batches)
            monkeypatch.setattr(torch.autograd, "grad", zeros)
            monkeypatch.setattr(sys.modules[adam.__module__], "_get_value", lambda step: 1.0)  # it lies on the CPU
            one_level(parts, batches, 1.0)  # the first one may copy what is kept
            with Watch():
                one_level(parts, batches, 0.5)
                if then is not None:
                    then(parts)
                    one_level(parts, batches, 0.5)

    yield steps
    sparse._on_device.cache_clear()  # of fake tensors


def test_no_step_of_dha_waits_before_or_after_nodes_are_frozen(take):
    take(lambda parts: parts.arch.freeze([0, 3]))


@pytest.mark.parametrize("changes", [{"hyper": "fresh", "augment": "flip-crop-cutout"}, {"method": "joint"}], ids=str)
def test_neither_do_its_relatives(take, changes: dict[str, Any]):
    take(**changes)


def test_recovery_in_every_step_waits(take):
    with pytest.raises(DataDependentOutputException):  # the paper's way: the LASSO is solved on the CPU
        take(recover="step")


WAITS = {
    "a list's copy": (Waited, lambda x: torch.tensor([1.0], device=GPU)),
    "a copy back": (Waited, lambda x: x.cpu()),
    "an index on the CPU": (Waited, lambda x: x[torch.tensor([1, 0])]),
    "a mask": (DynamicOutputShapeException, lambda x: x[x > 0]),
    "a number": (DataDependentOutputException, lambda x: x.sum().item()),
    "an index of no dimension": (DataDependentOutputException, lambda x: x[x.argmax()]),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_seen(name: str):
    error, wait = WAITS[name]
    with FakeTensorMode(allow_non_fake_inputs=True), Watch(), pytest.raises(error):
        wait(torch.zeros(3, device=GPU))
