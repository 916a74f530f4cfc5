"""History, α, τ and clock of a run: in memory, and in history.parquet and the .npz files of its directory."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from kit import files
from kit.run import store

COLUMNS = {"step": "int64", "epoch": "int64", "name": "object", "value": "float64"}
MOST = 2**20  # rows of a history: more come from no run
SNAPSHOTS = ("alpha", "tau", "clock")  # an entry per epoch
SHARE = 50  # the files are written as a whole, so once a fiftieth is new: late epochs cost what the first ones did


class Records:
    """Of a run in progress. Rows hold nothing that differs between two executions, such as times. SNAPSHOTS: arrays by
    name, as of one epoch each. What the files do not have yet is in the checkpoint."""

    def __init__(self, folder: Path):
        self.folder, self.written = folder, -1  # up to which epoch
        self.held: dict[str, list[dict[str, Any]]] = {kind: [] for kind in ("rows", *SNAPSHOTS)}

    def add(self, step: int, epoch: int, numbers: dict[str, float]) -> None:
        self.held["rows"] += [dict(zip(COLUMNS, (step, epoch, *pair))) for pair in numbers.items()]

    def snapshot(self, epoch: int, **tensors: dict[str, Tensor]) -> None:
        """SNAPSHOTS after an epoch; an empty one is not recorded."""
        for kind, named in tensors.items():
            self.held[kind] += [{n: t.cpu() for n, t in named.items()} | {"epoch": epoch}] if named else []

    def write(self, epoch: int, whole: bool = False) -> None:
        """The files, where enough is new since the last time. whole: in any case."""
        if not whole and epoch - self.written < epoch / SHARE:
            return
        content, self.written = io.BytesIO(), epoch
        pd.DataFrame(self.held["rows"], columns=list(COLUMNS)).astype(COLUMNS).to_parquet(content, index=False)
        files.write(self.folder / "history.parquet", content.getvalue())
        for kind in SNAPSHOTS:
            if entries := self.held[kind]:
                arrays = {name: np.stack([entry[name] for entry in entries]) for name in entries[0]}
                store.write_arrays(self.folder / f"{kind}.npz", arrays)

    def state_dict(self) -> dict[str, list]:
        """What the files do not have."""
        return {kind: [one for one in held if one["epoch"] > self.written] for kind, held in self.held.items()}

    def load_state_dict(self, state: dict[str, list], epoch: int) -> str:
        """What the files (there may be more) and the checkpoint of `epoch` have up to it. Says what is lost of that."""
        why, self.written = "", -1
        for kind in self.held:
            try:
                there = history(self.folder) if kind == "rows" else store.read_arrays(self.folder / f"{kind}.npz", {})
            except files.Damaged as error:
                there, why = {}, f"{why} ({error}; it is {files.aside(error.path, 'damaged').name} now)"
            held = [dict(zip(there, values)) for values in zip(*(there[name] for name in there))]
            known = {one["epoch"] for one in held}
            held += [one for one in state.get(kind, ()) if one["epoch"] not in known]
            self.held[kind] = [one for one in held if one["epoch"] <= epoch]
        lost = set(range(1, epoch + 1)).difference(one["epoch"] for one in self.held["rows"])
        return f"the history of {len(lost)} epochs, from {min(lost)} on, is lost{why}" if lost else ""


def history(folder: Path) -> pd.DataFrame:
    """As far as it is written. Raises KitError for a file that was altered or cannot be read."""
    if not (path := folder / "history.parquet").exists():
        return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    import pyarrow.parquet as pq  # takes long

    content = io.BytesIO(files.read(path))
    with files.reading(path, f"holds no table with {', '.join(COLUMNS)}"):
        table = pq.ParquetFile(content, read_dictionary=["name"])  # a long name that is repeated takes memory once
        if (rows := table.metadata.num_rows) > MOST:
            raise ValueError(f"it has {rows:,} rows, a run has at most {MOST:,}")
        return table.read(list(COLUMNS)).to_pandas().astype(COLUMNS)
