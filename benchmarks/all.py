"""All benchmarks into one report: python benchmarks/all.py [--device auto --repeats 7 --only step,augment] →
reports/bench-<device>.md

Each section measures its things in turn in one run. Run it on an otherwise idle machine; it takes about half an hour on
two CPU cores, most of it `search`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import common
import torch

from kit.run import provenance
from kit.run.provenance import pick_device

HERE = Path(__file__).resolve().parent
ORDER = common.ORDER[1:]
USUAL = [name for name in ORDER if name != "sharpness"]  # which needs landscaper: pip install landscaper


def one(name: str, device: torch.device, repeats: int) -> str:
    """In this process, with one thread."""
    import augment
    import data
    import distributed
    import landscape
    import memory
    import search
    import start
    import step

    torch.set_num_threads(1)
    sections = {
        "step": lambda: step.section(device, repeats, **step.SIZES[0]),
        "small": lambda: step.section(device, 3 * repeats, **step.SIZES[1]),
        "augment": lambda: augment.section(device, repeats),
        "memory": memory.section,
        "search": lambda: search.section(device, max(5, repeats // 2)),
        "data": lambda: data.section(repeats, **data.SIZE),
        "landscape": lambda: landscape.section(device, 2 * repeats),
        "sharpness": lambda: landscape.sharpness(range(5)),
        "start": lambda: start.section(str(device), repeats),
        "distributed": lambda: distributed.section(device, repeats),
    }
    return sections[name]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", default=",".join(USUAL), help=f"sections, with commas: {', '.join(ORDER)}")
    parser.add_argument("--out", default="reports")
    parser.add_argument("--print", dest="single", choices=ORDER, help="print this section and write nothing")
    a = parser.parse_args()
    device = pick_device(a.device)
    if a.single:
        print(one(a.single, device, a.repeats))
        return
    where = provenance.describe(device)
    path = Path(a.out) / f"{common.page_name(where, device.type == 'cuda')}.md"
    for section in a.only.split(","):
        # a process each: what one leaves in memory is not the next one's
        out = subprocess.run(
            [
                sys.executable,
                str(HERE / "all.py"),
                "--print",
                section,
                "--device",
                str(device),
                "--repeats",
                str(a.repeats),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        origin = f"commit {where['commit']}, load before {os.getloadavg()[0]:.1f}"
        text = f"{out.strip()}\n\n*{origin}*"
        print(text, flush=True)
        common.write_section(path, section, text, where)
    print(path)


if __name__ == "__main__":
    main()
