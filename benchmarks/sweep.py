"""What a sweep adds to its runs' own time: python benchmarks/sweep.py [--runs 12 --workers 2 --epochs 20]

Prints the scheduling overhead, wall-clock time against the runs' own time shared out over the workers, once the fork
server stands (a first sweep of one run starts it), and the start of a run: of a sweep of one run, all but the seconds
that the run counts itself (training and evaluation), beside what a fresh Python takes to import kit.search.engine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kit.lab import sweep
from kit.run import provenance, store
from kit.run.provenance import pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 12), ("workers", 2), ("epochs", 20), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    where = provenance.describe(pick_device("auto"))
    print(
        f"{where['device']}, {where['processor']}, commit {where['commit']}; {a.runs} runs of {a.epochs} epochs, "
        f"{a.workers} workers"
    )
    imported = []
    for _ in range(a.repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import kit.search.engine, pyarrow.parquet"], check=True)
        imported.append(time.perf_counter() - began)
    small = dict(dataset="digits", method="plain", channels=4, cells=3, batch_size=64, device="cpu")
    for i in range(a.repeats):
        with tempfile.TemporaryDirectory() as folder:
            first = started(sweep.grid(**small, seed=0, epochs=1), folder)
            print(
                f"start of a run, {'from the standing' if i else 'with the start of the'} fork server: {first:.2f} s "
                f"beside its own seconds; import {min(imported):.2f} s",
                flush=True,
            )
            began = time.perf_counter()
            result = sweep.run(sweep.grid(**small, seed=range(a.runs), epochs=a.epochs), out=folder, workers=a.workers)
            wall = time.perf_counter() - began
            sweep.require_all(result)
            own = sum(run.metrics["seconds"] for run in result.runs)
            print(
                f"wall {wall:.2f} s, runs' own {own:.2f} s: overhead {wall / (own / a.workers) - 1:+.1%} (repeat "
                f"{i + 1} of {a.repeats})",
                flush=True,
            )


def started(configs: list, folder: str) -> float:
    """Seconds of a sweep of one run, less those that the run counts itself."""
    began = time.perf_counter()
    sweep.require_all(sweep.run(configs, out=folder, workers=1))
    wall = time.perf_counter() - began
    return wall - store.read_json(Path(folder) / configs[0].name / "metrics.json")["seconds"]


if __name__ == "__main__":
    main()
