"""The check on a real GPU (`make gpu`), rehearsed on the CPU: each part runs, one that fails costs others nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).resolve().parents[1]
NVIDIA = {"device": "NVIDIA H200", "processor": "a processor", "cores": 2, "python": "3.12", "packages": "torch 2"}


@pytest.fixture
def words(capsys):
    """What is printed by a call of the script in this process, and its exit code."""

    def call(*arguments: object) -> tuple[str, int]:
        code = gpu.main([str(word) for word in arguments])
        return capsys.readouterr().out, code

    return call


def test_the_script_runs_every_part_and_keeps_what_it_found(tmp_path):
    asked = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", "cpu", "--quick"]
    asked += ["--results", tmp_path, "--out", tmp_path]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu-cpu-quick.json").read_text())
    assert list(found) == list(gpu.PARTS) and not any(result.get("failed") for result in found.values())
    assert re.search(r"\b[1-9]\d* passed, 0 failed", found["tests"]["text"])
    page = (tmp_path / "bench-cpu-rehearsed.md").read_text()
    assert all(f"### {part}\n" in page for part in gpu.PARTS) and "host waits in a step | ≤ 0 | –" in page
    assert found["landscape"]["figures"]["landscape"][0] > 0 and found["step"]["figures"]["step, quick"][3] == 2


def test_together_the_parts_take_eight_minutes_at_most():
    assert sum(limit for _, limit in gpu.PARTS.values()) <= 480


def well(device: torch.device, quick: bool) -> dict:
    return {"figures": {"step, quick": [1.0, 1.0, 1.0, 2]}, "text": "well\n\n"}


def raises(device: torch.device, quick: bool) -> dict:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has a total capacity of 8 GiB")


def hangs(device: torch.device, quick: bool) -> dict:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"])


def dies(device: torch.device, quick: bool) -> dict:
    import os

    os._exit(3)


def test_a_part_that_fails_hangs_or_dies_costs_the_others_nothing(tmp_path, words, monkeypatch):
    parts = {
        "step": (well, 60),
        "memory": (raises, 60),
        "landscape": (hangs, 0.5),
        "waits": (dies, 60),
        "augment": (well, 60),
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    began = time.monotonic()
    given = ("--device", "cpu", "--quick", "--results", tmp_path, "--out", tmp_path)
    said, code = words(*given)
    assert code == 1 and time.monotonic() - began < 30  # the 60 s of a part's own process were not waited for
    found = json.loads((tmp_path / "gpu-cpu-quick.json").read_text())
    assert {name: result.get("failed", "")[:20] for name, result in found.items()} == {
        "step": "",
        "memory": "OutOfMemoryError: CU",
        "landscape": "took more than 0.5 s",
        "waits": "its process ended wi",
        "augment": "",
    }
    # what is finished is kept, what failed runs again; only what was asked for decides the exit code
    said, code = words(*given, "--parts", "step,augment")
    assert code == 0 and said.count("is finished, its result is kept") == 2
    said, code = words(*given, "--parts", "memory")
    assert code == 1 and "gpu: memory: OutOfMemoryError" in said
    said, _ = words(*given, "--parts", "step", "--again")
    assert "gpu: step: done" in said
    page = (tmp_path / "bench-cpu-rehearsed.md").read_text()
    assert "**Failed: took more than 0.5 s.**" in page and "not run: OutOfMemoryError: CUDA out of memory" in page


def test_what_cannot_be_used_is_said_in_a_line(words, monkeypatch):
    said, code = words("--device", "cpu", "--parts", "stepp")
    assert code == 2 and said.startswith("unknown part stepp: choose from tests, step,")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said, code = words()
    assert code == 1 and said.count("\n") == 1 and "no CUDA device on this machine; --device cpu" in said

    def old() -> bool:
        import warnings

        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).", stacklevel=2
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old)
    monkeypatch.setattr(gpu, "asked", lambda *query: [["470.1"]])
    said, code = words()
    assert code == 1 and said.startswith("gpu: the driver (470.1) is too old for CUDA 13.0 of torch")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in words()[0]


def test_another_process_on_the_device_is_named(monkeypatch):
    monkeypatch.setattr(gpu, "asked", lambda *query: [["77", "python", "900 MiB"]])
    assert gpu.others_there().startswith("other processes are on the device: python (pid 77, 900 MiB)")
    monkeypatch.setattr(gpu, "asked", lambda *query: [])
    assert gpu.others_there() == ""


def test_a_device_that_is_too_small_is_said_and_the_other_sizes_are_measured(capsys):
    def measure(name, device, size):
        return raises(device, True) if size["cells"] == 20 else ({name: [1.0, 1.0, 1.0, 2]}, [(name,)])

    figures, rows, said = gpu.at_sizes(torch.device("cpu"), False, measure)
    assert list(figures) == ["preset server"] and rows == [("preset server",)]
    assert "DHA's CIFAR size: not run, the device is too small for it (CUDA out of memory." in said
    assert capsys.readouterr().out.startswith("gpu: DHA's CIFAR size: not run")


def test_the_report_says_what_was_met_and_what_missed():
    known = {"commit": "abc", "date": "today", "seconds": 1.0}
    size, other = gpu.SIZES
    found = {
        "step": known | {"figures": {f"step, {size}": [1.01, 1.0, 1.02, 60], f"step, {other}": [1.2, 1.1, 1.3, 60]}},
        "augment": known | {"figures": {"augment, 32², any": [6.0, 5.0, 7.0, 9]}},
        "waits": known | {"figures": {"waits": [2, 2, 2, 1]}},
        "landscape": known | {"failed": "took more than 30 s"},
    }
    about = NVIDIA | {"memory": "140 GiB", "driver": "580.1", "cuda": "13.0"}
    lines = gpu.report(about, found, ["two processes"]).splitlines()
    ends = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[-1] for line in lines if line.count(" | ") == 4}
    assert ends[f"DHA look-ahead step ÷ plain step, {size}"] == "met |"
    assert ends[f"DHA look-ahead step ÷ plain step, {other}"] == "missed |"
    assert ends["augmentation ÷ best other, 32²"] == "met |" and ends["host waits in a step"] == "missed |"
    assert ends["landscape point ÷ library's"] == "not run: took more than 30 s |"
    assert ends["kit ÷ eager yardstick, bfloat16"] == "not run |"
    assert "driver 580.1, CUDA 13.0" in lines[2] and "Note: two processes." in lines


def test_a_report_keeps_its_other_sections(tmp_path):
    from benchmarks import common

    path = tmp_path / f"{common.page_name(NVIDIA, cuda=True)}.md"
    for name, text in (("augment", "old"), ("step", "a step"), ("augment", "new"), ("gpu", "the check")):
        common.write_section(path, name, text, NVIDIA)
    page = path.read_text()
    assert path.name == "bench-nvidia-h200.md" and page.startswith("# Benchmarks: NVIDIA H200\n") and "old" not in page
    assert page.index("the check") < page.index("a step") < page.index("new")


def test_the_wheels_are_those_that_kit_needs_beyond_what_is_there():
    text = (ROOT / "benchmarks" / "wheels.sh").read_text()
    named = {name.lower().replace("_", "-") for name in re.search(r'names="(.*?)"', text, re.DOTALL)[1].split()}
    assert {"pydantic", "pooch", "optuna", "loss-landscapes", "pytest", "kornia"} <= named
    assert not named & {"torch", "torchvision", "numpy", "pandas", "plotly", "jupyterlab", "papermill"}
    assert subprocess.run(["bash", "-n", ROOT / "benchmarks" / "wheels.sh"]).returncode == 0
