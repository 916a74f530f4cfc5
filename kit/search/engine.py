"""A run from start to end: epochs, stages, evaluation, checkpoints. `kit.search(config)` starts it, or goes on with
it.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from kit import data
from kit.config import Config
from kit.errors import KitError
from kit.run import predict as inputs
from kit.run import provenance, store
from kit.run.records import Records
from kit.run.run import KEPT_CHECKPOINTS, Run
from kit.search import build as compose
from kit.search import progress as progress_module
from kit.search import ranks as distributed
from kit.search.progress import Progress
from kit.search.stages import StageData, holds_out, horizon, schedule_of
from kit.search.step import STEPS, Outcome, Samples
from kit.space import Picks, synced
from kit.space.layers import keep_freed

CURVE_POINTS = 10  # step-wise values written per epoch
CHECK_EVERY = 100  # steps between looks at the losses: a look waits for the device
RECALIBRATION = 8  # batches


class Score(NamedTuple):
    """Mean cross-entropy, share of right predictions, and its mean over the classes (which a rare class moves as much
    as a common one).
    """

    loss: float
    accuracy: float
    balanced_accuracy: float


class NonFinite(KitError):
    """The loss left the real numbers."""


def search(config: Config, out: str | Path | None = None, resume: bool = True, progress: Progress | None = None) -> Run:
    """Run a configuration and return its finished run; a finished one is read, an interrupted one goes on where it was.

    out: folder of run directories, in place of config.out. resume=False puts an earlier run of the same configuration
    aside
    (renamed, nothing is deleted) and starts anew. progress: see `kit.search.progress`; None chooses a bar or lines.
    Raises KitError before any training for what does not fit together, and when the loss is not finite (the last good
    checkpoint stays).
    """
    folder = Path(out if out is not None else config.out).expanduser() / config.name
    with distributed.joined(), contextlib.ExitStack() as held:
        if not resume:
            distributed.on_first(lambda: store.put_aside(folder))
        if distributed.on_first((folder / "metrics.json").is_file):
            return Run.load(folder)
        engine = distributed.together(
            lambda: Search(config, folder)
        )  # all that can be refused is refused here, before the folder exists
        reporter = (progress or progress_module.default()) if distributed.first() else progress_module.Silent()
        distributed.on_first(lambda: held.enter_context(store.exclusive(folder)))
        if not distributed.on_first(
            (folder / "metrics.json").is_file
        ):  # another process may have finished it meanwhile
            _run(engine, reporter)
        distributed.wait()
        return Run.load(folder)


def _run(engine: Search, reporter: Progress) -> None:
    try:
        with _determinism(engine.config.deterministic):
            engine.run(reporter)
    except Exception as error:
        _record_failure(engine.folder, engine, error)
        raise
    finally:
        reporter.close()


class Search:
    """The state of a run. Built from its configuration alone; `state_dict()` holds all that moves."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.folder = config, folder
        distributed.check(config.batch_size)
        distributed.check_alike(config.max_latency_ms)
        self.device = distributed.together(lambda: distributed.own_device(pick_device(config.device), config.device))
        self.sets = distributed.in_turn(
            lambda: data.load_dataset(
                config.dataset, config.root, config.image_size, on_bad_image=config.on_bad_image
            ).to(self.device)
        )
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.records = Records(folder, config.tensorboard and distributed.first())
        self.stages = config.stages
        self.samples = Samples(config.children, config.arch_samples, config.policies, config.first_order)
        held = {holds_out(config, index): index for index in range(len(self.stages))}
        for index in held.values():  # a batch that is too large for a later stage's images is refused now
            StageData.of(config, index, self.sets)
        self._enter(0)

    def _enter(self, index: int, picks: Picks | None = None) -> None:
        """The parts and images of a stage. picks: the architecture that stands, None where none has been found."""
        self.stage_index, self.stage = index, self.stages[index]
        self.entered = self.epoch
        if index == 0 or self.stage.restart:
            self.began = self.epoch  # the epoch at which the schedule began
            self.data = StageData.of(self.config, index, self.sets)
        self.take_step = STEPS[self.stage.step]
        steps = self.config.stage_epochs[index] * self.data.batches["train"].steps_per_epoch
        self.parts = compose.compose(
            self.config,
            index,
            self.sets,
            self.device,
            data.normalization(self.sets.train),
            picks=picks,
            folder=self.folder,
            steps=steps,
        )

    # ---- epochs ----------------------------------------------------------------------------------

    def run(self, reporter: Progress) -> None:
        self._open()
        if self.device.type == "cpu":
            keep_freed()
        reporter.start(self.folder.name, self.config.epochs, self.epoch)
        began = time.perf_counter()
        while self.epoch < self.config.epochs:
            stage = self.stages[self.stage_index].name
            numbers = self.train_epoch()
            if distributed.first():
                self.records.write()
            now = time.perf_counter()
            self.seconds, began = self.seconds + now - began, now
            self.save()
            reporter.epoch(self.epoch, stage, numbers)
        self._finish()

    def train_epoch(self) -> dict[str, float]:
        """One epoch of steps, then what happens between epochs; returns its numbers."""
        net, steps, parts = self.parts.net.train(), self.data.batches["train"].steps_per_epoch, self.parts
        start, epochs = self.began, horizon(self.config, self.stage_index, self.began)
        net.drop_path, net.dropout, net.mixup = (
            self.config.drop_path * (self.epoch - start) / epochs,
            self.config.dropout,
            self.config.mixup,
        )
        parts.arch.anneal((self.epoch - self.entered) / max(1, self._longest() - 1))
        record = torch.zeros(steps, 4, device=self.device)
        for i in range(steps):
            done = (self.epoch - start) * steps + i
            schedule = 0.5 * (1 + math.cos(math.pi * done / (epochs * steps)))
            outcome = self.take_step(
                net, self.data.batches, parts.arch, parts.augment, parts.hyper, parts.sgd, schedule, self.samples
            )
            record[i] = self._numbers(outcome)
            if (i + 1) % CHECK_EVERY == 0 or i + 1 == steps:
                self._check_losses(record[: i + 1].cpu())
        self._check_learned(record.cpu())
        return self._end_epoch(record.cpu())

    def _longest(self) -> int:
        """Epochs of the current stage, at most; the last one has what the others left."""
        last = self.stage_index == len(self.stages) - 1
        return self.config.epochs - self.entered if last else self.config.stage_epochs[self.stage_index]

    def _numbers(self, outcome: Outcome) -> torch.Tensor:
        return torch.stack([outcome.losses.mean(), outcome.correct / len(outcome.losses), *outcome.values[:2]])

    def _check_losses(self, record: torch.Tensor) -> None:
        """record: of the epoch's steps so far, on the CPU."""
        bad = (~torch.isfinite(record[:, 0])).nonzero()
        if len(bad):
            i = int(bad[0])
            raise self._non_finite(f"the loss is {record[i, 0].item()} at", record[: i + 1])

    def _check_learned(self, record: torch.Tensor) -> None:
        """The losses may still be finite at the step that breaks what learns; a checkpoint of it would be of no use."""
        parts = self.parts
        for letter, tensors in (
            ("θ", list(parts.net.parameters())),
            ("α", parts.arch.variables()),
            ("τ", parts.augment.variables()),
            ("η", parts.hyper.variables()),
        ):
            if tensors and not torch.stack([torch.isfinite(t).all() for t in tensors]).all():
                raise self._non_finite(f"{letter} is not finite after", record)

    def _non_finite(self, what: str, record: torch.Tensor) -> NonFinite:
        # look-ahead moves η by the gradient that is broken: the last η that was a number is the one that led here
        known = record[torch.isfinite(record[:, 2:]).all(dim=1)]
        lr, decay = (known if len(known) else record)[-1, 2:].tolist()
        saved = self._checkpoints()
        kept = (
            f"the last good checkpoint is {saved[-1]}" if saved else "no epoch was completed, so there is no checkpoint"
        )
        return NonFinite(
            f"{what} step {self.step + len(record)} (epoch {self.epoch + 1}) with lr={lr:.4g} and weight_decay={decay:.4g}; {kept}. "
            "Try a smaller lr, hyper_lr or clip"
        )

    def _end_epoch(self, record: torch.Tensor) -> dict[str, float]:
        parts, steps = self.parts, len(record)
        synced.average_statistics(synced.norms(parts.net))
        distributed.check_agreement(
            [*parts.net.parameters(), *parts.arch.variables(), *parts.augment.variables(), *parts.hyper.variables()]
        )
        over = self.epoch + 1 - self.entered >= self._longest()
        settled = parts.arch.end_epoch(last=over) if self.stage.search else []
        if settled:
            child = parts.arch.derived()
            for slot in settled:
                gate = child.gate(slot)
                parts.net.freeze_slot(slot, child.picks[slot], None if gate is None else gate.detach())
            parts.arch.freeze(settled)
        self.epoch += 1
        for i in range(0, steps, max(1, steps // CURVE_POINTS)):
            names = ("step/loss", "step/lr", "step/weight_decay")
            self.records.add(self.step + i + 1, self.epoch, dict(zip(names, record[i, [0, 2, 3]].tolist())))
        self.step += steps
        numbers = {
            "stage": float(self.stage_index),
            "loss": record[:, 0].mean().item(),
            "train_accuracy": record[:, 1].mean().item(),
            "lr": record[-1, 2].item(),
            "weight_decay": record[-1, 3].item(),
            **parts.hyper.summary(),
            **parts.augment.summary(),
            **parts.arch.summary(),
        }
        if self.data.hold_out:
            numbers["val_loss"], numbers["val_accuracy"], _ = self.evaluate(self.sets.val)
        self.records.add(self.step, self.epoch, numbers)
        self.records.snapshot(self.epoch, self._alpha(), parts.augment.snapshot())
        if (over or (self.stage.search and parts.arch.finished)) and self.epoch < self.config.epochs:
            self._next_stage(numbers.get("val_accuracy"))
        return numbers

    def _alpha(self) -> dict[str, torch.Tensor]:
        """α over the slots of the supernet; it stands still when a later stage trains the found child alone."""
        if self.stage_index:
            return {name: torch.from_numpy(values) for name, values in self.records.alpha[-1][1].items()}
        arch = self.parts.arch
        frozen = getattr(arch, "frozen", torch.ones(len(arch.slots), dtype=torch.bool))
        return {**arch.snapshot(), "frozen": frozen.clone()}

    def _next_stage(self, score: float | None) -> None:
        """From here on the found child alone: anew, or with the weights, momentum and learners of the stage before."""
        before = self.parts
        before.hyper.tell(score)
        self._enter(self.stage_index + 1, self._picks())
        if self.stage.restart:
            self.parts.inherit(before, self.stages[self.stage_index - 1], self.stage)
        else:
            self.parts.take_over(before)

    # ---- evaluation ------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, part: data.ImageSet) -> Score:
        """Of the current architecture. While children change, its BatchNorm statistics are made anew first."""
        net, child = self.parts.net, self.parts.arch.derived()
        if self.stage.search:
            size, images = self.config.batch_size, self.data.train.images
            net.recalibrate(
                child,
                [
                    distributed.own(images[i * size : (i + 1) * size])
                    for i in range(min(RECALIBRATION, len(images) // size))
                ],
            )
            synced.average_statistics(net.norms_of(child.picks))
        net.eval()
        loss = torch.zeros((), device=self.device)
        right, there = torch.zeros(2, self.sets.num_classes, device=self.device)
        for images, labels in part.chunks(256, turn=(distributed.rank(), distributed.count())):
            losses, predicted = net.losses(images, labels, child)
            loss = loss + losses.sum()
            there.scatter_add_(0, labels, torch.ones_like(losses))
            right.scatter_add_(0, labels, (predicted == labels).to(losses.dtype))
        loss, right, there = (distributed.total(part) for part in (loss, right, there))
        net.train()
        balanced = (right / there)[there > 0].mean()
        return Score(loss.item() / len(part), right.sum().item() / len(part), balanced.item())

    # ---- files -----------------------------------------------------------------------------------

    def _open(self) -> None:
        """Make the directory, or take up the newest checkpoint in it."""
        distributed.on_first(self._tidy)
        for path in reversed(distributed.on_first(self._checkpoints)):
            try:
                self.load_state_dict(distributed.on_first(lambda path=path: store.read_state(path)))
            except KitError as error:
                if distributed.first():
                    print(f"{self.folder.name}: {error}; the checkpoint before it is used", flush=True)
                    path.unlink()
                continue
            self.records.restore(self.epoch)
            return
        self.records.snapshot(0, self._alpha(), self.parts.augment.snapshot())

    def _tidy(self) -> None:
        (self.folder / "failure.json").unlink(missing_ok=True)
        store.tidy(self.folder)
        store.write_json(self.folder / "config.json", self.config.model_dump())

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("epoch-*.safetensors"))

    def save(self) -> None:
        if not distributed.first():
            return
        store.write_state(self.folder / "checkpoints" / f"epoch-{self.epoch:05d}.safetensors", self.state_dict())
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def state_dict(self) -> dict:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "stage": self.stage_index,
            "entered": self.entered,
            "began": self.began,
            "seconds": self.seconds,
            "picks": [list(p) for p in self._picks()],
            "parts": self.parts.state_dict(),
            "batches": {name: batches.state_dict() for name, batches in self.data.batches.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        if state["stage"]:
            first = schedule_of(self.config, state["stage"]).start
            self.data = StageData.of(self.config, first, self.sets)
            self._enter(state["stage"], tuple(tuple(p) for p in state["picks"]))
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.entered, self.began = state["entered"], state["began"]
        self.parts.load_state_dict(state["parts"])
        for name, batches in self.data.batches.items():
            batches.load_state_dict(state["batches"][name])

    def _picks(self) -> Picks:
        """The architecture as the supernet's candidates."""
        net = self.parts.net
        return net.picks_of(net.genotype(self.parts.arch.picks))

    def _finish(self) -> None:
        """The one look at the test set, the model, and last of all the metrics, which say that the run is finished."""
        began = time.perf_counter()
        test = self.evaluate(self.sets.test)
        val = self.evaluate(self.sets.val) if self.data.hold_out else None
        self.seconds += time.perf_counter() - began
        if not distributed.first():
            return
        parts, child = self.parts, self.parts.arch.derived()
        alone = compose.extract(parts.net, child.picks)
        found = {
            "network": parts.net.spec(child.picks),
            "genotype": parts.net.genotype(child.picks),
            "classes": list(self.sets.classes),
            "policy": _policy(self.config, parts),
            "hyper": parts.hyper.found(),
            "preprocessing": inputs.preprocessing(parts.net.image),
        }
        store.write_tensors(self.folder / "model" / "model.safetensors", alone)
        store.write_json(self.folder / "model" / "model.json", found)
        store.write_json(self.folder / "provenance.json", self._provenance())
        cost = parts.net.cost(child.picks)
        store.write_json(
            self.folder / "metrics.json",
            {
                **{f"test_{name}": value for name, value in test._asdict().items()},
                "test_images": len(self.sets.test),
                **{f"val_{name}": getattr(val, name, None) for name in Score._fields},
                "val_images": len(self.sets.val) if val else 0,
                "train_images": len(self.data.train),
                "params": cost.params,
                "macs": cost.macs,
                "epochs": self.epoch,
                "steps": self.step,
                "seconds": self.seconds,
                "peak_memory_mb": provenance.peak_memory_mb(self.device),
            },
        )

    def _provenance(self) -> dict:
        trained_on = "train" if self.data.hold_out else "train and val together (this stage needs no validation data)"
        if not self.data.hold_out and any(holds_out(self.config, i) for i in range(self.stage_index)):
            trained_on += "; searched on train, with val held out"
        level = (
            "bit-identical on resume"
            if self.device.type == "cpu" or self.config.deterministic
            else "not deterministic (GPU)"
        )
        return {
            **provenance.describe(self.device),
            **distributed.describe(self.device),
            "seconds": self.seconds,
            "peak_memory_mb": provenance.peak_memory_mb(self.device),
            "seed": self.config.seed,
            "dataset": self.sets.name,
            "split": self.sets.split,
            "trained_on": trained_on,
            "determinism": level,
        }


def pick_device(name: str) -> torch.device:
    """auto: the GPU where there is one. Raises KitError when a GPU is asked for that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise KitError(
            f"device={name!r}: this machine has {torch.cuda.device_count()} CUDA device(s); use device='auto' or 'cpu'"
        )
    return device


def _policy(config: Config, parts: compose.Parts) -> dict:
    learned = {name: values.tolist() for name, values in parts.augment.snapshot().items() if name != "counts"}
    return {"name": config.augment, **({"ops": list(parts.augment.ops), **learned} if learned else {})}


def _record_failure(folder: Path, engine: Search, error: BaseException) -> None:
    if distributed.count() > 1 and (folder / "failure.json").is_file():
        return  # of the rank that failed first: what the others meet is only that it is gone
    with contextlib.suppress(OSError, KitError):  # a full disk must not hide the error itself
        store.write_json(
            folder / "failure.json",
            {
                "error": type(error).__name__,
                "message": str(error),
                "epoch": engine.epoch,
                "step": engine.step,
                "traceback": traceback.format_exc(),
            },
        )


@contextlib.contextmanager
def _determinism(on: bool) -> Iterator[None]:
    if not on:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
