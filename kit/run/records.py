"""What a run writes down while it goes: the tidy history, α and τ over the epochs. Cut back to a checkpoint's epoch on
resuming.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from kit.errors import KitError
from kit.run import store


class Records:
    """In memory and, after `write`, in the run directory. Rows hold nothing that differs between two executions (no
    times).
    """

    COLUMNS = ("step", "epoch", "name", "value")

    def __init__(self, folder: Path, tensorboard: bool = False):
        self.folder, self.sink = folder, EventFiles(folder) if tensorboard else None
        self.rows: list[tuple[int, int, str, float]] = []
        self.alpha: list[tuple[int, dict[str, np.ndarray]]] = []
        self.tau: list[tuple[int, dict[str, np.ndarray]]] = []

    def add(self, step: int, epoch: int, numbers: dict[str, float]) -> None:
        self.rows += [(step, epoch, name, float(value)) for name, value in numbers.items()]

    def snapshot(self, epoch: int, alpha: dict[str, Tensor], tau: dict[str, Tensor]) -> None:
        self.alpha.append((epoch, {name: value.cpu().numpy() for name, value in alpha.items()}))
        if tau:
            self.tau.append((epoch, {name: value.cpu().numpy() for name, value in tau.items()}))

    def write(self) -> None:
        frame = pd.DataFrame(self.rows, columns=list(self.COLUMNS)).astype(
            {"step": "int64", "epoch": "int64", "value": "float64"}
        )
        store.atomically(self.folder / "history.parquet", lambda p: frame.to_parquet(p, index=False))
        for name, entries in (("alpha", self.alpha), ("tau", self.tau)):
            if entries:
                store.write_arrays(self.folder / f"{name}.npz", _stacked(entries))
        if self.sink is not None:
            self.sink.write(self.rows)

    def restore(self, epoch: int) -> None:
        """Read what was written up to `epoch`; a run may have written one epoch more than its last checkpoint knows."""
        path = self.folder / "history.parquet"
        if path.is_file():
            frame = store.read_frame(path, self.COLUMNS)
            self.rows = list(frame[frame["epoch"] <= epoch].itertuples(index=False, name=None))
        for name, entries in (("alpha", self.alpha), ("tau", self.tau)):
            path = self.folder / f"{name}.npz"
            if path.is_file():
                arrays = store.read_arrays(path)
                epochs = arrays.pop("epoch")
                entries[:] = [
                    (int(e), {k: v[i] for k, v in arrays.items()}) for i, e in enumerate(epochs) if e <= epoch
                ]


class EventFiles:
    """The history's scalars for TensorBoard, beside the history: per epoch over epochs, `step/…` over steps."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise KitError(
                "tensorboard=True needs the package tensorboard: pip install 'kit[tensorboard]', or leave tensorboard out"
            ) from None
        self.folder, self.open, self.writer, self.written = folder / "tensorboard", SummaryWriter, None, 0

    def write(self, rows: list[tuple[int, int, str, float]]) -> None:
        """rows: the whole history so far; those that are new to the files are added."""
        if self.writer is None:
            # anew at each start, from the history: what a killed process wrote after its last checkpoint does not stay
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            self.writer = self.open(str(self.folder))
        for step, epoch, name, value in rows[self.written :]:
            self.writer.add_scalar(name, value, step if name.startswith("step/") else epoch)
        self.written = len(rows)
        self.writer.flush()


def _stacked(entries: list[tuple[int, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    arrays = {key: np.stack([values[key] for _, values in entries]) for key in entries[0][1]}
    return {"epoch": np.array([epoch for epoch, _ in entries]), **arrays}
