"""History, α and τ of a run. While it goes, every epoch writes a file of its own, records/<epoch>.npz, so that the
thousandth costs what the first did; its end makes history.parquet, alpha.npz and tau.npz of them.

A file holds arrays by name, rows/…, alpha/… and tau/…, whose first axis is rows or epochs; …/epoch has the epoch of
each."""

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kit import files
from kit.run import store

COLUMNS = {"step": "int64", "epoch": "int64", "name": "object", "value": "float64"}
HISTORY = "history.parquet"
MOST, LONGEST = 2**20, 200  # rows of a history and letters of a name: more come from no run


class Records:
    """Of a run in progress. Rows hold nothing that differs between two executions, such as times. alpha: the last."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.new: dict[str, list] = {}  # since the last `write`
        self.alpha: dict[str, Tensor] = {}

    def add(self, step: int, epoch: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._add("rows", {"step": step, "epoch": epoch, "name": name, "value": float(value)})

    def snapshot(self, epoch: int, alpha: dict[str, Tensor], tau: dict[str, Tensor]) -> None:
        """α and τ after an epoch; an empty one is not recorded."""
        self.alpha = alpha
        for kind, tensors in (("alpha", alpha), ("tau", tau)):
            if tensors:
                self._add(kind, {name: tensor.cpu().numpy() for name, tensor in tensors.items()} | {"epoch": epoch})

    def _add(self, kind: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.new.setdefault(f"{kind}/{name}", []).append(value)

    def write(self, epoch: int) -> None:
        store.write_arrays(self.folder / "records" / f"{epoch:05d}.npz", {k: np.array(v) for k, v in self.new.items()})
        self.new = {}

    def restore(self, epoch: int) -> str:
        """Forget what came after `epoch`, that of the checkpoint (-1: none). Says what is missing up to it."""
        why, held = "", None
        while held is None:
            try:
                held = _read(self.folder)
            except files.Damaged as error:
                why += f"; {error}; it is {files.aside(error.path, 'damaged').name} now"
        kept = {name: values[held[f"{name.split('/')[0]}/epoch"] <= epoch] for name, values in held.items()}
        if (self.folder / HISTORY).exists():
            shutil.rmtree(self.folder / "records", ignore_errors=True)
            store.write_arrays(self.folder / "records" / "00000.npz", kept)
            (self.folder / HISTORY).unlink()
        for path in _parts(self.folder):
            if int(path.stem) > epoch:
                path.unlink()
        alpha = {name: torch.from_numpy(values[-1:])[0] for name, values in _of("alpha", kept).items() if len(values)}
        self.alpha = {name: value for name, value in alpha.items() if name != "epoch"}
        lost = set(range(1, epoch + 1)).difference(kept.get("rows/epoch", np.empty(0)).tolist())
        return f"the history of {len(lost)} epochs, from epoch {min(lost)} on, is lost{why}" if lost else ""

    def finish(self) -> None:
        """Make the files of a finished run."""
        held, table = _read(self.folder), io.BytesIO()
        for kind in ("alpha", "tau"):
            if values := _of(kind, held):
                store.write_arrays(self.folder / f"{kind}.npz", values)
        _frame(held).to_parquet(table, index=False)
        files.write(self.folder / HISTORY, table.getvalue())
        shutil.rmtree(self.folder / "records", ignore_errors=True)


def history(folder: Path) -> pd.DataFrame:
    """As far as the run has come. Raises KitError for a file that was altered or cannot be read."""
    if not (path := folder / HISTORY).exists():
        return _frame(_joined(folder))
    import pyarrow.parquet as pq  # takes long

    content = io.BytesIO(files.read(path))
    with files.reading(path, f"holds no table with {', '.join(COLUMNS)}"):
        table = pq.ParquetFile(content, read_dictionary=["name"])  # a long name that is repeated takes memory once
        if (rows := table.metadata.num_rows) > MOST:
            raise ValueError(f"it has {rows:,} rows, a run has at most {MOST:,}")
        frame = table.read(list(COLUMNS)).to_pandas()
        if max(map(len, frame["name"].cat.categories), default=0) > LONGEST:
            raise ValueError(f"a name is longer than {LONGEST} letters")
        return frame.astype(COLUMNS)


def arrays(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """alpha or tau, likewise, each array with a first axis of epochs; `epoch` names them. Empty where there is none."""
    whole = (folder / HISTORY).exists() or not (folder / "records").exists()
    return store.read_arrays(folder / f"{kind}.npz", {}) if whole else _of(kind, _joined(folder))


def _read(folder: Path) -> dict[str, np.ndarray]:
    if not (folder / HISTORY).exists():
        return _joined(folder)
    held = {f"rows/{name}": column.to_numpy() for name, column in history(folder).items()}
    held["rows/name"] = held["rows/name"].astype(str)
    return held | {f"{kind}/{k}": v for kind in ("alpha", "tau") for k, v in arrays(folder, kind).items()}


def _joined(folder: Path) -> dict[str, np.ndarray]:
    parts = [store.read_arrays(path) for path in _parts(folder)]
    with files.reading(folder / "records", "holds files that do not go together"):
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts or [{}])[0]}


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "records").glob("*.npz") if path.stem.isdecimal())


def _of(kind: str, held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{kind}/"): values for name, values in held.items() if name.startswith(f"{kind}/")}


def _frame(held: dict[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({name: held.get(f"rows/{name}", []) for name in COLUMNS}).astype(COLUMNS)
