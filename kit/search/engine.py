"""A run from start to end: epochs, stages, checkpoints. `kit.search(config)` starts it, or goes on with it."""

import contextlib
import gc
import glob
import math
import os
import re
import threading
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from kit import data, files
from kit.config import Config
from kit.errors import KitError, shown
from kit.run import store
from kit.run.provenance import Stopwatch, pick_device
from kit.run.run import Records, Run
from kit.search import build, ranks
from kit.search.evaluate import score, write_results
from kit.search.progress import Bar, Lines, Silent, interactive, interruptible, say
from kit.search.step import STEPS
from kit.space import Child
from kit.space.layers import average_statistics, norms

KEPT_CHECKPOINTS = 2
CURVE_POINTS = 10  # step-wise values written per epoch
COUNTERS = ("epoch", "step", "entered", "began", "seconds")
PER_THREAD = 2**21  # values of a layer's batch: with fewer each, threads wait for one another longer than they work
TELL = 1.0  # seconds between two words about an epoch in progress
CHECK_EVERY = 100  # steps between looks at the losses: a look waits for the device
DTYPE = torch.float32  #: of the weights
# torch's default dtype and its random numbers belong to the whole process: searches in threads take turns
_TURN = threading.RLock()


class NonFinite(KitError):
    """The loss, or a variable, left the real numbers."""


def search(config: Config, out: str | Path | None = None, resume: bool = True, progress: Silent | None = None) -> Run:
    """Run a configuration and return its run; a finished one is read, an interrupted one goes on where it was.

    out: folder of run directories, in place of config.out. resume=False puts an earlier run of the same configuration
    aside (renamed) and starts anew. progress: see `kit.search.progress`; None chooses a bar or lines. Raises KitError
    before any training for what does not fit together, and when the loss is not finite (the last checkpoint stays)."""
    if not isinstance(config, Config):
        raise KitError(f"kit.search takes a kit.Config(...), got {shown(config)}")
    place = files.place(out if out is not None else config.out)
    with own_state(), ranks.joined(), contextlib.ExitStack() as held:
        sets = ranks.together(config.sets)
        if "OMP_NUM_THREADS" not in os.environ:  # threads without work cost time, and on a busy machine a multiple
            busy = config.batch_size * config.channels * math.prod(sets.size) // PER_THREAD
            torch.set_num_threads(max(1, min(torch.get_num_threads(), busy)))
        # what tells one state of a data set from another
        facts = {name: len(getattr(sets, name)) for name in ("train", "val", "test")}
        facts |= {"classes": list(sets.classes), "pixels": [sets.channels, *sets.size], "digest": data.digest(sets)}
        folder = place / config.named(sets.name, facts["digest"])
        finished = (folder / "metrics.json").is_file
        last = lambda: int([0, *(path.stem.removeprefix("epoch-") for path in _checkpoints(folder))][-1])
        held.enter_context(interruptible(lambda: f"stopped after epoch {last()}; run again to go on"))
        if not resume:
            ranks.on_first(lambda: files.put_aside(folder))
        if not ranks.on_first(finished):
            # all that can be refused is refused here, before the folder exists
            if resume:
                ranks.together(lambda: _refuse_other_data(folder, facts))
            engine = ranks.together(lambda: Search(config, folder, sets, facts["digest"]))
            if left_out := build.idle_operations(config, engine.sets):
                facts["left_out"] = left_out
                if progress is None and ranks.rank() == 0:
                    say(f"τ leaves out {', '.join(left_out)}: on these images they change nothing")
            ranks.on_first(lambda: held.enter_context(files.exclusive(folder)))
            ranks.on_first(lambda: store.write_json(folder / "data.json", facts))
            if not ranks.on_first(finished):  # another process may have finished it meanwhile
                engine.run(Silent() if ranks.rank() else progress or (Bar() if interactive() else Lines()))
                if progress is None and ranks.rank() == 0:
                    with contextlib.suppress(KitError):  # what cannot be told must not cost the result
                        for words, sentence in Run.load(folder).warnings.items():
                            say(f"{folder.name}: {words}: {sentence}")
        return Run.load(folder).own()


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """Within it torch has `DTYPE`, the CPU, gradients and random numbers of kit's own, whatever the caller has set;
    afterwards the caller finds everything as it was. A second thread waits until the first is done."""
    with _TURN, contextlib.ExitStack() as after:
        after.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(50_000, 20, 20)  # a network is thousands of objects: looking for cycles takes a fifth of a run
        after.callback(torch.set_default_dtype, torch.get_default_dtype())
        after.callback(torch.set_num_threads, torch.get_num_threads())
        after.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
        torch.set_default_dtype(DTYPE)
        if torch.get_default_device() != torch.device("cpu"):  # a mode, through which every call of torch goes
            after.enter_context(torch.device("cpu"))
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield


def _refuse_other_data(folder: Path, facts: dict[str, Any]) -> None:
    others = folder.parent.glob(f"{glob.escape(folder.name.rpartition('-')[0])}-*")
    for other in others if not folder.exists() else ():
        if (other / "metrics.json").is_file() or not _checkpoints(other):
            continue
        before = store.read_json(other / "data.json")
        changed = [f"{k} {before.get(k)} → {now}" for k, now in facts.items() if k != "digest" and before.get(k) != now]
        mend = "put them back to go on with it, or start anew on them as they are: kit.search(config, resume=False)"
        what = "; ".join(changed) or "pixels or labels"
        raise KitError(f"{other} was interrupted, and its data have changed since ({what}): {mend}")


def _checkpoints(folder: Path) -> list[Path]:
    there = (folder / "checkpoints").glob("epoch-*.safetensors")
    return sorted(path for path in there if re.fullmatch(r"epoch-\d{5,}", path.stem) and path.is_file())


class Search:
    """The state of a run. Built from its configuration and data alone; `state_dict()` holds all that moves."""

    def __init__(self, config: Config, folder: Path, sets: data.ImageSets | None = None, digest: str = ""):
        self.identity = {"run": folder.name, "data": digest}  # stands in all that belongs to this run alone
        self.config, self.folder, self.stages = config, folder, config.stages
        self.device = ranks.own_device(pick_device(config.device))
        sets = sets or config.sets()
        self.sets = (sets if config.train_images is None else sets.few(config.train_images)).to(self.device)
        self.epoch, self.step, self.seconds, self.clock = 0, 0, 0.0, Stopwatch()
        self.records = Records(folder)
        for index in range(len(self.stages)):
            build.streams(config, index, self.sets)  # a batch too large for a later stage's images is refused now
        self._enter(0)

    def run(self, reporter: Silent) -> None:
        if self.config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.set_deterministic_debug_mode("error")
        self._open()
        self.reporter = reporter
        reporter.start(self.folder.name, self.config.epochs, self.epoch)
        try:
            while self.epoch < self.config.epochs:
                stage, numbers = self.stage.name, self.train_epoch()
                self._save()
                reporter.epoch(self.epoch, stage, numbers)
            test = score(self, self.sets.test)  # the one look at the test set
            val = score(self, self.sets.val) if "val" in self.batches else None
            self.seconds = self.clock.read()
            ranks.on_first(lambda: write_results(self, test, val))
        except Exception as error:
            failure = {"error": type(error).__name__, "message": str(error), "epoch": self.epoch, "step": self.step}
            with contextlib.suppress(OSError, ValueError):  # a full disk must not hide the error itself
                path = self.folder / "failure.json"
                # of several ranks the first one's; and none where the directory was removed meanwhile
                if (self.folder / "config.json").is_file() and not path.is_file():
                    store.write_json(path, failure | {"traceback": traceback.format_exc()})
            raise
        finally:
            self.clock.over.set()
            reporter.close()

    def train_epoch(self) -> dict[str, float]:
        """One epoch of steps, then what happens between epochs; returns its numbers."""
        parts, net, steps = self.parts, self.parts.net.train(), self.batches["train"].steps_per_epoch
        since, epochs = self.epoch - self.began, build.horizon(self.config, self.stage_index, self.began)
        net.drop_path = self.config.drop_path * since / epochs
        net.dropout, net.mixup = self.config.dropout, self.config.mixup
        parts.arch.anneal((self.epoch - self.entered) / max(1, self.longest - 1))
        curves = torch.zeros(steps, 4, device=self.device)  # loss, accuracy, lr and weight decay of each step
        began = told = monotonic()
        for i in range(steps):
            schedule = 0.5 * (1 + math.cos(math.pi * (since * steps + i) / (epochs * steps)))
            losses, right, values = self.take_step(parts, self.batches, schedule)
            curves[i] = torch.stack([losses.mean(), right.to(losses.dtype).mean(), values.lr, values.weight_decay])
            if (i + 1) % CHECK_EVERY == 0 or i + 1 == steps:
                (so_far,) = ranks.mean([curves[: i + 1]])
                self._check_finite(so_far.cpu())
            if (now := monotonic()) - told > TELL:
                told, done, pace = now, self.epoch + (i + 1) / steps, (now - began) / (i + 1)
                left = timedelta(seconds=round(pace * steps * (self.config.epochs - done)))
                rate = f"{self.config.batch_size / pace:,.0f} images/s"
                self.reporter.within(done, f"epoch {done:.1f}/{self.config.epochs}, {rate}, {left} left")
        return self._end_epoch(so_far.cpu())

    def _end_epoch(self, curves: torch.Tensor) -> dict[str, float]:
        """Freeze what has settled, record the epoch, and go on to the next stage where this one is over."""
        parts = self.parts
        average_statistics(norms(parts.net))
        ranks.check_agreement([tensor for tensors in parts.variables().values() for tensor in tensors])
        over = self.epoch + 1 - self.entered >= self.longest
        if self.stage.search and over:
            parts.arch.choose(lambda picks: score(self, self.sets.val, Child(picks)).accuracy)
        if self.stage.search and (settled := parts.arch.end_epoch(last=over)):
            child = parts.arch.derived()
            for slot in settled:  # the network takes their gates, which are constant, over
                parts.net.freeze_slot(slot, child.picks[slot], child.gate(slot))
            parts.arch.freeze(settled)
        self.epoch += 1
        loss, accuracy = (curves[:, i].mean().item() for i in (0, 1))
        lr, decay = curves[-1, 2:].tolist()
        numbers = {"stage": float(self.stage_index), "loss": loss, "train_accuracy": accuracy}
        numbers |= {"lr": lr, "weight_decay": decay}
        for learner in (parts.hyper, parts.augment, parts.arch):
            numbers |= learner.summary()
        if "val" in self.batches:
            numbers["val_loss"], numbers["val_accuracy"], _ = score(self, self.sets.val)
        steps, names = len(curves), ("step/loss", "step/lr", "step/weight_decay")
        for i in range(0, steps, max(1, steps // CURVE_POINTS)):
            self.records.add(self.step + i + 1, self.epoch, dict(zip(names, curves[i, [0, 2, 3]].tolist())))
        self.step += steps
        self.records.add(self.step, self.epoch, numbers)
        self._snapshot()
        over = over or (self.stage.search and parts.arch.finished)
        if self.stage.hyper == "learn":
            over = parts.hyper.record_score(numbers.get("val_accuracy"), over)
        if over and self.epoch < self.config.epochs:
            self._enter(self.stage_index + 1, parts.net.genotype(parts.arch.picks))
            self.parts.take_over(parts, self.stages[self.stage_index - 1], self.stage)
        return numbers

    def _snapshot(self) -> None:
        if not self.stage.search and self.stage_index:  # α stays what the search left, if that was not lost
            last = next(reversed(self.records.held["alpha"]), {})
            alpha = {name: torch.as_tensor(value) for name, value in last.items()}
        else:
            alpha = {**self.parts.arch.snapshot(), "frozen": self.parts.arch.frozen}
        self.seconds = self.clock.read()
        clock = {"seconds": torch.tensor(self.seconds, dtype=torch.float64)}
        self.records.snapshot(self.epoch, alpha=alpha, tau=self.parts.augment.snapshot(), clock=clock)

    def _check_finite(self, curves: torch.Tensor) -> None:
        """A variable can break at a finite loss: that must not be saved. curves: the epoch's so far, on the CPU."""
        sound = curves[:, 0].isfinite()
        largest = lambda tensors: torch.stack(torch._foreach_norm([t.detach() for t in tensors], math.inf)).max()
        learned = {letter: tensors for letter, tensors in self.parts.variables().items() if tensors}
        broken = [letter for letter, tensors in learned.items() if not largest(tensors).isfinite()]
        if sound.all() and not broken:
            return
        step, what = len(curves), f"{', '.join(broken)} is not finite after"
        if not sound.all():
            step = int(sound.int().argmin()) + 1
            what = f"the loss is {curves[step - 1, 0].item()} at"
        # look-ahead moves η by the broken gradient: the last η that was a number is the one that led here
        lr, decay = [[math.nan] * 2, *(eta.tolist() for eta in curves[:step, 2:] if eta.isfinite().all())][-1]
        saved = _checkpoints(self.folder)
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "no epoch was completed: there is no checkpoint"
        where = f"{what} step {self.step + step} (epoch {self.epoch + 1})"
        led = f"with lr={lr:.4g} and weight_decay={decay:.4g}; {kept}"
        raise NonFinite(f"{where} {led}. Try a smaller lr, hyper_lr or clip")

    def _enter(self, index: int, genotype: dict | None = None) -> None:
        """Build a stage's parts and images. genotype: the architecture that an earlier stage chose, if one did."""
        self.stage_index, self.stage, self.entered = index, self.stages[index], self.epoch
        last = index == len(self.stages) - 1
        # epochs of the stage, at most; the last one has what the others left
        self.longest = self.config.epochs - self.epoch if last else self.config.stage_epochs[index]
        if index == 0 or self.stage.restart:
            self.began = self.epoch  # the epoch at which the schedule began
        if build.images_since(self.config, index) == index:
            self.batches = build.streams(self.config, index, self.sets)
        self.take_step = STEPS[self.stage.step].make
        each = self.batches["train"].steps_per_epoch
        steps, planned = self.config.stage_epochs[index] * each, build.horizon(self.config, index) * each
        plan = build.Plan(self.config, self.stage, self.sets, self.device, self.folder, steps, planned)
        self.parts = plan.parts(genotype)

    def _open(self) -> None:
        ranks.on_first(lambda: (self.folder / "failure.json").unlink(missing_ok=True))
        ranks.on_first(lambda: store.write_json(self.folder / "config.json", self.config.model_dump()))
        if state := ranks.on_first(self._newest):
            with files.reading(self.folder, "holds a checkpoint that does not fit this version of kit"):
                self.load_state_dict(state)
            lost = ranks.on_first(lambda: self.records.load_state_dict(state.get("records", {}), self.epoch))
            if lost and ranks.rank() == 0:
                say(f"{self.folder.name}: {lost}")
        self.clock = Stopwatch(self.seconds)
        threading.Thread(target=self.clock.tick, daemon=True).start()
        if not state:
            self._snapshot()

    def _newest(self) -> dict | None:
        """The newest checkpoint that is whole and this run's; what the system cannot read may be sound, and raises."""
        for path in reversed(_checkpoints(self.folder)):
            try:
                state = store.read_state(path)
                if (owner := state.get("identity")) != self.identity:
                    raise files.Damaged(path, f"belongs to another run, {owner!r:.200}")
                return state
            except files.Damaged as error:
                now = files.aside(path, "damaged").name
                say(f"{self.folder.name}: {error}; it is {now} now, and the checkpoint before it is used")

    def _save(self) -> None:
        if ranks.rank() == 0:
            self.records.write(self.epoch)
            store.write_state(self.folder / "checkpoints" / f"epoch-{self.epoch:05d}.safetensors", self.state_dict())
            for old in _checkpoints(self.folder)[:-KEPT_CHECKPOINTS]:
                old.unlink()
            kept, (net, arch) = self.config.trajectory, (self.parts.net, self.parts.arch)
            due = self.epoch * kept // self.config.epochs > (self.epoch - 1) * kept // self.config.epochs
            if due and not self.stage.search:
                path = self.folder / "trajectory" / f"epoch-{self.epoch:05d}.safetensors"
                store.write_tensors(path, build.extract(net, arch.derived().picks))

    def state_dict(self) -> dict:
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "identity": self.identity,
            "records": self.records.state_dict(),
            "stage": self.stage_index,
            "genotype": self.parts.net.genotype(self.parts.arch.picks),
            "parts": self.parts.state_dict(),
            "batches": {name: batches.state_dict() for name, batches in self.batches.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        if state["stage"]:
            self.epoch, self.began = state["entered"], state["began"]
            self.batches = build.streams(self.config, state["stage"], self.sets)
            self._enter(state["stage"], state["genotype"])
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.parts.load_state_dict(state["parts"])
        for name, batches in self.batches.items():
            batches.load_state_dict(state["batches"][name])
