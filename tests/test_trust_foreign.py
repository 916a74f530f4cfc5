"""Run directories of others: whatever lies in one, opening it changes nothing outside, takes little memory and time,
and ends in an answer or one clear error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests_micro import micro_config

import kit
from kit import KitError, Run, figures
from kit.lab import panel
from kit.lab.panel import Dashboard
from kit.run import store
from kit.search.progress import Silent
from kit.space import latency
from kit.studies import browse, landscape, page, report

# ---- what others put into a run directory ------------------------------------------------------------


def replace(path: Path, make: Callable[[Path], None]) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    make(path)


def entry(name: str, *keys: str, value: object) -> Callable[[Path, Path], None]:
    def alter(run: Path, outside: Path) -> None:
        held = inner = json.loads((run / name).read_text())
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (run / name).write_text(json.dumps(held))

    return alter


def linked(name: str, target: str) -> Callable[[Path, Path], None]:
    return lambda run, outside: replace(run / name, lambda path: path.symlink_to(outside / target))


def made(name: str, make: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    return lambda run, outside: replace(run / name, make)


def table(path: Path, rows: int, name: str) -> None:
    names = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [name])
    ones = np.ones(rows, np.int64)
    columns = {"step": ones, "epoch": ones, "name": names, "value": ones.astype(float)}
    pq.write_table(pa.table(columns), path)


def inflated_history(path: Path) -> None:
    """A small file of sixty million letters."""
    names, ones = pa.array([f"{i:06}" + "x" * 1_000_000 for i in range(60)]), np.ones(60, np.int64)
    rows = pa.table({"step": ones, "epoch": ones, "name": names, "value": ones * 1.0})
    pq.write_table(rows, path, compression="zstd")


def nested(path: Path) -> None:
    """One row of a few bytes, which holds a list of ten million numbers."""
    steps = pa.ListArray.from_arrays([0, 10_000_000], np.zeros(10_000_000, np.int32))
    pq.write_table(pa.table({"step": steps, "epoch": [1], "name": ["x"], "value": [1.0]}), path)


def inflated(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("alpha.npy", bytes(100_000_000))


def another(checkpoint: Path) -> None:
    """A sound one, of another configuration."""
    store.write_state(checkpoint, store.read_state(checkpoint) | {"identity": {"run": "another-run", "data": "0"}})


def strays(checkpoints: Path) -> None:
    (checkpoints / "epoch-latest.safetensors").write_bytes(b"x")
    (checkpoints / "epoch-00009.safetensors").mkdir()


LINKS = {
    "lock": linked(".lock", "precious"),
    "config": linked("config.json", "config.json"),
    "metrics": linked("metrics.json", "missing"),
    "failure": linked("failure.json", "precious"),
    "checkpoints": linked("checkpoints", "checkpoints"),
    "a checkpoint": linked("checkpoints/epoch-00002.safetensors", "checkpoints/epoch-00002.safetensors"),
    "model": linked("model", "model"),
    "landscape": linked("landscape", "checkpoints"),
    "page": linked("report.html", "precious"),
    "a hard link as lock": lambda run, outside: replace(run / ".lock", lambda p: p.hardlink_to(outside / "precious")),
}
OTHERS = {
    "a seed that is a path": entry("config.json", "seed", value="/../../../x"),
    "a data set's path": entry("config.json", "dataset", value="../../../x"),
    "a pipe as metrics": made("metrics.json", os.mkfifo),
    "a pipe as lock": made(".lock", os.mkfifo),
    "a pipe as history": made("history.parquet", os.mkfifo),
    "a large file": made("metrics.json", lambda path: (path.touch(), os.truncate(path, 2**40))),
    "many classes": entry("model/model.json", "network", "classes", value=30_000_000),
    "many cells": entry("model/model.json", "network", "cells", value=10**9),
    "many channels": entry("model/model.json", "network", "channels", value=10**6),
    "a deep file": made("provenance.json", lambda path: path.write_text("[" * 10**6)),
    "a long number": made("metrics.json", lambda path: path.write_text('{"test_accuracy": ' + "9" * 5000 + "}")),
    "text for a number": entry("metrics.json", "test_accuracy", value="<b>1</b>"),
    "no metrics": made("metrics.json", lambda path: path.write_text('{"a": 1}')),
    "no provenance": made("provenance.json", lambda path: path.write_text('{"a": 1}')),
    "a long history": made("history.parquet", lambda path: table(path, 5_000_000, "loss")),
    "a long name": made("history.parquet", lambda path: table(path, 3000, "x" * 1_000_000)),
    "an inflated history": made("history.parquet", inflated_history),
    "a nested history": made("history.parquet", nested),
    "inflated arrays": made("alpha.npz", inflated),  # beyond what the test allows
    "weights of nothing": made("model/model.safetensors", lambda path: (path.touch(), os.truncate(path, 30_000_000))),
    "a deep model": made("model/model.json", lambda path: path.write_text('{"a":' * 10**5)),
    "many epochs": entry("config.json", "epochs", value=10**15),
    "a pipe as latency": made("latency.json", os.mkfifo),
    "another run's results": entry("metrics.json", "run", value="another-run"),
    "another run's checkpoint": lambda run, outside: another(run / "checkpoints" / "epoch-00002.safetensors"),
    "stray checkpoints": lambda run, outside: strays(run / "checkpoints"),
}


# those that could harm by what a search does; the others only by being read
SEARCHED = (*LINKS, "a seed that is a path", "a pipe as lock", *list(OTHERS)[-3:])


@pytest.fixture
def outside(finished: Run, tmp_path: Path) -> Path:
    """What no run directory has to do with, some of it in a run's form."""
    shutil.copytree(finished.path, tmp_path / "outside")
    (tmp_path / "outside" / "precious").write_text("do not touch")
    return tmp_path / "outside"


@pytest.fixture(scope="module")
def measured(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with its landscape, which then is read and not measured."""
    path = Path(shutil.copytree(finished.path, tmp_path_factory.mktemp("measured") / finished.path.name))
    landscape.compare([path], steps=3, directions=1, images=10)
    return path


@pytest.fixture
def foreign(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "runs" / measured.name))


def state(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = f"{path.lstat().st_mode} {path.lstat().st_mtime_ns} {content}"
    return found


def consumers(run: Path, place: Path, searched: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """All that opens a run directory."""
    opened = lambda: Run.load(run)
    search = lambda **how: kit.search(micro_config(), out=run.parent, progress=Silent(), **how)
    for name in ("status", "metrics", "provenance", "failure", "alpha", "tau", "history", "genotype", "classes"):
        yield name, lambda name=name: getattr(opened(), name)
    yield "predict", lambda: opened().predict(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    yield "card", lambda: opened().card()
    yield "export", lambda: opened().export(place / "model.safetensors")
    yield "page", lambda: page.write(run)
    yield "compare", lambda: browse.browse(run.parent)
    yield "report", lambda: report.write("ablation", [opened()], place)
    yield "limits", lambda: report.write("limits", [opened()], place, cost="params")
    yield "landscape", lambda: landscape.compare([run], steps=3, directions=1, images=10)
    yield "dashboard", lambda: Dashboard(run=opened())
    if searched:
        yield "search", search
        yield "going on", lambda: ((run / "metrics.json").unlink(missing_ok=True), search())
        yield "anew", lambda: search(resume=False)


def peak_memory(anew: bool = False) -> int:
    """Bytes that this process has held at most, since the last time that it was counted anew."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(page, "FIGURES", (figures.policy,))
    monkeypatch.setattr(figures, "png", lambda figure: b"!")
    monkeypatch.setattr(figures, "save_all", lambda *_, **__: [])
    read = lambda run: (run.history, run.metrics, figures.blank(""))[-1]  # without drawing, which takes longest
    monkeypatch.setattr(figures, "curves", read)
    monkeypatch.setitem(panel.FIGURES, "curves", read)
    monkeypatch.setattr(latency, "time_model", lambda *_: 1.0)
    monkeypatch.setenv("KIT_MAX_GB", "0.05")


@pytest.mark.parametrize("what", [*LINKS, *OTHERS])
def test_a_foreign_run_directory_touches_nothing_and_costs_little(what, foreign, outside, quick, tmp_path):
    (LINKS | OTHERS)[what](foreign, outside)
    (tmp_path / "place").mkdir()
    before, answers = state(outside), 0
    before_memory = peak_memory(anew=True)
    for name, ask in consumers(foreign, tmp_path / "place", what in SEARCHED):
        began = time.monotonic()
        try:
            ask()
            answers += 1
        except KitError as error:
            assert len(str(error)) > 20, (name, error)
        assert time.monotonic() - began < 10, name
        assert state(outside) == before, name
    assert peak_memory() - before_memory < 500 * 2**20, "the limits here are an eightieth of the usual ones"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "place", "runs"]


def test_a_link_is_named(foreign, outside):
    LINKS["a checkpoint"](foreign, outside)
    with pytest.raises(KitError, match="epoch-00002.safetensors is a symbolic link.*remove it"):
        Run.load(foreign)


def test_a_link_to_a_run_directory_is_the_users_own(finished: Run, tmp_path: Path):
    (tmp_path / "best").symlink_to(finished.path)
    assert Run.load(tmp_path / "best").path == finished.path


def test_a_size_that_is_no_number_is_named(finished: Run, monkeypatch):
    monkeypatch.setenv("KIT_MAX_GB", "x")
    with pytest.raises(KitError, match="KIT_MAX_GB must be a number of gigabytes from 0.*'x'"):
        Run.load(finished.path)
