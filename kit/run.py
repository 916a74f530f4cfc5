"""The run directory: what a search leaves behind, and how to read it (DESIGN, "The run directory")."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from kit import space, store
from kit.config import Config
from kit.errors import KitError

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Prediction:
    """labels: int64 [N]; probabilities: float32 [N, classes]; names: the labels' class names."""

    labels: Tensor
    probabilities: Tensor
    names: list[str]


class TrainedModel(nn.Module):
    """The found network alone, ready to use: uint8 images [N, C, H, W] → class scores float [N, classes]; normalises by itself."""

    def __init__(self, network: space.Network, classes: list[str]):
        super().__init__()
        self.network, self.classes = network, list(classes)
        self.child = network.only_child()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, self.child)


class Run:
    """A finished, interrupted or failed run, read from its directory. Get one from `kit.search` or `Run.load(path)`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        values = store.read_json(self.path / "config.json")
        if not isinstance(values, dict):
            raise KitError(f"{self.path / 'config.json'} is not a configuration: {values!r:.60}")
        self.config = Config.stored(values)

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Raises KitError, with the runs found nearby, when there is no run at `path`."""
        path = Path(path).expanduser()
        if not (path / "config.json").is_file():
            nearby = sorted({str(p.parent) for root in (path, path.parent) if root.is_dir() for p in root.glob("*/config.json")})
            hint = f"; runs nearby: {', '.join(nearby[:8])}" if nearby else "; kit.search(kit.Config(...)) makes one"
            raise KitError(f"{path} is not a run directory (it has no config.json){hint}")
        return cls(path)

    def __repr__(self) -> str:
        accuracy = self.metrics.get("test_accuracy")
        result = f"test accuracy {accuracy:.4f}" if accuracy is not None else self.status
        return f"<Run {self.path.name}: {result}>"

    # ---- what it did ---------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").is_file()

    @property
    def status(self) -> str:
        """finished, failed or interrupted (which includes: going on in another process)."""
        return "finished" if self.finished else "failed" if (self.path / "failure.json").is_file() else "interrupted"

    @property
    def metrics(self) -> dict[str, Any]:
        """test_accuracy and val_accuracy in [0, 1] (val None where nothing was held out), seconds, peak_memory_mb, params, macs, …"""
        return store.read_json(self.path / "metrics.json") if self.finished else {}

    @property
    def provenance(self) -> dict[str, Any]:
        return store.read_json(self.path / "provenance.json")

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """Tidy: step, epoch (both count what was completed), name, value."""
        path = self.path / "history.parquet"
        if path.is_file():
            return pd.read_parquet(path)
        return pd.DataFrame({"step": [], "epoch": [], "name": [], "value": []})

    def curve(self, name: str) -> pd.Series:
        """One name's values by epoch (by step for the names that begin with "step/")."""
        rows = self.history[self.history["name"] == name]
        if rows.empty:
            known = ", ".join(sorted(self.history["name"].unique())) or "nothing yet"
            raise KitError(f"{self.path.name} has no curve {name!r}; it has: {known}")
        return rows.set_index("step" if name.startswith("step/") else "epoch")["value"]

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.path / name
        return store.read_arrays(path) if path.is_file() else {}

    @property
    def alpha(self) -> dict[str, np.ndarray]:
        """alpha float [epochs, slots, widest], support bool of that shape, frozen bool [epochs, slots]; epoch 0 is the start."""
        return self._arrays("alpha.npz")

    @property
    def tau(self) -> dict[str, np.ndarray]:
        """probabilities float [epochs, K, K] (row: first operation) and counts [epochs, K, K] of what was drawn; empty if τ is fixed."""
        return self._arrays("tau.npz")

    # ---- what it found -------------------------------------------------------------------------------------------------------

    def _found(self) -> dict[str, Any]:
        path = self.path / "model" / "model.json"
        if not path.is_file():
            raise KitError(f"{self.path} has no model yet ({self.status}): kit.search with the same configuration goes on with it")
        return store.read_json(path)

    @property
    def genotype(self) -> dict[str, Any]:
        """Cells as {"normal": four nodes of [operation, input] pairs, "reduce": …}, or {"network": name} for a fixed network."""
        return self._found()["genotype"]

    @property
    def policy(self) -> dict[str, Any]:
        """{"name", "ops", "probabilities": [K, K] nested lists} as it stood at the end; only the name where τ is fixed."""
        return self._found()["policy"]

    @property
    def hyper(self) -> dict[str, float]:
        """The learned (or fixed) lr and weight_decay at the end; lr without the schedule's factor."""
        return self._found()["hyper"]

    @property
    def classes(self) -> list[str]:
        return self._found()["classes"]

    def model(self, device: torch.device | str = "cpu") -> TrainedModel:
        """The trained network in evaluation mode, built from its genotype alone."""
        found = self._found()
        spec = dict(found["network"])
        network = space.build(spec.pop("space"), spec.pop("classes"), tuple(spec.pop("image")), **spec)
        path = self.path / "model" / "model.safetensors"
        tensors, expected = store.read_tensors(path), network.state_dict()
        if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in expected.items()}:
            raise KitError(f"{path} does not hold the weights of the network in model.json: the run directory was altered or is of an older "
                           "version; run its configuration again with resume=False")  # fmt: skip
        network.load_state_dict(tensors)
        return TrainedModel(network, found["classes"]).to(device).eval()

    def predict(self, images: Tensor | np.ndarray, batch_size: int = 256, device: torch.device | str = "cpu") -> Prediction:
        """Classes of uint8 images [N, C, H, W] (a tensor or an array; the size that the model was trained on)."""
        model = self.model(device)
        images = _checked(images, tuple(model.network.image))
        with torch.no_grad():
            scores = [model(images[i : i + batch_size].to(device)).float().cpu() for i in range(0, len(images), batch_size)]
        probabilities = torch.cat(scores).softmax(dim=1) if scores else torch.zeros(0, len(model.classes))
        labels = probabilities.argmax(dim=1)
        return Prediction(labels, probabilities, [model.classes[i] for i in labels.tolist()])

    def export(self, path: str | Path, format: str = "safetensors") -> Path:
        """Write the model for use elsewhere; see `kit.export`."""
        from kit.export import export  # the exporters are heavy to import

        return export(self, Path(path), format)


def _checked(images: Tensor | np.ndarray, image: tuple[int, ...]) -> Tensor:
    tensor = torch.as_tensor(images)
    if tensor.ndim == 3 and image[0] == 1:
        tensor = tensor.unsqueeze(1)
    if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tuple(tensor.shape[1:]) != image:
        raise KitError(f"predict takes uint8 images of shape [N, {', '.join(map(str, image))}]; got {tensor.dtype} {list(tensor.shape)}")
    return tensor
