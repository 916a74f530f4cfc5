"""What a sweep will cost, before it starts: the multiply-adds of its runs, times the measured seconds of a step per
multiply-add.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kit.config import Config
from kit.lab.sweep.local import room
from kit.search.engine import Search

WARM, TIMED = 1, 3  # steps


@dataclass(frozen=True)
class Estimate:
    """seconds: of every run by itself, by name; workers: runs at a time. `wall` is what the sweep takes if it shares
    them out evenly.
    """

    seconds: dict[str, float]
    macs: dict[str, float]
    workers: int

    @property
    def wall(self) -> float:
        """Seconds of the sweep: never less than its longest run."""
        return max([sum(self.seconds.values()) / self.workers, *self.seconds.values()])

    def __str__(self) -> str:
        if not self.seconds:
            return "nothing to run: all are finished"
        total = sum(self.seconds.values())
        return (
            f"{len(self.seconds)} runs to do, {sum(self.macs.values()):.2g} multiply-adds forward: about {_clock(total)} of computing, "
            f"{_clock(self.wall)} with {self.workers} at a time (a step of each method measured here)"
        )


def estimate(configs: list[Config], out: str | Path | None = None, workers: int | None = None) -> Estimate:
    """Of those that are not finished; workers: runs at a time, None: a GPU or a core each. Times a few steps per stage
    of one configuration of each method; nothing is written.

    The other configurations of a method scale by the multiply-adds of the architecture that each stage starts with
    (`space.cost`), its batch
    and its steps. Evaluation and checkpoints are not in it. Raises KitError for a configuration that cannot run.
    """
    todo = [
        c
        for c in configs
        if not (Path(out if out is not None else c.out).expanduser() / c.name / "metrics.json").is_file()
    ]
    rates: dict[str, list[float]] = {}
    work: dict[tuple, list[float]] = {}  # the same for all seeds
    seconds, macs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for config in todo:
            key = tuple((name, value) for name, value in config.model_dump().items() if name not in ("seed", "out"))
            if key not in work:
                measure = config.method not in rates
                stages = _stages(config, Path(folder), measure)
                work[key] = [amount for amount, _ in stages]
                if measure:
                    rates[config.method] = [taken for _, taken in stages]
            macs[config.name] = sum(work[key])
            seconds[config.name] = sum(
                amount * rate for amount, rate in zip(work[key], _stretched(rates[config.method], len(work[key])))
            )
    return Estimate(seconds, macs, workers or room())


def _stages(config: Config, folder: Path, measure: bool) -> list[tuple[float, float]]:
    """Of each stage: multiply-adds forward, and the measured seconds of training per multiply-add (0 where not
    measured).
    """
    engine = Search(config, folder / config.name)
    found = []
    for index, epochs in enumerate(config.stage_epochs):
        if index:
            engine._enter(index, engine._picks())
        per_step = engine.parts.net.cost(engine.parts.arch.picks).macs * config.batch_size
        steps = epochs * engine.data.batches["train"].steps_per_epoch
        found.append((float(per_step * steps), _step(engine) / per_step if measure else 0.0))
    return found


def _step(engine: Any) -> float:
    """Seconds: the least of a few steps."""
    parts, taken = engine.parts, []
    net = parts.net.train()
    for _ in range(WARM + TIMED):
        began = time.perf_counter()
        engine.take_step(
            net, engine.data.batches, parts.arch, parts.augment, parts.hyper, parts.sgd, 0.5, engine.samples
        )
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        taken.append(time.perf_counter() - began)
    return min(taken[WARM:])


def _stretched(rates: list[float], stages: int) -> list[float]:
    """Configurations of a method may repeat its search stage more or less often (`trials`): the rates of the first and
    the last stay.
    """
    return rates if len(rates) == stages else [rates[0]] * (stages - 1) + [rates[-1]]


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
