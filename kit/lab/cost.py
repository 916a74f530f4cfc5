"""What a sweep will cost, before it starts: steps, times the seconds of a step as measured here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kit.config import Config
from kit.search.engine import Search

WARM, TIMED = 1, 3  # steps


@dataclass(frozen=True)
class Estimate:
    """seconds: of every run by itself, by name; workers: runs at a time."""

    seconds: dict[str, float]
    workers: int

    @property
    def wall(self) -> float:
        """Seconds of the sweep if its runs are shared out evenly: never less than its longest run."""
        return max([sum(self.seconds.values()) / self.workers, *self.seconds.values()], default=0.0)

    def __str__(self) -> str:
        computing, wall = (_clock(seconds) for seconds in (sum(self.seconds.values()), self.wall))
        return f"{len(self.seconds)} runs to do: about {computing} of computing, {wall} with {self.workers} at a time"


def estimate(configs: Sequence[Config], workers: int) -> Estimate:
    """Times a few steps of every stage of every configuration (once for all its seeds); keeps nothing.

    Evaluation and checkpoints are not in it. Raises KitError for a configuration that cannot run.
    """
    seconds, known = {}, {}
    for config in configs:
        key = str({name: value for name, value in config.model_dump().items() if name not in ("seed", "out")})
        if key not in known:
            known[key] = _seconds(config)
        seconds[config.name] = known[key]
    return Estimate(seconds, workers)


def _seconds(config: Config) -> float:
    total, step = 0.0, {}
    with tempfile.TemporaryDirectory() as folder:
        engine = Search(config, Path(folder) / config.name)
        for index, (stage, epochs) in enumerate(zip(config.stages, config.stage_epochs)):
            if stage not in step:  # some methods repeat a stage
                if index:
                    engine._enter(index, engine._picks())
                step[stage] = _step(engine) * engine.data.batches["train"].steps_per_epoch
            total += step[stage] * epochs
    return total


def _step(engine: Search) -> float:
    """Seconds: the least of a few steps."""
    parts, taken = engine.parts, []
    learners = (parts.arch, parts.augment, parts.hyper, parts.sgd)
    for _ in range(WARM + TIMED):
        began = time.perf_counter()
        engine.take_step(parts.net.train(), engine.data.batches, *learners, 0.5, engine.samples)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        taken.append(time.perf_counter() - began)
    return min(taken[WARM:])


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
