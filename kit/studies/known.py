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
