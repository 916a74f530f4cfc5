"""bfloat16 against float32 in accuracy: python benchmarks/precision.py [--dataset digits --method dha --seeds 5 --out
runs] → reports/precision-<dataset>.md

The same searches in both precisions, paired by seed. Finished runs in --out are read, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import common

from kit import files
from kit.lab import sweep
from kit.methods import METHODS
from kit.studies.tables import interval

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("dataset", "digits"),
        ("method", "dha"),
        ("preset", "laptop"),
        ("out", "runs"),
        ("reports", "reports"),
        ("note", ""),
    ):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=None)
    a = parser.parse_args()
    fixed = {name: getattr(a, name) for name in ("dataset", "method", "preset", "out")}
    result = sweep.run(sweep.grid(seed=range(a.seeds), precision=list(PRECISIONS), **fixed), workers=a.workers)
    sweep.require_all(result)
    found = {p: {run.config.seed: run for run in result.runs if run.config.precision == p} for p in PRECISIONS}
    rows = []
    for precision, runs in found.items():
        accuracy = [100 * run.metrics["test_accuracy"] for run in runs.values()]
        _, low, high = interval(accuracy)
        rows.append(
            (
                precision,
                str(len(runs)),
                f"{statistics.mean(accuracy):.2f} ± {statistics.stdev(accuracy):.2f}",
                f"{low:.2f} … {high:.2f}",
                f"{statistics.median(run.metrics['seconds'] for run in runs.values()):.0f}",
            )
        )
    apart = [
        100 * (found["bfloat16"][s].metrics["test_accuracy"] - found["float32"][s].metrics["test_accuracy"])
        for s in found["float32"]
    ]
    _, low, high = interval(apart)
    verdict = "not distinguishable" if low <= 0 <= high else "different"
    where, images = result.runs[0].provenance, result.runs[0].metrics["test_images"]
    text = "\n\n".join(
        filter(
            None,
            [
                f"# bfloat16 against float32: {a.dataset}",
                f"{METHODS[a.method].title}, preset `{a.preset}`, seeds 0 to {a.seeds - 1}, the same data, draws "
                'and first weights; `precision="bfloat16"` runs the '
                f"networks under autocast, everything else stays float32. Test accuracy in percent on {images:,} "
                f"images (one image is {100 / images:.2f} points).",
                common.table(("precision", "n", "test accuracy (mean ± std)", "95% interval", "seconds, median"), rows),
                f"Paired difference, bfloat16 − float32: {statistics.mean(apart):+.2f} points, 95% interval "
                f"[{low:+.2f}, {high:+.2f}] (n = {len(apart)} seeds): "
                f"{verdict}.",
                f"`python benchmarks/precision.py --dataset {a.dataset} --method {a.method} --preset {a.preset} "
                f"--seeds {a.seeds}`; commit {where['commit']}; "
                f"{where['device']}, {where['processor']}, {where['cores']} cores, {where['threads']} thread(s) a "
                f"run, torch {where['versions']['torch']}.",
                a.note,
            ],
        )
    )
    path = Path(a.reports) / f"precision-{Path(a.dataset).name}.md"
    files.write(path, text + "\n")
    print(path)


if __name__ == "__main__":
    main()
