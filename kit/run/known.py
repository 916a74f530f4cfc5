"""What a run directory holds, whatever its state: finished, going on, failed, of an older version, damaged, or not a
run at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kit.config import Config
from kit.errors import KitError
from kit.run import store
from kit.run.run import Run

OWN = ("dataset", "method", "seed")  # what every configuration of kit has, and a foreign config.json has not


def opened(path: str | Path) -> Run:
    """The run at a path. Raises KitError, with the runs found nearby, also for a config.json that is not kit's."""
    path = Path(path).expanduser()
    try:
        run = Run.load(path)
        missing = [name for name in OWN if name not in store.read_json(path / "config.json")]
    except KitError as error:
        if (path / "config.json").is_file():
            raise KitError(f"{error}{_nearby(path)}") from None
        raise KitError(f"{path} is not a run directory (it has no config.json){_nearby(path)}") from None
    if missing:
        raise KitError(
            f"{path} is not a run directory of kit: its config.json names no {', '.join(missing)}{_nearby(path)}"
        )
    return run


def all_opened(paths: str) -> list[Run]:
    """The runs at paths with commas between them, as a notebook's parameter names them. Raises KitError as `opened`."""
    return [opened(path.strip()) for path in paths.split(",") if path.strip()]


def _nearby(path: Path) -> str:
    roots = [path, *path.absolute().parents][:3]
    folders = dict.fromkeys(
        p.parent for root in (*roots, Path("runs")) if root.is_dir() for p in sorted(root.glob("*/config.json"))
    )
    near = [str(folder) for folder in folders if folder != path and _is_own(folder)]
    return f"; runs nearby: {', '.join(near[:8])}" if near else "; kit.search(kit.Config(...)) makes one"


def _is_own(folder: Path) -> bool:
    try:
        return set(OWN) <= set(store.read_json(folder / "config.json"))
    except (KitError, TypeError):
        return False


class Known:
    """A run's files, each read once; what is missing or cannot be read is empty and noted in `problems`."""

    def __init__(self, run: Run):
        self.problems: list[str] = []
        done = run.finished
        self.config: dict[str, Any] = self._read(run, "config.json", True, dict)
        self.metrics = self._read(run, "metrics.json", done, dict)
        self.provenance = self._read(run, "provenance.json", done, dict)
        self.model = self._read(run, "model/model.json", done, dict)
        for name in ("network", "hyper", "policy"):
            if not isinstance(self.model.setdefault(name, {}), dict):
                self.problems.append(f"model/model.json has a {name} that is none")
                self.model[name] = {}
        self.failure = self._read(run, "failure.json", False, dict)
        self.last = self._last(run)
        self.tau = self._tau(run)
        # an older version had fewer fields; a newer one's optional fields take nothing from what this run says
        self.lacking = [
            name for name, field in Config.model_fields.items() if field.is_required() and name not in self.config
        ]

    def _read(self, run: Run, name: str, expected: bool, kind: type) -> Any:
        path = run.path / name
        if not path.is_file():
            if expected:
                self.problems.append(f"{name} is missing")
            return kind()
        try:
            value = store.read_json(path)
        except KitError as error:
            self.problems.append(str(error))
            return kind()
        if not isinstance(value, kind):
            self.problems.append(f"{name} does not hold what it should")
            return kind()
        return value

    def _last(self, run: Run) -> dict[str, float]:
        """The newest value of every name of the history, and its epoch."""
        try:
            rows = run.history
            newest = rows.drop_duplicates("name", keep="last").set_index("name")["value"].to_dict() if len(rows) else {}
            return {**newest, "epoch": int(rows["epoch"].max())} if newest else {}
        except (
            Exception
        ) as error:  # a file that was cut short, or of another program: each of parquet's layers raises its own kind
            self.problems.append(f"history.parquet cannot be read ({type(error).__name__})")
            return {}

    def _tau(self, run: Run) -> np.ndarray | None:
        """Probabilities [K, K] at the last recorded epoch."""
        try:
            p = np.asarray(run.tau["probabilities"][-1], dtype=float)
            return p if p.ndim == 2 and p.shape[0] == p.shape[1] else None
        except (KitError, KeyError, IndexError, ValueError, TypeError) as error:
            if isinstance(error, KitError):
                self.problems.append(str(error))
            return None
