"""What runs will cost, before they start: steps, times the seconds of a step as measured here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from kit.config import Config
from kit.search.engine import Search

WARM, TIMED = 1, 3  # steps


def estimate(configs: Sequence[Config]) -> pd.Series:
    """Seconds of every run by itself, by name. Times a few steps of every stage of every configuration, once for all
    its seeds; keeps nothing. Evaluation and checkpoints are not in it. Raises KitError for what cannot run.
    """
    seconds, known = {}, {}
    for config in configs:
        key = str({name: value for name, value in config.model_dump().items() if name not in ("seed", "out")})
        known[key] = known.get(key) or _seconds(config)
        seconds[config.name] = known[key]
    return pd.Series(seconds, name="seconds", dtype=float)


def _seconds(config: Config) -> float:
    total, epoch = 0.0, {}
    with tempfile.TemporaryDirectory() as folder:
        engine = Search(config, Path(folder) / config.name)
        for index, (stage, epochs) in enumerate(zip(config.stages, config.stage_epochs)):
            if stage not in epoch:  # some methods repeat a stage
                if index:
                    engine._enter(index, engine._picks())
                epoch[stage] = _step(engine) * engine.data.batches["train"].steps_per_epoch
            total += epoch[stage] * epochs
    return total


def _step(engine: Search) -> float:
    """Seconds: the least of a few steps."""
    parts, taken = engine.parts, []
    for _ in range(WARM + TIMED):
        began = time.perf_counter()
        engine.take_step(parts.net.train(), engine.data.batches, parts.learners, parts.sgd, 0.5)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        taken.append(time.perf_counter() - began)
    return min(taken[WARM:])
