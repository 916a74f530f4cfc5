"""The run directory: what a search writes into it while it goes (`Records`), and how it is read (`Run`)."""

import functools
import io
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy
import torch
from markupsafe import Markup
from torch import Tensor

from kit import data, files
from kit.config import NOT_HASHED, Config
from kit.errors import KitError, shown
from kit.methods import METHODS
from kit.run import export, store, text
from kit.run.predict import Prediction, TrainedModel, batches
from kit.run.provenance import pick_device
from kit.run.warnings import warnings
from kit.search.progress import say
from kit.space import latency

MODEL = "model/model.json"
NUMBER = (int, float, type(None))
COLUMNS = {"step": "int64", "epoch": "int64", "name": "object", "value": "float64"}
MOST, LONGEST = 2**20, 200  # rows of a history and letters of a name: more come from no run
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
        for kind, named in tensors.items():
            self.held[kind] += [{n: t.cpu() for n, t in named.items()} | {"epoch": epoch}] if named else []

    def write(self, epoch: int, whole: bool = False) -> None:
        """The files, where enough is new since the last time. whole: in any case. Raises KitError without the run."""
        if not (self.folder / "config.json").is_file():
            raise KitError(f"{self.folder} was removed while the run went on; run again to start anew")
        if not whole and epoch - self.written < epoch / SHARE:
            return
        self.written, rows = epoch, pd.DataFrame(self.held["rows"], columns=list(COLUMNS)).astype(COLUMNS)
        fill = lambda path: rows.to_parquet(path, index=False, write_page_checksum=True)
        files.write(self.folder / "history.parquet", fill)
        for kind in SNAPSHOTS:
            if entries := self.held[kind]:
                arrays = {name: np.stack([entry[name] for entry in entries]) for name in entries[0]}
                store.write_arrays(self.folder / f"{kind}.npz", arrays)

    def state_dict(self) -> dict[str, list]:
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

    content = io.BytesIO(files.read(path, share=store.UNPACKED))
    with files.reading(path, f"holds no table with {', '.join(COLUMNS)}"):
        how = {"read_dictionary": ["name"], "page_checksum_verification": True}  # of a repeated name one is in memory
        about = (table := pq.ParquetFile(content, **how)).metadata
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(about.num_columns)]
        if (values := sum(column.num_values for column in columns)) > MOST * len(COLUMNS):  # a row may hold a list
            raise ValueError(f"it has {values:,} values, a run has at most {MOST:,} rows")
        files.check_size(sum(column.total_uncompressed_size for column in columns), store.UNPACKED)
        frame = table.read(list(COLUMNS)).to_pandas()
        if max(map(len, frame["name"].cat.categories), default=0) > LONGEST:
            raise ValueError(f"a name is longer than {LONGEST} letters")
        return frame.astype(COLUMNS)


def _stored(file: str, about: str, entry: str | None = None) -> property:
    """What a file of the run directory holds, or an entry of it, read anew each time; empty where it is not there."""

    def value(run: "Run") -> dict[str, Any]:
        held = (store.read_arrays if file.endswith(".npz") else store.read_json)(run.path / file, {})
        held = held if entry is None else held.get(entry, {})
        if not isinstance(held, dict):
            raise KitError(f"{run.path / file} was altered: its {entry} is {held!r:.60}")
        return Held(held, run.path / file) if held else {}

    return property(value, doc=about)


class Held(dict):
    """What a file holds, which names it where something is missing."""

    def __init__(self, values: dict[str, Any], path: Path):
        super().__init__(values)
        self.path = path

    def __missing__(self, name: str) -> None:
        raise files.Damaged(self.path, f"was altered: it has no {name!r}")


class Run:
    """A run, finished or not, read from its directory, by `kit.search` or `Run.load(path)`. What has not been written
    yet is empty. A file that was altered raises a KitError that names it."""

    def __init__(self, path: str | Path):
        path = Path(path)
        self.path = files.without_links(path.resolve() if path.is_symlink() else path)
        values = store.read_json(self.path / "config.json")
        try:
            self.config = Config.stored(values)
            usual = {name: getattr(self.config, name) for name in NOT_HASHED}  # an older version may lack one of these
            if self.config.model_dump() != usual | values:
                raise KitError("its config.json lacks fields")
        except KitError as error:
            raise KitError(f"{self.path} cannot be opened as a run of this version of kit: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The run at `path`. Raises KitError for no run directory, a damaged one, and one of another version."""
        path = files.place(path)
        if (path / "config.json").exists():
            return cls(path)
        found = [run.parent for root in (path, *path.absolute().parents[:2]) for run in root.glob("*/data.json")]
        nearby = ", ".join(sorted(map(str, found))[:8]) or "none: kit.search(kit.Config(...)) makes one"
        raise KitError(f"{path} is not a run directory (it has no config.json); runs nearby: {nearby}")

    def __repr__(self) -> str:
        accuracy = self.metrics.get("test_accuracy")
        result = f"test accuracy {accuracy:.4f}" if isinstance(accuracy, float) else self.status
        return f"<Run {self.path.name}: {result}>"

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").is_file()

    @property
    def status(self) -> str:
        """One of finished, running (a process works on it), failed, interrupted."""
        if self.finished:
            return "finished"
        if files.in_use(self.path):
            return "running"
        return "failed" if (self.path / "failure.json").is_file() else "interrupted"

    def own(self) -> Self:
        """The run. Raises KitError where its results are another's: the directory was renamed, or files were copied."""
        for held in (self.metrics, self.provenance):
            if (owner := held.get("run", self.path.name)) != self.path.name:
                raise KitError(f"{self.path} holds the results of another run, {owner!r:.99}: search with resume=False")
        return self

    @property
    def metrics(self) -> dict[str, Any]:
        """test_accuracy in [0, 1], val_accuracy (None: nothing was held out), seconds, …; empty before the end."""
        held = self._results
        if wrong := [name for name, v in held.items() if not isinstance(v, str if name in ("run", "data") else NUMBER)]:
            raise files.Damaged(self.path / "metrics.json", f"was altered: {wrong[0]} is {held[wrong[0]]!r:.60}")
        return held

    _results = _stored("metrics.json", "Of a finished run.")
    provenance = _stored("provenance.json", "Commit, versions, hardware, the data's split, what it was trained on.")
    failure = _stored("failure.json", "Of a run that failed: error, message, epoch, step, traceback.")
    alpha = _stored("alpha.npz", "epoch int64 [E]; alpha, support [E, slots, widest slot]; frozen bool [E, slots].")
    clock = _stored("clock.npz", "epoch int64 [E]; seconds float64 [E], since the start and without interruptions.")
    tau = _stored("tau.npz", "epoch int64 [E]; probabilities and counts of draws [E, K, K] (row: first operation).")
    genotype = _stored(MODEL, "Nodes of [operation, input] pairs, or {'network': name} for a fixed one.", "genotype")
    policy = _stored(MODEL, "τ at the end: name, ops, probabilities [K, K]; only the name where τ is fixed.", "policy")
    hyper = _stored(MODEL, "The lr and weight_decay at the end; lr without the schedule's factor.", "hyper")

    @property
    def warnings(self) -> dict[str, str]:
        """What looks wrong so far, by a few words, and what to change."""
        return warnings(self)

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """Tidy: step, epoch (how many were complete), name, value. Read once; load the run again to see it go on. Says
        where epochs of a finished run are missing."""
        found = history(self.path)
        if (lost := (self.metrics.get("epochs") or 0) - found["epoch"].nunique()) > 0:
            say(f"{self.path.name}: the history of {lost:g} epochs is lost")
        return found

    def curve(self, name: str) -> pd.Series:
        """The values of one name by epoch (by step for the names that begin with "step/")."""
        rows = self.history[self.history["name"] == str(name)]
        if rows.empty:
            names = ", ".join(sorted(self.history["name"].unique())) or "nothing yet"
            raise KitError(f"{self.path.name} has no curve {shown(name)}; it has: {names}")
        return rows.set_index("step" if name.startswith("step/") else "epoch")["value"]

    @property
    def classes(self) -> list[str]:
        """Their names; raises KitError where there is no model yet."""
        if not isinstance(names := self.found().get("classes"), list):
            raise KitError(f"{self.path / MODEL} was altered: its classes are {names!r:.60}")
        return names

    def found(self) -> dict[str, Any]:
        """All of model.json: network, genotype, classes, policy, hyper, preprocessing. Raises KitError without one."""
        if found := store.read_json(self.path / MODEL, {}):
            return found
        raise KitError(f"{self.path} has no model yet ({self.status}): kit.search with the same configuration goes on")

    def model(self, device: torch.device | str = "cpu") -> TrainedModel:
        """The trained network in evaluation mode, built from its genotype alone. device: cpu, cuda, cuda:N or auto."""
        device, path = pick_device(device), self.path / "model" / "model.safetensors"
        found, (tensors, _) = self.found(), store.read_tensors(path, share=store.UNPACKED)
        return TrainedModel.built(found, tensors, path).to(device)

    def predict(self, images: Any, batch_size: int = 256, device: torch.device | str = "cpu") -> Prediction:
        """Class names and probabilities of paths, folders, PIL images or arrays; see `TrainedModel.predict`."""
        return self.model(device).predict(images, batch_size)

    def prepare(self, images: Any) -> Tensor:
        """Images of any form as the model sees them: uint8 [N, C, H, W]."""
        return torch.cat(list(batches(images, self.model().network.image)))

    def export(self, path: str | Path, format: str | None = None) -> Path:
        """Write the model to `path` and its card to <path>.md, in place of older files; return `path`.

        format: safetensors (read by `kit.run.export.load(path)`), torch (a program, .pt2, read by
        `torch.export.load(path).module()`) or onnx (needs kit[export]); None: the ending says it. All take uint8
        [N, C, H, W] with any N and give scores [N, classes]. Raises KitError for a format that is not the ending's and,
        writing nothing, where the file's scores are not those of the run's model."""
        path = files.place(path)
        export.write(self.model(), self.found(), path, format)
        files.write(path.with_name(f"{path.name}.md"), self.card())
        return path

    def card(self, device: torch.device | str = "cpu") -> str:
        """The model card (Mitchell et al. 2019) in Markdown: what the model is, how good and how fast, and what it was
        not tested for. Its latency is measured now, on `device`. Raises KitError for a run that is not finished."""
        if not self.finished:
            raise KitError(f"{self.path} is not finished ({self.status}): kit.search with its configuration goes on")
        with files.reading(self.path, "holds results that make no card"):
            model, n, m = self.model(device), self.metrics["test_images"], self.metrics
            table = latency.stored(self.path / "latency.json")
            where, threads, image = model.network.mean.device, torch.get_num_threads(), model.network.image
            genotype = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in self.genotype.items())
            return text.render(
                "kit.run",
                "card.md.j2",
                run=self,
                title=METHODS[self.config.method].title,
                about=getattr(data.DATASETS.get(self.config.dataset), "title", None),
                interval=scipy.stats.binomtest(round(m["test_accuracy"] * n), n).proportion_ci(0.95, "wilson"),
                latency=latency.time_model(model, image, where, self.config.latency_batch),
                hardware=latency.hardware(where) + ("" if where.type == "cuda" else f", {threads} thread(s)"),
                confirmed=table and (table.predict(model.network.picks_of(self.genotype)), str(table)),
                genotype=Markup(f"{{\n{genotype}\n}}"),  # in a block of code
            )


def open_all(paths: str) -> list[Run]:
    """The runs at paths with commas between them, as notebooks name them. Raises KitError as `Run.load` does."""
    return [Run.load(path.strip()) for path in paths.split(",") if path.strip()]
