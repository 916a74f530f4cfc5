"""The panel of `kit.dashboard`: a form, three buttons, a line that says how things stand, and the figures."""

import asyncio
import contextlib
import html
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from kit import data, errors, figures, files, methods
from kit.config import Config
from kit.errors import KitError
from kit.figures.style import WIDTH
from kit.lab import notebook
from kit.lab.process import ChildProcess
from kit.run.run import Run

MAIN = ("dataset", "method", "preset", "seed")  # what every run is told; the other fields follow from these
FORM = (*MAIN, "epochs", "batch_size", "channels", "cells", "lr", "weight_decay", "augment", "hyper")
FIGURES = {"curves": figures.curves, "policy": figures.policy, "cells": figures.cells}
BREATH = 4.0  # seconds without drawing per second of drawing: the search needs the cores more
LOOK: dict[str, Any] = {"continuous_update": False, "layout": {"width": "auto"}, "style": {"description_width": "95px"}}
CHILDREN: dict[Path, ChildProcess] = {}  # of this kernel, by run directory


class Dashboard(widgets.VBox):
    """What `kit.dashboard` returns in JupyterLab. `fields` are the form's texts, by field of `kit.Config`, and under
    "other fields" the rest as name=value; an empty one shows in grey what preset and method give it. `run` is the run
    shown. While anything can change, the kernel calls `refresh` every `every` seconds, between its cells. Whatever goes
    wrong stands in `message`, since a button has no cell for a traceback."""

    def __init__(self, config: Config | None = None, run: Run | None = None, every: float = 1.0):
        self.every, self.run, self.child, self.watching, self.seen = every, None, None, None, None
        if run:
            config = Config(**{**run.config.model_dump(), "out": str(run.path.parent)})
        self.fields = _fields(config or Config())
        for field in self.fields.values():
            field.observe(lambda _: self._guarded(self._attach), "value")
        self.buttons = {name: widgets.Button(description=name) for name in ("start", "pause", "stop")}
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._guarded(getattr(self, name)))
        self.bar = widgets.IntProgress(0, 0, 1, layout={"width": "160px"})
        self.line, self.message = widgets.HTML(), widgets.HTML()
        self.figures = {name: go.FigureWidget() for name in FIGURES}
        self.shown = widgets.VBox(list(self.figures.values()))
        *fields, more = self.fields.values()
        columns = widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(230px, 1fr))", grid_gap="2px 8px")
        row = {"flex_flow": "row wrap", "align_items": "center"}
        actions = widgets.HBox([*self.buttons.values(), self.bar, self.line], layout=row)
        super().__init__([widgets.GridBox(fields, layout=columns), more, actions, self.message, self.shown])
        self._guarded(self._attach)

    def config(self) -> Config:
        """What the form says. Raises KitError for a text that is not of its field's type, and as `kit.Config` does."""
        given = [f"{name}={text}" for name in FORM if (text := self.fields[name].value.strip())]
        config = Config(**notebook.assigned([*given, *self.fields["other fields"].value.split()]))
        for name in FORM[len(MAIN) :]:
            self.fields[name].placeholder = str(getattr(config, name))
        return config

    @property
    def state(self) -> str:
        """idle, running, paused, or elsewhere: in the hands of another process."""
        if self.child:
            return "paused" if self.child.paused else "running"
        return "elsewhere" if files.in_use(self.folder) else "idle"

    def start(self) -> None:
        """Run the form's configuration beside the kernel, or go on with it; a finished run is only shown."""
        self._attach()
        if self.run and self.run.finished:
            self._say("This run finished before. Another seed or value makes another run.")
        elif self.state == "idle":
            values = self.config().model_dump()
            CHILDREN[self.folder] = self.child = ChildProcess(values, self.folder)
            self.refresh()
            self._watch()

    def pause(self) -> None:
        """Hold the search where it is, with its memory, or let it go on."""
        if self.child:
            self.child.pause(not self.child.paused)
            self.refresh()

    def stop(self) -> None:
        """End the search now; `start` goes on from its last complete epoch."""
        if self.child:
            self.child.kill()
            self.refresh()

    def refresh(self) -> None:
        if self.child and self.child.ended:
            CHILDREN.pop(self.folder, None)
            self._say(self.child.end())
            self.child = None
        files = (self.folder / name for name in ("config.json", "history.parquet", "metrics.json"))
        if (mark := [file.stat().st_mtime_ns for file in files if file.exists()]) != self.seen:
            self.seen, self.run = mark, Run.load(self.folder) if mark else None
            self.shown.layout.display = None if self.run else "none"
            for name, widget in self.figures.items() if self.run else ():
                try:
                    figure = FIGURES[name](self.run)
                except Exception as error:  # nothing to draw yet, or an epoch was saved between two reads
                    figure = figures.blank(str(error))
                figure.update_layout(width=WIDTH)  # a live figure does not follow its page's width
                widget.update({"data": figure.data, "layout": figure.layout}, overwrite=True)
        (start, pause, stop), state, run = self.buttons.values(), self.state, self.run
        start.description = "resume" if run and not run.finished else "start"
        pause.description = "continue" if state == "paused" else "pause"
        pause.disabled = stop.disabled = state not in ("running", "paused")
        for widget in (start, *self.fields.values()):
            widget.disabled = state != "idle"
        if run:
            self.bar.max, self.bar.value = run.config.epochs, run.history["epoch"].max() if len(run.history) else 0
        words = figures.standing(run) if run else f"{self.folder.name}: ready"
        words = f"paused · {words}" if state == "paused" else words
        self.line.value = f"<span class='kit-line'>{html.escape(words)}</span>"

    def _attach(self) -> None:
        """Show the run of the form's configuration, if any, and take a search of this kernel's in hand."""
        config = self.config()
        self.folder = (files.place(config.out) / config.name).absolute()
        self.run, self.seen, self.child = None, None, CHILDREN.get(self.folder)
        self._say("")
        self.refresh()
        self._watch()

    def _watch(self) -> None:
        async def watch() -> None:
            pause, moving = self.every, True
            while moving:
                await asyncio.sleep(pause)
                began, moving = time.monotonic(), self.state != "idle"
                self._guarded(self.refresh)
                pause = max(self.every, BREATH * (time.monotonic() - began))

        if self.state != "idle" and (self.watching is None or self.watching.done()):
            with contextlib.suppress(RuntimeError):  # no event loop: a script, not a kernel
                self.watching = asyncio.get_running_loop().create_task(watch())

    def _say(self, text: str) -> None:
        self.message.value = f"<b class='kit-message'>{html.escape(text)}</b>" if text else ""

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._say(str(error) if isinstance(error, KitError) else f"{errors.summary(error)} (an error of kit's own)")


def _fields(config: Config) -> dict[str, widgets.Widget]:
    """The form: what the configuration changes of what its dataset, method, preset and seed give."""
    values = config.model_dump()
    usual = Config(**{name: values[name] for name in MAIN}).model_dump()
    given = {name: str(value) for name, value in values.items() if name in MAIN or value != usual[name]}
    offered = {"dataset": data.datasets(), "method": methods(), "preset": ("laptop", "server", "paper")}
    fields = {}
    for name in FORM:
        about = {"description": name, "tooltip": f"{name}: {Config.model_fields[name].description or ''}"}
        about |= {"value": given.pop(name, ""), "options": tuple(offered.get(name, ()))}
        fields[name] = widgets.Combobox(**about, **LOOK)
    others = " ".join(f"{name}={text}" for name, text in given.items())
    about = {"description": "other fields", "placeholder": "name=value name=value …"}
    return fields | {"other fields": widgets.Text(others, **about, **LOOK)}
