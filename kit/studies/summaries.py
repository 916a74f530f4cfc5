"""What a report keeps of its runs, so that its text and tables can be made again where the run directories are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.config import Config
from kit.errors import KitError
from kit.run import store
from kit.run.run import Run, config_of

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
    """A report's runs and what was said about them. pictures: (file, caption) that stand beside the report, in order;
    more: what this kind of
    report needs besides."""

    study: str
    runs: list[Record]
    note: str = ""
    pictures: list[tuple[str, str]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def write(
    path: Path, study: str, runs: Sequence[Run | Record], note: str, pictures: Sequence[tuple[str, str]], **more: Any
) -> None:
    """JSON: names, numbers and words, no path of the machine that the runs were made on. more: for `Summary.more`."""
    rows = []
    for run in runs:
        values = run.config.model_dump()
        values["root"] = None
        values["out"] = Config.model_fields["out"].default
        rows.append(
            {"name": Path(run.path).name, "config": values, "metrics": run.metrics, "provenance": run.provenance}
        )
    store.write_json(
        path,
        {"layout": LAYOUT, "study": study, "note": note, "pictures": [list(p) for p in pictures], **more, "runs": rows},
    )


def read(path: Path) -> Summary:
    """Raises KitError for what is not such a file."""
    held = store.read_json(path)
    try:
        if held["layout"] != LAYOUT:
            raise ValueError(f"layout {held['layout']} is not {LAYOUT}")
        runs = [
            Record(config_of(row["config"], path), row["metrics"], row["provenance"], Path(row["name"]))
            for row in held["runs"]
        ]
        more = {name: value for name, value in held.items() if name not in FIELDS}
        return Summary(held["study"], runs, held["note"], [(file, caption) for file, caption in held["pictures"]], more)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KitError(
            f"{path} is no summary of a report's runs ({type(error).__name__}: {error}): write the report again from its runs"
        ) from None
