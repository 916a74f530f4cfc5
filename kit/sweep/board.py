"""What a sweep shows while it runs: a table that is kept up to date in JupyterLab, lines elsewhere."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import progress
from kit.run import Run

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
EVERY = 2.0  # seconds between looks at the run directories


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and why."""

    name: str
    cause: str


class Board:
    """The state of every run that a sweep has to do. epochs: of each run, for the time left."""

    def __init__(self, known: int, todo: list[Path], epochs: dict[Path, int], quiet: bool):
        self.known, self.epochs, self.quiet = known, epochs, quiet
        self.state = dict.fromkeys(todo, QUEUED)
        self.since: dict[Path, tuple[float, int]] = {}
        self.said: dict[Path, str] = {}
        self.began = self.looked = time.monotonic()
        self.shown: Any = None
        self.live = not quiet and progress.interactive() and _in_notebook()
        self._print(f"{known} runs, {known - len(todo)} of them finished before, {len(todo)} to do")
        self.look(force=True)

    def start(self, folder: Path) -> None:
        self.state[folder] = RUNNING
        self.since[folder] = (time.monotonic(), epoch_of(folder))
        self.look(force=True)

    def again(self, folder: Path, cause: str) -> None:
        self.state[folder] = QUEUED
        self._print(f"{folder.name}: failed ({cause}), tried again")

    def finish(self, folder: Path, cause: str | None) -> None:
        """cause: why it failed, None where it did not."""
        self.state[folder] = FAILED if cause else DONE
        took = time.monotonic() - self.since[folder][0]
        self.said[folder] = cause or f"test accuracy {Run.load(folder).metrics['test_accuracy']:.4f}"
        over = sum(state in (DONE, FAILED) for state in self.state.values())
        left = (time.monotonic() - self.began) / over * (len(self.state) - over)
        self._print(f"[{over}/{len(self.state)}, about {left / 60:.1f} min left] {folder.name}: {'failed: ' if cause else ''}{self.said[folder]} ({took:.0f} s)")
        self.look(force=True)

    def end(self, finished: int, failures: list[Failure]) -> None:
        self._print(f"{finished} runs finished, {len(failures)} failed, in {(time.monotonic() - self.began) / 60:.1f} min")

    def look(self, force: bool = False) -> None:
        """Draw the table anew, at most every few seconds."""
        if not self.live or not (force or time.monotonic() - self.looked > EVERY):
            return
        self.looked = time.monotonic()
        from IPython.display import HTML, display

        shown = HTML(self.table())
        if self.shown is None:
            self.shown = display(shown, display_id=True)
        else:
            self.shown.update(shown)

    def table(self) -> str:
        """The runs under way and the numbers of the others, as HTML."""
        counts = {state: list(self.state.values()).count(state) for state in (QUEUED, RUNNING, DONE, FAILED)}
        head = ", ".join(f"{n} {state}" for state, n in counts.items())
        rows = []
        for folder, state in self.state.items():
            if state == RUNNING:
                done, left = epoch_of(folder), self._left(folder)
                rows.append((folder.name, state, f"epoch {done} of {self.epochs[folder]}" + (f", {left:.0f} s left" if left is not None else "")))
            elif state == FAILED:
                rows.append((folder.name, state, self.said[folder]))
        body = "".join("<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<div>{head}; {self.known - len(self.state)} finished before</div><table>{body}</table>"

    def _left(self, folder: Path) -> float | None:
        began, first = self.since[folder]
        done = epoch_of(folder)
        return (time.monotonic() - began) / (done - first) * (self.epochs[folder] - done) if done > first else None

    def _print(self, line: str) -> None:
        if not self.quiet and not (self.live and self.shown is not None and line.startswith("[")):
            print(line, flush=True)


def epoch_of(folder: Path) -> int:
    """Epochs that a run has behind it, by its newest checkpoint: also where it runs on another machine with the same files."""
    names = [path.stem.removeprefix("epoch-") for path in (folder / "checkpoints").glob("epoch-*.safetensors")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return type(get_ipython()).__name__ == "ZMQInteractiveShell"
