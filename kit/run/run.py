"""The run directory: what a search leaves behind, and how to read it (DESIGN, "The run directory")."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from kit import space
from kit.config import Config
from kit.errors import KitError
from kit.run import store
from kit.run.predict import Inputs, preprocessing
from kit.run.records import Records

if TYPE_CHECKING:
    from kit.run.export import Exported

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Prediction:
    """labels: int64 [N]; probabilities: float32 [N, classes]; names: the labels' class names; files: the images' paths,
    if they are files.
    """

    labels: Tensor
    probabilities: Tensor
    names: list[str]
    files: list[Path] | None = None


class TrainedModel(nn.Module):
    """The found network alone, ready to use: uint8 images [N, C, H, W] → class scores float [N, classes]; normalises by
    itself.

    `predict` takes images of any size and form; `preprocessing` says what it does to them.
    """

    def __init__(self, network: space.Network, classes: list[str]):
        super().__init__()
        self.network, self.classes = network, list(classes)
        self.child = network.only_child()

    @classmethod
    def built(cls, found: dict[str, Any], tensors: dict[str, Tensor], source: Path) -> TrainedModel:
        """From what model.json holds and the weights by name; source: the file to name in a KitError where the two do
        not fit.
        """
        try:
            spec = dict(found["network"])
            with torch.random.fork_rng(
                devices=[]
            ):  # the first weights are drawn for nothing: the caller's draws stay as they were
                network = space.build(spec.pop("space"), spec.pop("classes"), tuple(spec.pop("image")), **spec)
            classes = list(found["classes"])
            if [type(name) for name in classes] != [str] * found["network"]["classes"]:
                raise ValueError(f"{found['network']['classes']} classes are called {classes!r:.60}")
        except Exception as error:  # whatever the altered values lead to
            raise KitError(
                f"{source} describes no network that kit can build ({type(error).__name__}: {error}): it was altered, or is of another "
                "version"
            ) from None
        if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in network.state_dict().items()}:
            raise KitError(
                f"{source} does not hold the weights of the network in model.json: the run directory was altered or is of an older "
                "version; run its configuration again with resume=False"
            )
        network.load_state_dict(tensors)
        # the layout that it was evaluated in, so that its outputs are the recorded ones to the last bit
        return cls(network.to(memory_format=torch.channels_last), classes).eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, self.child)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """See `kit.inputs.preprocessing`."""
        return preprocessing(self.network.image)

    def predict(self, images: Any, batch_size: int = 256) -> Prediction:
        """Classes of images of any form, on the model's device, in evaluation mode.

        images: a path, a folder (with its subfolders, sorted by path), a PIL image, an array, a list of these, or a
        batch as an array: uint8
        (or whole numbers 0…255) [N, C, H, W], [N, H, W, C] or grey [N, H, W]. Other sizes and channels are adapted as
        the training images
        were: grey ↔ RGB, the shorter side scaled to fit (bilinear, antialiased), the centre cropped. batch_size bounds
        the memory.
        Raises one KitError that lists every image that cannot be used, and why.
        """
        inputs, was_training = Inputs(images, self.network.image), self.training
        self.eval()
        with torch.no_grad():
            scores = [self(batch.to(self.network.mean.device)).float().cpu() for batch in inputs.batches(batch_size)]
        self.train(was_training)
        probabilities = torch.cat(scores).softmax(dim=1) if scores else torch.zeros(0, len(self.classes))
        labels = probabilities.argmax(dim=1)
        return Prediction(labels, probabilities, [self.classes[i] for i in labels.tolist()], inputs.files)


class Run:
    """A finished, interrupted or failed run, read from its directory. Get one from `kit.search` or `Run.load(path)`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = Config.stored(store.read_object(self.path / "config.json"))

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Raises KitError, with the runs found nearby, when there is no run at `path`."""
        path = Path(path).expanduser()
        if not (path / "config.json").is_file():
            nearby = sorted(
                {str(p.parent) for root in (path, path.parent) if root.is_dir() for p in root.glob("*/config.json")}
            )
            hint = f"; runs nearby: {', '.join(nearby[:8])}" if nearby else "; kit.search(kit.Config(...)) makes one"
            raise KitError(f"{path} is not a run directory (it has no config.json){hint}")
        return cls(path)

    def __repr__(self) -> str:
        accuracy = self.metrics.get("test_accuracy")
        result = f"test accuracy {accuracy:.4f}" if isinstance(accuracy, float) else self.status
        return f"<Run {self.path.name}: {result}>"

    # ---- what it did -----------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").is_file()

    @property
    def status(self) -> str:
        """finished, failed or interrupted (which includes: going on in another process)."""
        return "finished" if self.finished else "failed" if (self.path / "failure.json").is_file() else "interrupted"

    @property
    def metrics(self) -> dict[str, Any]:
        """test_accuracy and val_accuracy in [0, 1] (val None where nothing was held out), seconds, peak_memory_mb,
        params, macs, …
        """
        return store.read_object(self.path / "metrics.json") if self.finished else {}

    @property
    def provenance(self) -> dict[str, Any]:
        return store.read_object(self.path / "provenance.json")

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """Tidy: step, epoch (both count what was completed), name, value."""
        path = self.path / "history.parquet"
        if path.is_file():
            return store.read_frame(path, Records.COLUMNS)
        return pd.DataFrame({name: [] for name in Records.COLUMNS})

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
        """alpha float [epochs, slots, widest], support bool of that shape, frozen bool [epochs, slots]; epoch 0 is the
        start.
        """
        return self._arrays("alpha.npz")

    @property
    def tau(self) -> dict[str, np.ndarray]:
        """probabilities float [epochs, K, K] (row: first operation) and counts [epochs, K, K] of what was drawn; empty
        if τ is fixed.
        """
        return self._arrays("tau.npz")

    # ---- what it found ---------------------------------------------------------------------------

    def _found(self) -> dict[str, Any]:
        path = self.path / "model" / "model.json"
        if not path.is_file():
            raise KitError(
                f"{self.path} has no model yet ({self.status}): kit.search with the same configuration goes on with it"
            )
        return store.read_object(path)

    def _entry(self, name: str, kind: type) -> Any:
        value = self._found().get(name)
        if not isinstance(value, kind):
            raise KitError(f"{self.path / 'model' / 'model.json'} was altered: its {name} is {value!r:.60}")
        return value

    @property
    def genotype(self) -> dict[str, Any]:
        """Cells as {"normal": four nodes of [operation, input] pairs, "reduce": …}, or {"network": name} for a fixed
        network.
        """
        return self._entry("genotype", dict)

    @property
    def policy(self) -> dict[str, Any]:
        """{"name", "ops", "probabilities": [K, K] nested lists} as it stood at the end; only the name where τ is
        fixed.
        """
        return self._entry("policy", dict)

    @property
    def hyper(self) -> dict[str, float]:
        """The learned (or fixed) lr and weight_decay at the end; lr without the schedule's factor."""
        return self._entry("hyper", dict)

    @property
    def classes(self) -> list[str]:
        return self._entry("classes", list)

    def model(self, device: torch.device | str = "cpu") -> TrainedModel:
        """The trained network in evaluation mode, built from its genotype alone. device: cpu, cuda, cuda:N or auto."""
        from kit.search.engine import pick_device  # which runs lead to, not the other way round

        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(device)):
            raise KitError(f"device={str(device)!r} is not auto, cpu, cuda or cuda:N")
        path = self.path / "model" / "model.safetensors"
        return TrainedModel.built(self._found(), store.read_tensors(path), path).to(pick_device(str(device)))

    def predict(self, images: Any, batch_size: int = 256, device: torch.device | str = "cpu") -> Prediction:
        """Class names and probabilities of paths, folders, PIL images or arrays; see `TrainedModel.predict`."""
        return self.model(device).predict(images, batch_size)

    def prepare(self, images: Any) -> Tensor:
        """Images of any form as the model sees them: uint8 [N, C, H, W]."""
        return Inputs(images, tuple(self._found()["network"]["image"])).all()

    def export(self, path: str | Path, format: str = "safetensors", images: Tensor | None = None) -> Exported:
        """Write the model for use elsewhere, its model card beside it, and check it against the run's; see
        `kit.export.export`.
        """
        from kit.run.export import export  # the exporters are heavy to import

        return export(self, Path(path), format, images)

    def card(self, device: torch.device | str = "cpu") -> str:
        """The model card in Markdown: what it is, how good, how fast, what it was not tested for; see
        `kit.card.card`.
        """
        from kit.run.card import card

        return card(self, device)
