"""Golden digests of every method, the data's splits and the public names: what a rebuild must not change by accident.

    python tests/golden.py        # records them anew in tests/golden.json; say in the commit what changed them and why

Digests are exact on the machine that recorded them (`where`); elsewhere rounding differs, and the history is compared
with a tolerance instead.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import kit

FILE = Path(__file__).with_name("golden.json")


def where() -> str:
    """What rounding depends on: processor and its instructions, torch."""
    about = dict(line.split(":", 1) for line in _cpuinfo() if ":" in line)
    about = {name.strip(): value.strip() for name, value in about.items()}
    flags = hashlib.sha256(" ".join(sorted(about.get("flags", "").split())).encode()).hexdigest()[:8]
    return f"{about.get('model name', platform.processor())}, flags {flags}, torch {torch.__version__}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def digest(*arrays: np.ndarray) -> str:
    together = hashlib.sha256()
    for array in arrays:
        together.update(np.ascontiguousarray(array).tobytes())
    return together.hexdigest()[:16]


def of_run(run: kit.Run) -> dict:
    """Its epochs' losses, and a digest of its history and weights."""
    history = run.history.sort_values(["name", "step"])
    values = history.loc[~history["name"].str.contains("seconds"), "value"].to_numpy(float)
    state = run.model().state_dict()
    weights = [state[name].numpy() for name in sorted(state)]
    losses = run.history.query("name == 'loss'")["value"].tolist()
    return {"loss": losses, "test_loss": run.metrics["test_loss"], "digest": digest(values, *weights)}


def of_data(name: str) -> dict:
    sets = kit.load_dataset(name)
    parts = {part: getattr(sets, part) for part in ("train", "val", "test")}
    return {part: [len(s.labels), digest(s.images.numpy(), s.labels.numpy())] for part, s in parts.items()}


PUBLIC = """
kit.datasets kit.load_dataset kit.methods kit.Config kit.search kit.Run kit.ImageSets kit.Prediction kit.KitError
kit.dashboard kit.augment.OPS kit.augment.apply_op kit.augment.apply_mixed kit.arch.lasso kit.landscape.plane
kit.landscape.sharpness kit.data.register kit.Run.load kit.Run.history kit.Run.genotype kit.Run.policy kit.Run.hyper
kit.Run.model kit.Run.export kit.Run.metrics kit.Run.predict
""".split()


def public() -> list[str]:
    """Those of the names that users rely on which are there."""
    return [name for name in PUBLIC if _has(name)]


def _has(name: str) -> bool:
    value = kit
    for part in name.split(".")[1:]:
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


def record() -> dict:
    """The runs of tests/test_methods.py: every method and their variants."""
    import test_methods
    from tests_micro import register_micro

    torch.set_num_threads(1)
    register_micro()
    with tempfile.TemporaryDirectory() as out:
        search = lambda variant: of_run(kit.search(test_methods.config_of(variant), out=out))
        runs = {variant: search(variant) for variant in test_methods.VARIANTS}
    return {"where": where(), "data": {"digits": of_data("digits")}, "runs": runs}


if __name__ == "__main__":
    FILE.write_text(json.dumps(record(), indent=1) + "\n")
    print(f"recorded in {FILE.name} on {where()}", file=sys.stderr)
