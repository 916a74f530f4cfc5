"""How long one search takes, and what it gives: python benchmarks/search.py [--method dha --preset laptop --dataset digits --seeds 1]

Prints, per seed, wall-clock seconds of `kit.search` in this process (data, start and checkpoints included) and the test accuracy.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch

import kit
from kit import provenance
from kit.progress import Silent
from kit.search import pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("method", "dha"), ("preset", "laptop"), ("dataset", "digits")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    where = provenance.describe(pick_device("auto"))
    print(f"{where['device']}, {where['processor']}, {a.threads} thread(s), torch {torch.__version__}, commit {where['commit']}")
    for seed in range(a.seeds):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run = kit.search(kit.Config(dataset=a.dataset, method=a.method, preset=a.preset, seed=seed), out=folder, progress=Silent())
            took = time.perf_counter() - began
            m = run.metrics
            print(f"{a.method} on {a.dataset}, preset {a.preset}, seed {seed}: {took:.1f} s, test accuracy {m['test_accuracy']:.4f} "
                  f"(n = {m['test_images']} images, one run)", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
