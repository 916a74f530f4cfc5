"""The run directory: what a search writes while it goes (`Records`), and how it is read afterwards (`Run`)."""

from __future__ import annotations

import functools
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
from kit.run.predict import Inputs, Prediction, TrainedModel
from kit.run.provenance import pick_device

KEPT_CHECKPOINTS = 2
COLUMNS = {"step": "int64", "epoch": "int64", "name": "object", "value": "float64"}


class Records:
    """History, α and τ of a run in progress: in memory and, after `write`, in the run directory.

    Rows hold nothing that differs between two executions, such as times. tensorboard: also write event files.
    """

    def __init__(self, folder: Path, tensorboard: bool = False):
        self.folder, self.writer = folder, _summary_writer() if tensorboard else None
        self.events, self.shown = None, 0  # an open writer, and how many rows it has
        self.rows: list[tuple[int, int, str, float]] = []
        self.alpha: list[tuple[int, dict[str, np.ndarray]]] = []
        self.tau: list[tuple[int, dict[str, np.ndarray]]] = []

    def add(self, step: int, epoch: int, numbers: dict[str, float]) -> None:
        """Rows of the history. step, epoch: how many are complete."""
        self.rows += [(step, epoch, name, float(value)) for name, value in numbers.items()]

    def snapshot(self, epoch: int, alpha: dict[str, Tensor], tau: dict[str, Tensor]) -> None:
        """α and τ after an epoch; an empty τ is not recorded."""
        for entries, tensors in ((self.alpha, alpha), (self.tau, tau)):
            if tensors:
                entries.append((epoch, {name: value.cpu().numpy() for name, value in tensors.items()}))

    def write(self) -> None:
        frame = pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(COLUMNS)
        store.atomically(self.folder / "history.parquet", lambda p: frame.to_parquet(p, index=False))
        for name, entries in (("alpha", self.alpha), ("tau", self.tau)):
            if entries:
                arrays = {key: np.stack([values[key] for _, values in entries]) for key in entries[0][1]}
                arrays["epoch"] = np.array([epoch for epoch, _ in entries])
                store.write_arrays(self.folder / f"{name}.npz", arrays)
        if self.writer is not None:
            self._write_events()

    def _write_events(self) -> None:
        if self.events is None:  # begun anew at each start: a killed process may have written past its checkpoint
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            self.events = self.writer(str(self.folder / "tensorboard"))
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
            epochs = arrays.pop("epoch", ())
            entries[:] = [(int(e), {k: v[i] for k, v in arrays.items()}) for i, e in enumerate(epochs) if e <= epoch]


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise KitError("tensorboard=True needs the package tensorboard: pip install 'kit[tensorboard]'") from None
    return SummaryWriter


def _history(folder: Path) -> pd.DataFrame:
    path = folder / "history.parquet"
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    with store.reading(path, f"holds no table with {', '.join(COLUMNS)}"):
        return pd.read_parquet(path)[list(COLUMNS)]


def _arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = folder / f"{name}.npz"
    return store.read_arrays(path) if path.is_file() else {}


def _config(path: Path) -> Config:
    """What a run directory recorded, validated like a given configuration. Nothing is executed, no data looked for."""
    values = store.read_json(path / "config.json")
    if missing := [name for name in ("dataset", "method", "seed") if values.get(name) is None]:
        raise KitError(f"{path} is not a run directory of kit: its config.json lacks {', '.join(missing)}")
    try:
        required = (name for name, field in Config.model_fields.items() if field.is_required())
        if missing := [name for name in required if values.get(name) is None]:
            raise KitError(f"it lacks {', '.join(missing)}")
        return Config.stored(values)
    except KitError as error:
        if values.get("plugins"):
            raise KitError(f"{path}: {error}") from None
        raise KitError(
            f"{path}: this run directory was made by another version of kit, or altered ({error}). Open it with the "
            "version in its provenance.json, or run the same again: kit.search(kit.Config(dataset=..., method=...))"
        ) from None


def open_all(paths: str) -> list[Run]:
    """The runs at paths with commas between them, as notebooks name them. Raises KitError as `Run.load` does."""
    return [Run.load(path.strip()) for path in paths.split(",") if path.strip()]


class Run:
    """A run, finished or not, read from its directory. Get one from `kit.search` or `Run.load(path)`.

    What has not been written yet is empty. A file that was altered raises a KitError that names it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = _config(self.path)

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """The run at `path`. Raises KitError for no run directory, a damaged one, and one of another version."""
        path = Path(os.path.expanduser(path))
        if (path / "config.json").is_file():
            return cls(path)
        roots = dict.fromkeys([path, *path.absolute().parents][:3] + [Path("runs")])
        found = [p.parent for root in roots if root.is_dir() for p in sorted(root.glob("*/history.parquet"))]
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

    def _found(self, name: str, kind: type) -> Any:
        found = self._json("model/model.json")
        value = found.get(name) if found else kind()
        if not isinstance(value, kind):
            raise KitError(f"{self.path / 'model' / 'model.json'} was altered: its {name} is {value!r:.60}")
        return value

    @property
    def genotype(self) -> dict[str, Any]:
        """{"normal": nodes of [operation, input] pairs, "reduce": …}, or {"network": name} for a fixed network."""
        return self._found("genotype", dict)

    @property
    def policy(self) -> dict[str, Any]:
        """{"name", "ops", "probabilities": [K, K] nested lists} at the end; only the name where τ is fixed."""
        return self._found("policy", dict)

    @property
    def hyper(self) -> dict[str, float]:
        """The learned (or fixed) lr and weight_decay at the end; lr without the schedule's factor."""
        return self._found("hyper", dict)

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
        return Inputs(images, self.model().network.image).all()

    def export(self, path: str | Path, format: str = "safetensors") -> Path:
        """Write the model for use elsewhere, with its model card beside it; see `kit.run.export.export`."""
        return export.export(self, Path(path), format)

    def card(self, device: torch.device | str = "cpu") -> str:
        """The model card in Markdown; see `kit.run.export.card`."""
        return export.card(self, device)
