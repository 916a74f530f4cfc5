"""How long it takes to begin: `import kit` beside `import torch, torchvision`, and the first step: python
benchmarks/start.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import common

IMPORTS = {"import torch, torchvision": "import torch, torchvision", "import kit": "import kit"}
FIRST = """
import time
began = time.perf_counter()
import kit, torch
from kit.search.progress import Silent
imported = time.perf_counter()
torch.set_num_threads(1)
from kit.run.provenance import pick_device
from kit.search.engine import Search
from pathlib import Path
search = Search(kit.Config(device={device!r}), Path("unused"))
built = time.perf_counter()
parts, batches = search.parts, search.batches
search.take_step(parts.net.train(), batches, parts.arch, parts.augment, parts.hyper, parts.sgd, 1.0, search.samples)
print(imported - began, built - imported, time.perf_counter() - built)
"""


def section(device: str, repeats: int) -> str:
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    parts = []
    for i in range(repeats + 1):
        for name, code in IMPORTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            if i:
                times[name].append(time.perf_counter() - began)
        if i:
            out = subprocess.run(
                [sys.executable, "-c", FIRST.format(device=device)], check=True, capture_output=True, text=True
            ).stdout
            parts.append([float(value) for value in out.split()])
    base = times["import torch, torchvision"]
    rows = [
        (name, f"{common.median(found):.2f}", common.shown(common.ratio(found, base))) for name, found in times.items()
    ]
    first = [
        (what, f"{common.median(column):.2f}", "–")
        for what, column in zip(
            ("… then data and networks (`dha`, digits)", "… then the first step"), list(zip(*parts))[1:]
        )
    ]
    return (
        "## start\n\nA new Python process each time, wall-clock, interpreter included in the first two rows.\n\n"
        + common.table(("what", "s, median", "÷ torch, torchvision (median, quartiles)"), rows + first)
        + f"\n\nn = {repeats} processes each, in turn.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    print(section(a.device, a.repeats))


if __name__ == "__main__":
    main()
