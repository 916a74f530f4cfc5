"""History, α and τ of a run: in memory, and in history.parquet, alpha.npz and tau.npz of its directory."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kit import files
from kit.run import store

COLUMNS = {"step": "int64", "epoch": "int64", "name": "object", "value": "float64"}
MOST, LONGEST = 2**20, 200  # rows of a history and letters of a name: more come from no run
SHARE = 50  # the files are written as a whole, so once a fiftieth is new: late epochs cost what the first ones did


class Records:
    """Of a run in progress. Rows hold nothing that differs between two executions, such as times. alpha, tau: by name,
    as of one epoch each. The checkpoint has what the files do not have yet."""

    def __init__(self, folder: Path):
        self.folder, self.written = folder, -1  # up to which epoch
        self.rows: list[tuple[int, int, str, float]] = []
        self.alpha: list[dict[str, np.ndarray]] = []
        self.tau: list[dict[str, np.ndarray]] = []

    def add(self, step: int, epoch: int, numbers: dict[str, float]) -> None:
        self.rows += [(step, epoch, name, float(value)) for name, value in numbers.items()]

    def snapshot(self, epoch: int, alpha: dict[str, Tensor], tau: dict[str, Tensor]) -> None:
        """α and τ after an epoch; an empty τ is not recorded."""
        for entries, tensors in ((self.alpha, alpha), (self.tau, tau)):
            if tensors:
                arrays = {name: value.cpu().numpy() for name, value in tensors.items()}
                entries.append(arrays | {"epoch": np.array(epoch)})

    def write(self, epoch: int, whole: bool = False) -> None:
        """The files, where enough is new since the last time. whole: in any case."""
        if not whole and epoch - self.written < epoch / SHARE:
            return
        content, self.written = io.BytesIO(), epoch
        pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(COLUMNS).to_parquet(content, index=False)
        files.write(self.folder / "history.parquet", content.getvalue())
        for name in ("alpha", "tau"):
            if entries := getattr(self, name):
                arrays = {key: np.stack([entry[key] for entry in entries]) for key in entries[0]}
                store.write_arrays(self.folder / f"{name}.npz", arrays)

    def state_dict(self) -> dict[str, list]:
        """What the files do not have."""
        new = {name: [e for e in getattr(self, name) if _epoch(e) > self.written] for name in ("rows", "alpha", "tau")}
        as_tensors = lambda entry: {key: torch.from_numpy(array) for key, array in entry.items()}
        return {name: list(map(as_tensors, es)) if name != "rows" else es for name, es in new.items()}

    def load_state_dict(self, state: dict[str, list], epoch: int) -> str:
        """What the files (there may be more) and the checkpoint of `epoch` have up to it. Says what is lost of that."""
        why, self.written = "", -1
        for name, read in (("rows", _rows), ("alpha", _entries), ("tau", _entries)):
            try:
                held = read(self.folder, name)
            except files.Damaged as error:
                held, now = [], files.aside(error.path, "damaged").name
                why += f" ({error}; it is {now} now)"
            there, more = set(map(_epoch, held)), state.get(name, ())
            more = more if name == "rows" else [{key: tensor.numpy() for key, tensor in e.items()} for e in more]
            held += [entry for entry in more if _epoch(entry) not in there]
            setattr(self, name, [entry for entry in held if _epoch(entry) <= epoch])
        lost = set(range(1, epoch + 1)).difference(map(_epoch, self.rows))
        return f"the history of {len(lost)} epochs, from {min(lost)} on, is lost{why}" if lost else ""


def _epoch(entry: Any) -> int:
    return int(entry["epoch"] if isinstance(entry, dict) else entry[1])


def _rows(folder: Path, _: str) -> list[tuple]:
    return list(history(folder).itertuples(index=False, name=None))


def _entries(folder: Path, name: str) -> list[dict[str, np.ndarray]]:
    arrays = store.read_arrays(folder / f"{name}.npz", {})
    return [{key: np.array(values[i]) for key, values in arrays.items()} for i in range(len(arrays.get("epoch", ())))]


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
        frame = table.read(list(COLUMNS)).to_pandas()
        if max(map(len, frame["name"].cat.categories), default=0) > LONGEST:
            raise ValueError(f"a name is longer than {LONGEST} letters")
        return frame.astype(COLUMNS)
