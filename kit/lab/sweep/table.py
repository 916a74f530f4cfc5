"""What a sweep shows while it runs: one live table in JupyterLab, plain lines anywhere else."""

from __future__ import annotations

import html
import os
import time
from typing import Protocol

from kit.lab.sweep.process import Job
from kit.run.run import Run

SHOWN_FAILURE = 300  # characters of a cause


class Shown(Protocol):
    """queued at first; running, ended and tick as the sweep goes on; close when it is over."""

    def open(self, known: int, todo: list[Job], slots: int, threads: int) -> None: ...
    def running(self, job: Job) -> None: ...
    def ended(self, job: Job, cause: str | None, again: bool) -> None: ...
    def tick(self) -> None: ...
    def close(self, finished: int, failed: int, seconds: float) -> None: ...


def default(quiet: bool) -> Shown:
    if quiet:
        return Nothing()
    return Live() if "JPY_SESSION_NAME" in os.environ else Lines()


class Nothing:
    def open(self, known: int, todo: list[Job], slots: int, threads: int) -> None: ...
    def running(self, job: Job) -> None: ...
    def ended(self, job: Job, cause: str | None, again: bool) -> None: ...
    def tick(self) -> None: ...
    def close(self, finished: int, failed: int, seconds: float) -> None: ...


class Lines(Nothing):
    """A line per run that ended, and one about all at most every `every` seconds."""

    def __init__(self, every: float = 60.0):
        self.every, self.done, self.last = every, 0, time.monotonic()
        self.started: dict[str, float] = {}

    def open(self, known: int, todo: list[Job], slots: int, threads: int) -> None:
        self.began, self.jobs = time.monotonic(), {job.name: job for job in todo}
        print(
            f"{known} runs, {known - len(todo)} of them finished before; {min(slots, len(todo))} at a time, {threads} thread(s) each",
            flush=True,
        )

    def running(self, job: Job) -> None:
        self.started[job.name] = time.monotonic()

    def ended(self, job: Job, cause: str | None, again: bool) -> None:
        took = time.monotonic() - self.started.pop(job.name)
        if again:
            print(f"{job.name}: {cause[:SHOWN_FAILURE]}; tried again ({took:.0f} s)", flush=True)
            return
        self.done += 1
        what = f"failed: {cause}" if cause else f"test accuracy {Run.load(job.folder).metrics['test_accuracy']:.4f}"
        left = (time.monotonic() - self.began) / self.done * (len(self.jobs) - self.done)
        print(
            f"[{self.done}/{len(self.jobs)}, about {left / 60:.1f} min left] {job.name}: {what} ({took:.0f} s)",
            flush=True,
        )

    def tick(self) -> None:
        if time.monotonic() - self.last < self.every or not self.started:
            return
        self.last = time.monotonic()
        print(
            "running: "
            + ", ".join(
                f"{name} epoch {self.jobs[name].epoch}/{self.jobs[name].config.epochs}" for name in self.started
            ),
            flush=True,
        )

    def close(self, finished: int, failed: int, seconds: float) -> None:
        print(f"{finished} runs finished, {failed} failed, in {seconds / 60:.1f} min", flush=True)


class Live(Nothing):
    """A table that is replaced in place. It is plain HTML: a saved notebook keeps the last state, and no widget."""

    ORDER = ("running", "failed", "queued", "done")

    def open(self, known: int, todo: list[Job], slots: int, threads: int) -> None:
        from IPython.display import HTML, display

        self.before, self.jobs = known - len(todo), {job.name: job for job in todo}
        self.state = {name: ("queued", "") for name in self.jobs}
        self.since: dict[str, tuple[float, int]] = {}
        self.markup, self.handle = HTML, display(HTML(self._page()), display_id=True)

    def running(self, job: Job) -> None:
        self.since[job.name] = (time.monotonic(), job.epoch)
        self.state[job.name] = ("running", "")
        self.tick()

    def ended(self, job: Job, cause: str | None, again: bool) -> None:
        accuracy = "" if cause else f"test accuracy {Run.load(job.folder).metrics['test_accuracy']:.4f}"
        self.state[job.name] = (
            ("queued", f"again after: {cause}") if again else ("failed", cause) if cause else ("done", accuracy)
        )
        self.tick()

    def tick(self) -> None:
        for name, (state, _) in self.state.items():
            if state == "running":
                self.state[name] = ("running", self._progress(self.jobs[name]))
        self.handle.update(self.markup(self._page()))

    def _progress(self, job: Job) -> str:
        began, first = self.since[job.name]
        epoch, took = job.epoch, time.monotonic() - began
        left = f", about {took / (epoch - first) * (job.config.epochs - epoch):.0f} s left" if epoch > first else ""
        return f"epoch {epoch}/{job.config.epochs}{left}"

    def close(self, finished: int, failed: int, seconds: float) -> None:
        for name, (state, _) in self.state.items():
            if state == "running":
                self.state[name] = ("queued", "stopped; goes on next time")
        self.handle.update(
            self.markup(self._page(f" — {finished} runs finished, {failed} failed, in {seconds / 60:.1f} min"))
        )

    def _page(self, more: str = "") -> str:
        states = [state for state, _ in self.state.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in self.ORDER)
        order = sorted(self.state, key=lambda name: self.ORDER.index(self.state[name][0]))
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{self.state[name][0]}</td>"
            f"<td style='text-align:left'>{html.escape(self.state[name][1][:SHOWN_FAILURE])}</td></tr>"
            for name in order
        )
        head = "<tr><th>run</th><th>state</th><th style='text-align:left'>epoch, result or cause</th></tr>"
        scroll = "<div style='max-height:24em;overflow:auto'>"
        return f"<p>{counts}, {self.before} finished before{more}</p>{scroll}<table>{head}{rows}</table></div>"
