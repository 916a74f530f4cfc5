"""A run from start to end: epochs, stages, checkpoints. `kit.search(config)` starts it, or goes on with it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path

import torch

from kit.config import Config
from kit.errors import KitError
from kit.run import store
from kit.run.provenance import pick_device
from kit.run.run import KEPT_CHECKPOINTS, Records, Run
from kit.search import build, ranks
from kit.search.evaluate import score, write_failure, write_results
from kit.search.isolation import own_state
from kit.search.progress import Bar, Lines, Silent, interactive, interruptible, say, stopped_after
from kit.search.step import STEPS
from kit.space import Picks
from kit.space.layers import average_statistics, keep_freed, norms

CURVE_POINTS = 10  # step-wise values written per epoch
COUNTERS = ("epoch", "step", "entered", "began", "seconds")
CHECK_EVERY = 100  # steps between looks at the losses: a look waits for the device


class NonFinite(KitError):
    """The loss, or a variable, left the real numbers."""


def search(config: Config, out: str | Path | None = None, resume: bool = True, progress: Silent | None = None) -> Run:
    """Run a configuration and return its run; a finished one is read, an interrupted one goes on where it was.

    out: folder of run directories, in place of config.out. resume=False puts an earlier run of the same configuration
    aside (renamed, nothing is deleted) and starts anew. progress: see `kit.search.progress`; None chooses a bar or
    lines. Raises KitError before any training for what does not fit together, and when the loss is not finite (the last
    good checkpoint stays).
    """
    folder = Path(out if out is not None else config.out).expanduser() / config.name
    finished = (folder / "metrics.json").is_file
    with own_state(), interruptible(lambda: stopped_after(folder)), ranks.joined(), contextlib.ExitStack() as held:
        if not resume:
            ranks.on_first(lambda: store.put_aside(folder))
        if not ranks.on_first(finished):
            # all that can be refused is refused here, before the folder exists
            engine = ranks.together(lambda: Search(config, folder))
            ranks.on_first(lambda: held.enter_context(store.exclusive(folder)))
            if not ranks.on_first(finished):  # another process may have finished it meanwhile
                engine.run(Silent() if ranks.rank() else progress or (Bar() if interactive() else Lines()))
        return Run.load(folder)


class Search:
    """The state of a run. Built from its configuration alone; `state_dict()` holds all that moves."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.folder, self.stages = config, folder, config.stages
        self.device = ranks.together(lambda: ranks.own_device(pick_device(config.device)))
        self.sets = ranks.in_turn(config.sets).to(self.device)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.records = Records(folder, config.tensorboard and not ranks.rank())
        held_out = {build.holds_out(config, index): index for index in range(len(self.stages))}
        for index in held_out.values():  # a batch that is too large for a later stage's images is refused now
            build.StageData.of(config, index, self.sets)
        self._enter(0)

    # ---- from epoch to epoch ---------------------------------------------------------------------

    def run(self, reporter: Silent) -> None:
        """All epochs that are left, then the results."""
        if self.device.type == "cpu":
            keep_freed()
        self._open()
        reporter.start(self.folder.name, self.config.epochs, self.epoch)
        began, before = time.perf_counter() - self.seconds, torch.are_deterministic_algorithms_enabled()
        try:
            if self.config.deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.use_deterministic_algorithms(True)
            while self.epoch < self.config.epochs:
                stage, numbers = self.stage.name, self.train_epoch()
                self.seconds = time.perf_counter() - began
                self._save()
                reporter.epoch(self.epoch, stage, numbers)
            test = score(self, self.sets.test)  # the one look at the test set
            val = score(self, self.sets.val) if self.data.hold_out else None
            self.seconds = time.perf_counter() - began
            ranks.on_first(lambda: write_results(self, test, val))
        except Exception as error:
            write_failure(self, error)
            raise
        finally:
            torch.use_deterministic_algorithms(before)
            reporter.close()

    def train_epoch(self) -> dict[str, float]:
        """One epoch of steps, then what happens between epochs; returns its numbers."""
        parts, batches = self.parts, self.data.batches
        net, steps = parts.net.train(), batches["train"].steps_per_epoch
        since, epochs = self.epoch - self.began, build.horizon(self.config, self.stage_index, self.began)
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
                self._check_finite(record[: i + 1].cpu())
        return self._end_epoch(record.cpu())

    def _end_epoch(self, record: torch.Tensor) -> dict[str, float]:
        """Freeze what has settled, note the epoch's numbers, and go on to the next stage where this one is over."""
        parts = self.parts
        average_statistics(norms(parts.net))
        ranks.check_agreement([tensor for tensors in parts.variables().values() for tensor in tensors])
        over = self.epoch + 1 - self.entered >= self._longest()
        if self.stage.search and (settled := parts.arch.end_epoch(last=over)):
            self._freeze(settled)
        self.epoch += 1
        numbers = {"stage": float(self.stage_index), "loss": record[:, 0].mean().item()}
        numbers |= {"train_accuracy": record[:, 1].mean().item(), "lr": record[-1, 2].item()}
        numbers |= {"weight_decay": record[-1, 3].item()}
        for learner in (parts.hyper, parts.augment, parts.arch):
            numbers |= learner.summary()
        if self.data.hold_out:
            numbers["val_loss"], numbers["val_accuracy"], _ = score(self, self.sets.val)
        self._note(record, numbers)
        if (over or (self.stage.search and parts.arch.finished)) and self.epoch < self.config.epochs:
            self._next_stage(numbers.get("val_accuracy"))
        return numbers

    def _freeze(self, settled: list[int]) -> None:
        """These slots stay as they are: the network takes their gates over."""
        child = self.parts.arch.derived()
        for slot in settled:
            gate = child.gate(slot)
            self.parts.net.freeze_slot(slot, child.picks[slot], None if gate is None else gate.detach())
        self.parts.arch.freeze(settled)

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
        self.stage_index, self.stage, self.entered = index, self.stages[index], self.epoch
        if index == 0 or self.stage.restart:
            self.began = self.epoch  # the epoch at which the schedule began
            self.data = build.StageData.of(self.config, index, self.sets)
        self.take_step = STEPS[self.stage.step].make
        each = self.data.batches["train"].steps_per_epoch
        steps, planned = self.config.stage_epochs[index] * each, build.horizon(self.config, index) * each
        self.parts = build.compose(
            build.Plan(self.config, index, self.sets, self.device, self.folder, steps, planned), picks
        )

    def _next_stage(self, val_accuracy: float | None) -> None:
        """Go on with the chosen child alone: with new weights, or with those, the momentum and the learners so far."""
        before, was = self.parts, self.stage
        before.hyper.tell(val_accuracy)
        self._enter(self.stage_index + 1, self._picks())
        if self.stage.restart:
            self.parts.inherit(before, was, self.stage)
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

    def _check_finite(self, record: torch.Tensor) -> None:
        """A step can break a variable while its own loss is finite; such a state must not be saved. record: of the
        epoch's steps so far, on the CPU."""
        bad = (~torch.isfinite(record[:, 0])).nonzero().flatten().tolist()
        finite = lambda tensors: not tensors or torch.stack([t.isfinite().all() for t in tensors]).all()
        broken = [letter for letter, tensors in self.parts.variables().items() if not finite(tensors)]
        if not bad and not broken:
            return
        step = bad[0] + 1 if bad else len(record)
        what = f"the loss is {record[step - 1, 0].item()} at" if bad else f"{broken[0]} is not finite after"
        # look-ahead moves η by the gradient that is broken: the last η that was a number is the one that led here
        sound = record[:step][record[:step, 2:].isfinite().all(1)]
        lr, decay = (sound if len(sound) else record)[-1, 2:].tolist()
        saved = self._checkpoints()
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "no epoch was completed: there is no checkpoint"
        raise NonFinite(
            f"{what} step {self.step + step} (epoch {self.epoch + 1}) with lr={lr:.4g} and weight_decay={decay:.4g}; "
            f"{kept}. Try a smaller lr, hyper_lr or clip"
        )

    # ---- checkpoints -----------------------------------------------------------------------------

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("epoch-*.safetensors"))

    def _prepare(self) -> None:
        (self.folder / "failure.json").unlink(missing_ok=True)
        store.tidy(self.folder)
        store.write_json(self.folder / "config.json", self.config.model_dump())

    def _open(self) -> None:
        """Make the directory, or take up the newest checkpoint in it that can be read."""
        ranks.on_first(self._prepare)
        for path in reversed(ranks.on_first(self._checkpoints)):
            try:
                self.load_state_dict(ranks.on_first(lambda path=path: store.read_state(path)))
                return self.records.restore(self.epoch)
            except KitError as error:
                if ranks.rank() == 0:
                    say(f"{self.folder.name}: {error}; the checkpoint before it is used")
                    path.unlink()
        self.records.snapshot(0, self._alpha(), self.parts.augment.snapshot())

    def _save(self) -> None:
        """The history, and a checkpoint of this epoch; the oldest goes."""
        if ranks.rank() == 0:
            self.records.write()
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
            self.data = build.StageData.of(self.config, state["stage"], self.sets)
            self._enter(state["stage"], tuple(tuple(p) for p in state["picks"]))
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.parts.load_state_dict(state["parts"])
        for name, batches in self.data.batches.items():
            batches.load_state_dict(state["batches"][name])
