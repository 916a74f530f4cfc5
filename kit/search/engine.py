"""A run from start to end: epochs, stages, checkpoints. `kit.search(config)` starts it, or goes on with it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from kit import data
from kit.config import Config
from kit.errors import KitError
from kit.run import store
from kit.run.provenance import pick_device
from kit.run.run import KEPT_CHECKPOINTS, Records, Run
from kit.search import build, ranks
from kit.search import progress as reporting
from kit.search.evaluate import score, write_failure, write_results
from kit.search.progress import Progress
from kit.search.stages import StageData, holds_out, horizon, planned_epochs, schedule_of
from kit.search.step import STEPS
from kit.space import Picks
from kit.space.layers import keep_freed
from kit.space.operations import average_statistics, norms

CURVE_POINTS = 10  # step-wise values written per epoch
COUNTERS = ("epoch", "step", "entered", "began", "seconds")
CHECK_EVERY = 100  # steps between looks at the losses: a look waits for the device


class NonFinite(KitError):
    """The loss left the real numbers."""


def search(config: Config, out: str | Path | None = None, resume: bool = True, progress: Progress | None = None) -> Run:
    """Run a configuration and return its run; a finished one is read, an interrupted one goes on where it was.

    out: folder of run directories, in place of config.out. resume=False puts an earlier run of the same configuration
    aside (renamed, nothing is deleted) and starts anew. progress: see `kit.search.progress`; None chooses a bar or
    lines. Raises KitError before any training for what does not fit together, and when the loss is not finite (the last
    good checkpoint stays).
    """
    folder = Path(out if out is not None else config.out).expanduser() / config.name
    with ranks.joined(), contextlib.ExitStack() as held:
        if not resume:
            ranks.on_first(lambda: store.put_aside(folder))
        if ranks.on_first((folder / "metrics.json").is_file):
            return Run.load(folder)
        # all that can be refused is refused here, before the folder exists
        engine = ranks.together(lambda: Search(config, folder))
        reporter = (progress or reporting.default()) if ranks.first() else reporting.Silent()
        ranks.on_first(lambda: held.enter_context(store.exclusive(folder)))
        if not ranks.on_first((folder / "metrics.json").is_file):  # another process may have finished it meanwhile
            _run(engine, reporter)
        ranks.wait()
        return Run.load(folder)


def _run(engine: Search, reporter: Progress) -> None:
    try:
        with _determinism(engine.config.deterministic):
            engine.run(reporter)
    except Exception as error:
        write_failure(engine.folder, engine, error)
        raise
    finally:
        reporter.close()


class Search:
    """The state of a run. Built from its configuration alone; `state_dict()` holds all that moves."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.folder = config, folder
        ranks.check(config.batch_size)
        ranks.check_alike(config.max_latency_ms)
        self.device = ranks.together(lambda: ranks.own_device(pick_device(config.device), config.device))
        options = {"on_bad_image": config.on_bad_image}
        read = lambda: data.load_dataset(config.dataset, config.root, config.image_size, **options)
        self.sets = ranks.in_turn(read).to(self.device)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.records = Records(folder, config.tensorboard and ranks.first())
        self.stages = config.stages
        held = {holds_out(config, index): index for index in range(len(self.stages))}
        for index in held.values():  # a batch that is too large for a later stage's images is refused now
            StageData.of(config, index, self.sets)
        self._enter(0)

    # ---- from epoch to epoch ---------------------------------------------------------------------

    def run(self, reporter: Progress) -> None:
        """All epochs that are left, then the results."""
        self._open()
        if self.device.type == "cpu":
            keep_freed()
        reporter.start(self.folder.name, self.config.epochs, self.epoch)
        began = time.perf_counter()
        while self.epoch < self.config.epochs:
            stage = self.stages[self.stage_index].name
            numbers = self.train_epoch()
            if ranks.first():
                self.records.write()
            now = time.perf_counter()
            self.seconds, began = self.seconds + now - began, now
            self.save()
            reporter.epoch(self.epoch, stage, numbers)
        self._finish()

    def train_epoch(self) -> dict[str, float]:
        """One epoch of steps, then what happens between epochs; returns its numbers."""
        parts, batches = self.parts, self.data.batches
        net, steps = parts.net.train(), batches["train"].steps_per_epoch
        since, epochs = self.epoch - self.began, horizon(self.config, self.stage_index, self.began)
        net.drop_path = self.config.drop_path * since / epochs
        net.dropout, net.mixup = self.config.dropout, self.config.mixup
        parts.arch.anneal((self.epoch - self.entered) / max(1, self._longest() - 1))
        record = torch.zeros(steps, 4, device=self.device)  # loss, accuracy, lr and weight decay of each step
        for i in range(steps):
            schedule = 0.5 * (1 + math.cos(math.pi * (since * steps + i) / (epochs * steps)))
            outcome = self.take_step(net, batches, parts.learners, parts.sgd, schedule)
            accuracy = outcome.correct / len(outcome.losses)
            record[i] = torch.stack([outcome.losses.mean(), accuracy, *outcome.values[:2]])
            if (i + 1) % CHECK_EVERY == 0 or i + 1 == steps:
                self._check_losses(record[: i + 1].cpu())
        self._check_learned(record.cpu())
        return self._end_epoch(record.cpu())

    def _end_epoch(self, record: torch.Tensor) -> dict[str, float]:
        """Freeze what has settled, note the epoch's numbers, and go on to the next stage where this one is over."""
        parts = self.parts
        average_statistics(norms(parts.net))
        ranks.check_agreement([tensor for tensors in self.parts.variables().values() for tensor in tensors])
        over = self.epoch + 1 - self.entered >= self._longest()
        if self.stage.search:
            self._freeze(parts.arch.end_epoch(last=over))
        self.epoch += 1
        numbers = self._numbers(record)
        if self.data.hold_out:
            numbers["val_loss"], numbers["val_accuracy"], _ = score(self, self.sets.val)
        self._note(record, numbers)
        if (over or (self.stage.search and parts.arch.finished)) and self.epoch < self.config.epochs:
            self._next_stage(numbers.get("val_accuracy"))
        return numbers

    def _freeze(self, settled: list[int]) -> None:
        """These slots stay as they are: the network takes their gates over."""
        if not settled:
            return
        child = self.parts.arch.derived()
        for slot in settled:
            gate = child.gate(slot)
            self.parts.net.freeze_slot(slot, child.picks[slot], None if gate is None else gate.detach())
        self.parts.arch.freeze(settled)

    def _numbers(self, record: torch.Tensor) -> dict[str, float]:
        parts = self.parts
        return {
            "stage": float(self.stage_index),
            "loss": record[:, 0].mean().item(),
            "train_accuracy": record[:, 1].mean().item(),
            "lr": record[-1, 2].item(),
            "weight_decay": record[-1, 3].item(),
            **parts.hyper.summary(),
            **parts.augment.summary(),
            **parts.arch.summary(),
        }

    def _note(self, record: torch.Tensor, numbers: dict[str, float]) -> None:
        """The epoch's steps and numbers, α and τ, for the history."""
        steps = len(record)
        for i in range(0, steps, max(1, steps // CURVE_POINTS)):
            names = ("step/loss", "step/lr", "step/weight_decay")
            self.records.add(self.step + i + 1, self.epoch, dict(zip(names, record[i, [0, 2, 3]].tolist())))
        self.step += steps
        self.records.add(self.step, self.epoch, numbers)
        self.records.snapshot(self.epoch, self._alpha(), self.parts.augment.snapshot())

    def _alpha(self) -> dict[str, torch.Tensor]:
        """α over the slots of the supernet; constant in later stages, which train the chosen child alone."""
        if self.stage_index:
            return {name: torch.as_tensor(values) for name, values in self.records.alpha[-1].items()}
        arch = self.parts.arch
        frozen = getattr(arch, "frozen", torch.ones(len(arch.slots), dtype=torch.bool))
        return {**arch.snapshot(), "frozen": frozen.clone()}

    # ---- from stage to stage ---------------------------------------------------------------------

    def _enter(self, index: int, picks: Picks | None = None) -> None:
        """Build a stage's parts and images. picks: the architecture that an earlier stage chose, if one did."""
        self.stage_index, self.stage = index, self.stages[index]
        self.entered = self.epoch
        if index == 0 or self.stage.restart:
            self.began = self.epoch  # the epoch at which the schedule began
            self.data = StageData.of(self.config, index, self.sets)
        self.take_step = STEPS[self.stage.step].make
        each = self.data.batches["train"].steps_per_epoch
        steps, planned = (n * each for n in (self.config.stage_epochs[index], planned_epochs(self.config, index)))
        plan = build.Plan(self.config, index, self.sets, self.device, self.folder, steps, planned)
        self.parts = build.compose(plan, picks)

    def _next_stage(self, val_accuracy: float | None) -> None:
        """Go on with the chosen child alone: with new weights, or with those, the momentum and the learners so far."""
        before = self.parts
        before.hyper.tell(val_accuracy)
        self._enter(self.stage_index + 1, self._picks())
        if self.stage.restart:
            self.parts.inherit(before, self.stages[self.stage_index - 1], self.stage)
        else:
            self.parts.take_over(before)

    def _longest(self) -> int:
        """Epochs of the current stage, at most; the last one has what the others left."""
        last = self.stage_index == len(self.stages) - 1
        return self.config.epochs - self.entered if last else self.config.stage_epochs[self.stage_index]

    def _picks(self) -> Picks:
        """The architecture as the supernet's candidates."""
        net = self.parts.net
        return net.picks_of(net.genotype(self.parts.arch.picks))

    def _finish(self) -> None:
        """The one look at the test set, and what the run leaves."""
        began = time.perf_counter()
        test = score(self, self.sets.test)
        val = score(self, self.sets.val) if self.data.hold_out else None
        self.seconds += time.perf_counter() - began
        if ranks.first():
            write_results(self, test, val)

    # ---- numbers that are none -------------------------------------------------------------------

    def _check_losses(self, record: torch.Tensor) -> None:
        """record: of the epoch's steps so far, on the CPU."""
        bad = (~torch.isfinite(record[:, 0])).nonzero()
        if len(bad):
            i = int(bad[0])
            raise self._non_finite(f"the loss is {record[i, 0].item()} at", record[: i + 1])

    def _check_learned(self, record: torch.Tensor) -> None:
        """A step can break a learned variable while its own loss is finite; such a state must not be saved."""
        for letter, tensors in self.parts.variables().items():
            if tensors and not torch.stack([torch.isfinite(t).all() for t in tensors]).all():
                raise self._non_finite(f"{letter} is not finite after", record)

    def _non_finite(self, what: str, record: torch.Tensor) -> NonFinite:
        # look-ahead moves η by the gradient that is broken: the last η that was a number is the one that led here
        finite = record[torch.isfinite(record[:, 2:]).all(dim=1)]
        lr, decay = (finite if len(finite) else record)[-1, 2:].tolist()
        saved = self._checkpoints()
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "no epoch was completed: there is no checkpoint"
        return NonFinite(
            f"{what} step {self.step + len(record)} (epoch {self.epoch + 1}) with lr={lr:.4g} and "
            f"weight_decay={decay:.4g}; {kept}. Try a smaller lr, hyper_lr or clip"
        )

    # ---- checkpoints -----------------------------------------------------------------------------

    def _open(self) -> None:
        """Make the directory, or take up the newest checkpoint in it."""
        ranks.on_first(self._tidy)
        for path in reversed(ranks.on_first(self._checkpoints)):
            try:
                self.load_state_dict(ranks.on_first(lambda path=path: store.read_state(path)))
            except KitError as error:
                if ranks.first():
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
        """A checkpoint of this epoch; the oldest goes."""
        if not ranks.first():
            return
        store.write_state(self.folder / "checkpoints" / f"epoch-{self.epoch:05d}.safetensors", self.state_dict())
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def state_dict(self) -> dict:
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "stage": self.stage_index,
            "picks": [list(p) for p in self._picks()],
            "parts": self.parts.state_dict(),
            "batches": {name: batches.state_dict() for name, batches in self.data.batches.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        if state["stage"]:
            first = schedule_of(self.config, state["stage"]).start
            self.data = StageData.of(self.config, first, self.sets)
            self._enter(state["stage"], tuple(tuple(p) for p in state["picks"]))
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.parts.load_state_dict(state["parts"])
        for name, batches in self.data.batches.items():
            batches.load_state_dict(state["batches"][name])


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
