"""What a sweep will cost, before it starts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Sequence

import pandas as pd

from kit.config import Config

STEPS = 3


def estimate(configs: Sequence[Config], workers: int = 1) -> pd.DataFrame:
    """Hours per kind of run (all that is equal but the seed): one row each with runs, steps, seconds_per_step, hours, and params and macs of its
    child at the start; hours are of all its runs one after the other, on this machine, divided by `workers`.

    A kind's first stage is built and takes a few steps; later stages are taken to cost the same, and the time between epochs is left out.
    """
    from kit.search import Search

    kinds: dict[str, list[Config]] = {}
    for config in configs:
        kinds.setdefault(repr({k: v for k, v in config.model_dump().items() if k not in ("seed", "out")}), []).append(config)
    rows = []
    for members in kinds.values():
        search = Search(members[0], Path("unused"))
        parts, batches = search.parts, search.data.batches
        parts.net.train()
        seconds = []
        for _ in range(STEPS):
            began = time.perf_counter()
            search.take_step(parts.net, batches, parts.arch, parts.augment, parts.hyper, parts.sgd, 1.0, search.samples)
            float(next(parts.net.parameters()).detach().flatten()[0])  # waits for the device
            seconds.append(time.perf_counter() - began)
        steps = members[0].epochs * batches["train"].steps_per_epoch
        cost = parts.net.cost(parts.arch.derived().picks)
        rows.append({
            "method": members[0].method, "dataset": members[0].dataset, "runs": len(members), "steps": steps, "seconds_per_step": min(seconds),
            "hours": min(seconds) * steps * len(members) / workers / 3600, "params": cost.params, "macs": cost.macs,
        })  # fmt: skip
    return pd.DataFrame(rows)
