"""The run directory: what a search writes while it goes (`Records`), and how it is read afterwards (`Run`)."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kit.config import Config
from kit.errors import KitError
from kit.run import export, store
from kit.run.predict import Prediction, TrainedModel, batches
from kit.run.provenance import pick_device

KEPT_CHECKPOINTS = 2
COLUMNS = {"step": "int64", "epoch": "int64", "name": "object", "value": "float64"}


class Records:
    """History, α and τ of a run in progress: in memory and, after `write`, in the run directory.

    Rows hold nothing that differs between two executions, such as times. alpha, tau: by name, as of one epoch each.
    tensorboard: also write event files.
    """

    def __init__(self, folder: Path, tensorboard: bool = False):
        if tensorboard and not importlib.util.find_spec("tensorboard"):
            raise KitError("tensorboard=True needs the package tensorboard: pip install 'kit[tensorboard]'")
        self.folder, self.tensorboard, self.events, self.shown = folder, tensorboard, None, 0
        self.rows: list[tuple[int, int, str, float]] = []
        self.alpha: list[dict[str, np.ndarray]] = []
        self.tau: list[dict[str, np.ndarray]] = []

    def add(self, step: int, epoch: int, numbers: dict[str, float]) -> None:
        """Rows of the history. step, epoch: how many are complete."""
        self.rows += [(step, epoch, name, float(value)) for name, value in numbers.items()]

    def snapshot(self, epoch: int, alpha: dict[str, Tensor], tau: dict[str, Tensor]) -> None:
        """α and τ after an epoch; an empty τ is not recorded."""
        for entries, tensors in ((self.alpha, alpha), (self.tau, tau)):
            if tensors:
                arrays = {name: value.cpu().numpy() for name, value in tensors.items()}
                entries.append(arrays | {"epoch": np.array(epoch)})

    def write(self) -> None:
        frame = pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(COLUMNS)
        store.atomically(self.folder / "history.parquet", lambda p: frame.to_parquet(p, index=False))
        for name, entries in (("alpha", self.alpha), ("tau", self.tau)):
            if entries:
                arrays = {key: np.stack([entry[key] for entry in entries]) for key in entries[0]}
                store.write_arrays(self.folder / f"{name}.npz", arrays)
        if self.tensorboard:
            self._write_events()

    def _write_events(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self.events is None:  # begun anew at each start: a killed process may have written past its checkpoint
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            self.events = SummaryWriter(str(self.folder / "tensorboard"))
        for step, epoch, name, value in self.rows[self.shown :]:
            self.events.add_scalar(name, value, step if name.startswith("step/") else epoch)
        self.shown = len(self.rows)
        self.events.flush()

    def restore(self, epoch: int) -> None:
        """Read what was written up to `epoch`; the files may hold one epoch more than the last checkpoint."""
        frame = _history(self.folder)
        self.rows = list(frame[frame["epoch"] <= epoch].itertuples(index=False, name=None))
        for name, entries in (("alpha", self.alpha), ("tau", self.tau)):
            arrays = _arrays(self.folder, name)
            kept = [i for i, e in enumerate(arrays.get("epoch", ())) if e <= epoch]
            entries[:] = [{key: values[i] for key, values in arrays.items()} for i in kept]


def _history(folder: Path) -> pd.DataFrame:
    path = folder / "history.parquet"
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    with store.reading(path, f"holds no table with {', '.join(COLUMNS)}"):
        return pd.read_parquet(path)[list(COLUMNS)]


def _arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = folder / f"{name}.npz"
    return store.read_arrays(path) if path.is_file() else {}


def open_all(paths: str) -> list[Run]:
    """The runs at paths with commas between them, as notebooks name them. Raises KitError as `Run.load` does."""
    return [Run.load(path.strip()) for path in paths.split(",") if path.strip()]


class Run:
    """A run, finished or not, read from its directory. Get one from `kit.search` or `Run.load(path)`.

    What has not been written yet is empty. A file that was altered raises a KitError that names it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        values = store.read_json(self.path / "config.json")
        try:
            self.config = Config.stored(values)
            if self.config.model_dump() != values:
                raise KitError("its config.json lacks fields")
        except KitError as error:
            raise KitError(
                f"{self.path} cannot be opened as a run of this version of kit: {error}. (The version that its "
                "provenance.json names can)"
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """The run at `path`. Raises KitError for no run directory, a damaged one, and one of another version."""
        path = Path(os.path.expanduser(path))
        if (path / "config.json").is_file():
            return cls(path)
        roots = (path, *path.absolute().parents[:2], Path("runs"))
        found = [file.parent for root in roots for file in sorted(root.glob("*/history.parquet"))]
        nearby = ", ".join(dict.fromkeys(map(str, found[:8])))
        hint = f"runs nearby: {nearby}" if nearby else "kit.search(kit.Config(...)) makes one"
        raise KitError(f"{path} is not a run directory (it has no config.json); {hint}")

    def __repr__(self) -> str:
        accuracy = self.metrics.get("test_accuracy")
        result = f"test accuracy {accuracy:.4f}" if isinstance(accuracy, float) else self.status
        return f"<Run {self.path.name}: {result}>"

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return store.read_json(path) if path.is_file() else {}

    # ---- what it did -----------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").is_file()

    @property
    def status(self) -> str:
        """One of finished, running (a process works on it), failed, interrupted."""
        if self.finished:
            return "finished"
        if store.in_use(self.path):
            return "running"
        return "failed" if (self.path / "failure.json").is_file() else "interrupted"

    @property
    def metrics(self) -> dict[str, Any]:
        """Of a finished run: test_accuracy in [0, 1], val_accuracy (None: nothing was held out), seconds, params, …"""
        return self._json("metrics.json")

    @property
    def provenance(self) -> dict[str, Any]:
        """Of a finished run: commit, versions, hardware, the data's split, what it was trained on."""
        return self._json("provenance.json")

    @property
    def failure(self) -> dict[str, Any]:
        """Of a run that failed: error, message, epoch, step, traceback."""
        return self._json("failure.json")

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """Tidy: step, epoch (how many were complete), name, value. Read once; load the run again to see it go on."""
        return _history(self.path)

    def curve(self, name: str) -> pd.Series:
        """The values of one name by epoch (by step for the names that begin with "step/")."""
        rows = self.history[self.history["name"] == name]
        if rows.empty:
            names = ", ".join(sorted(self.history["name"].unique())) or "nothing yet"
            raise KitError(f"{self.path.name} has no curve {name!r}; it has: {names}")
        return rows.set_index("step" if name.startswith("step/") else "epoch")["value"]

    @property
    def alpha(self) -> dict[str, np.ndarray]:
        """epoch int64 [E] from 0; alpha float, support bool [E, slots, widest slot]; frozen bool [E, slots]."""
        return _arrays(self.path, "alpha")

    @property
    def tau(self) -> dict[str, np.ndarray]:
        """epoch int64 [E]; probabilities float and counts of draws [E, K, K] (row: first operation)."""
        return _arrays(self.path, "tau")

    # ---- what it found ---------------------------------------------------------------------------

    def _found(self, name: str, kind: type = dict) -> Any:
        value = self._json("model/model.json").get(name, kind())
        if not isinstance(value, kind):
            raise KitError(f"{self.path / 'model' / 'model.json'} was altered: its {name} is {value!r:.60}")
        return value

    @property
    def genotype(self) -> dict[str, Any]:
        """{"normal": nodes of [operation, input] pairs, "reduce": …}, or {"network": name} for a fixed network."""
        return self._found("genotype")

    @property
    def policy(self) -> dict[str, Any]:
        """{"name", "ops", "probabilities": [K, K] nested lists} at the end; only the name where τ is fixed."""
        return self._found("policy")

    @property
    def hyper(self) -> dict[str, float]:
        """The learned (or fixed) lr and weight_decay at the end; lr without the schedule's factor."""
        return self._found("hyper")

    @property
    def classes(self) -> list[str]:
        """Their names; raises KitError where there is no model yet."""
        return self.found() and self._found("classes", list)

    def found(self) -> dict[str, Any]:
        """All of model.json: network, genotype, classes, policy, hyper, preprocessing. Raises KitError without one."""
        if found := self._json("model/model.json"):
            return found
        raise KitError(f"{self.path} has no model yet ({self.status}): kit.search with the same configuration goes on")

    def model(self, device: torch.device | str = "cpu") -> TrainedModel:
        """The trained network in evaluation mode, built from its genotype alone. device: cpu, cuda, cuda:N or auto."""
        device, path = pick_device(device), self.path / "model" / "model.safetensors"
        return TrainedModel.built(self.found(), store.read_tensors(path), path).to(device)

    def predict(self, images: Any, batch_size: int = 256, device: torch.device | str = "cpu") -> Prediction:
        """Class names and probabilities of paths, folders, PIL images or arrays; see `TrainedModel.predict`."""
        return self.model(device).predict(images, batch_size)

    def prepare(self, images: Any) -> Tensor:
        """Images of any form as the model sees them: uint8 [N, C, H, W]."""
        return torch.cat(list(batches(images, self.model().network.image)))

    def export(self, path: str | Path, format: str | None = None) -> Path:
        """Write the model, and its card beside it: .safetensors, .pt2 or .onnx; see `kit.run.export.export`."""
        return export.export(self, Path(path), format)

    def card(self, device: torch.device | str = "cpu") -> str:
        """The model card in Markdown; see `kit.run.export.card`."""
        return export.card(self, device)
