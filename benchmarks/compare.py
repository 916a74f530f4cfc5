"""Seconds that `kit.studies.browse.browse` takes for many finished runs: python benchmarks/compare.py [--runs 1000]

The runs are copies of a small one, each with another seed and learning rate.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

import kit
from kit.run import store
from kit.search.progress import Silent
from kit.studies import browse


def copies(run: kit.Run, folder: Path, n: int) -> None:
    """Finished runs that nobody trained: a run's directory n times, under other configurations."""
    for i in range(n):
        copy = Path(shutil.copytree(run.path, folder / f"copy-{i:04}"))
        store.write_json(copy / "config.json", run.config.model_dump() | {"seed": i, "lr": 0.01 + i * 1e-5})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = kit.Config(dataset="digits", epochs=2, channels=4, cells=3, train_images=100, device="cpu")
        copies(kit.search(config, out=Path(folder) / "one", progress=Silent()), Path(folder) / "many", a.runs)
        for _ in range(a.repeats):
            began = time.perf_counter()
            table, _ = browse.browse(Path(folder) / "many")
            print(f"{len(table)} runs read in {time.perf_counter() - began:.2f} s", flush=True)


if __name__ == "__main__":
    main()
