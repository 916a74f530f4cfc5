"""What a report keeps of its runs: a JSON file from which its text and tables are made again where the runs are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.config import Config
from kit.errors import KitError
from kit.methods import PRESETS
from kit.run import store
from kit.run.run import Run

LAYOUT = 1
FIELDS = ("layout", "study", "note", "pictures", "runs")


@dataclass(frozen=True)
class Record:
    """A finished run as far as tables need it; a `Run` has the same attributes and more."""

    config: Config
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    path: Path
    status: str = "finished"


@dataclass(frozen=True)
class Summary:
    """pictures: (file, caption) that stand beside the report, in order; more: what this kind of report adds."""

    study: str
    runs: list[Record]
    note: str = ""
    pictures: list[tuple[str, str]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def write(
    path: Path, study: str, runs: Sequence[Run | Record], note: str, pictures: Sequence[tuple[str, str]], **more: Any
) -> None:
    """Write JSON of names, numbers and words, without paths of this machine. more: for `Summary.more`."""
    elsewhere = {"root": None, "out": Config.model_fields["out"].default}
    rows = [
        {
            "name": Path(run.path).name,
            "config": run.config.model_dump() | elsewhere,
            "metrics": run.metrics,
            "provenance": run.provenance,
        }
        for run in runs
    ]
    head = {"layout": LAYOUT, "study": study, "note": note, "pictures": [list(picture) for picture in pictures]}
    store.write_json(path, {**head, **more, "runs": rows})


def read(path: Path) -> Summary:
    """Raises KitError for what is not such a file."""
    held = store.read_json(path)
    try:
        if held["layout"] != LAYOUT:
            raise ValueError(f"layout {held['layout']} is not {LAYOUT}")
        runs = [
            # not validated: the data set may lie on another machine
            Record(Config.model_construct(**row["config"]), row["metrics"], row["provenance"], Path(row["name"]))
            for row in held["runs"]
        ]
        more = {name: value for name, value in held.items() if name not in FIELDS}
        return Summary(held["study"], runs, held["note"], [(file, caption) for file, caption in held["pictures"]], more)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KitError(
            f"{path} is no summary of a report's runs ({type(error).__name__}: {error}): write the report again from "
            "its runs"
        ) from None


def changes(config: Config) -> dict[str, Any]:
    """The fields whose values differ from what the configuration's preset and method fill in."""
    usual = Config(dataset="digits", method=config.method, preset=config.preset).model_dump()
    apart = {"dataset", "method", "preset", "seed", "out", "root", "device"}
    found = {name: value for name, value in config.model_dump().items() if name not in apart and value != usual[name]}
    if config.search_epochs == max(1, round(PRESETS[config.preset]["search_share"] * config.epochs)):
        found.pop("search_epochs", None)  # it follows from epochs
    return found


class Facts:
    """What a run directory holds, whatever its state; a file that is missing or damaged is empty and named in
    `problems`.

    metrics, provenance, failure, model, network (what model/model.json holds) and last (the newest value of every name
    of the history, and its epoch): dictionaries.
    """

    def __init__(self, run: Run):
        self.run, self.problems = run, []
        self.metrics = self._read(lambda: run.metrics)
        self.provenance = self._read(lambda: run.provenance)
        self.failure = self._read(lambda: run.failure)
        self.model = self._read(lambda: store.read_json(run.path / "model" / "model.json")) if run.finished else {}
        for name in ("network", "hyper", "policy"):
            if not isinstance(self.model.setdefault(name, {}), dict):
                self.problems.append(f"model/model.json has a {name} that is none")
                self.model[name] = {}
        self.network = self.model["network"]
        self.last = self._read(lambda: last(run))

    def _read(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return read()
        except KitError as error:
            self.problems.append(str(error))
            return {}


def last(run: Run) -> dict[str, float]:
    """The newest value of every name of the history, and its epoch; empty before the first epoch."""
    rows = run.history
    if not len(rows):
        return {}
    newest = rows.drop_duplicates("name", keep="last").set_index("name")["value"].to_dict()
    return {**newest, "epoch": int(rows["epoch"].max())}
