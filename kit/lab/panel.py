"""The panel of `kit.dashboard`: a form, three buttons, a line that says how things stand, and the figures."""

from __future__ import annotations

import asyncio
import contextlib
import html
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import torch

from kit import data, figures, methods
from kit.config import Config
from kit.errors import KitError
from kit.lab import notebook
from kit.lab.process import ChildProcess
from kit.run import store
from kit.run.run import Run

MAIN = ("dataset", "method", "preset", "seed")  # what every run is told; the other fields follow from these
FORM = (*MAIN, "epochs", "batch_size", "channels", "cells", "lr", "weight_decay", "augment", "hyper")
OFFERED = {"dataset": data.datasets, "method": methods, "preset": lambda: ("laptop", "server", "paper")}
FIGURES = {"curves": figures.curves, "policy": figures.policy, "cells": figures.cells}
WIDTH = 900  # pixels: a live figure does not follow its page's width
BREATH = 4.0  # seconds without drawing per second of drawing: the search needs the cores more
LOOK: dict[str, Any] = {"continuous_update": False, "layout": {"width": "auto"}, "style": {"description_width": "95px"}}
CHILDREN: dict[Path, ChildProcess] = {}  # of this kernel, by run directory


class Form(widgets.VBox):
    """The main fields of `kit.Config` as texts, and others as name=value in the last one. An empty one shows in grey
    what preset and method give it. `changed` is called after every change by hand.
    """

    def __init__(self, config: Config, changed: Callable[[], None]):
        values = config.model_dump()
        usual = Config(**{name: values[name] for name in MAIN}).model_dump()
        given = {name: _text(value) for name, value in values.items() if name in MAIN or value != usual[name]}
        self.fields = {name: _field(name, given.pop(name, "")) for name in FORM}
        others = " ".join(f"{name}={text}" for name, text in given.items())
        self.more = widgets.Text(others, description="other fields", placeholder="name=value name=value …", **LOOK)
        columns = widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(230px, 1fr))", grid_gap="2px 8px")
        super().__init__([widgets.GridBox(list(self.fields.values()), layout=columns), self.more])
        for widget in (*self.fields.values(), self.more):
            widget.observe(lambda _: changed(), "value")

    def config(self) -> Config:
        """Raises KitError for a text that is not of its field's type, and for what `kit.Config` refuses."""
        given = {name: widget.value.strip() for name, widget in self.fields.items() if widget.value.strip()}
        for part in self.more.value.split():
            name, equals, given[name] = part.partition("=")
            if not equals:
                raise KitError(f"other fields: {part!r} is not name=value, such as drop_path=0.2")
        config = Config(**{name: notebook.typed(name, text) for name, text in given.items()})
        for name in FORM[len(MAIN) :]:
            self.fields[name].placeholder = _text(getattr(config, name))
        return config


def _field(name: str, text: str) -> widgets.Combobox:
    about = f"{name}: {Config.model_fields[name].description or ''}"
    options = tuple(OFFERED[name]()) if name in OFFERED else ()
    return widgets.Combobox(value=text, description=name, options=options, tooltip=about, **LOOK)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


class Dashboard(widgets.VBox):
    """What `kit.dashboard` returns in JupyterLab. `start`, `pause` and `stop` are the buttons; `run` is the run shown.

    While anything can change, the kernel calls `refresh` every `every` seconds, between its cells. Whatever goes wrong
    stands in `message`, since a button has no cell for a traceback.
    """

    def __init__(self, config: Config | None = None, run: Run | None = None, every: float = 1.0):
        self.every, self.run, self.child, self.watching, self.seen = every, None, None, None, None
        if run:
            config = Config(**{**run.config.model_dump(), "out": str(run.path.parent)})
        self.form = Form(config or Config(), lambda: self._guarded(self._attach))
        self.buttons = {name: widgets.Button(description=name) for name in ("start", "pause", "stop")}
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._guarded(getattr(self, name)))
        self.bar = widgets.IntProgress(0, 0, 1, layout={"width": "160px"})
        self.line, self.message = widgets.HTML(), widgets.HTML()
        self.figures = {name: go.FigureWidget() for name in FIGURES}
        self.shown = widgets.VBox(list(self.figures.values()))
        row = {"flex_flow": "row wrap", "align_items": "center"}
        actions = widgets.HBox([*self.buttons.values(), self.bar, self.line], layout=row)
        super().__init__([self.form, actions, self.message, self.shown])
        self._guarded(self._attach)

    def __repr__(self) -> str:
        return f"<Dashboard of {self.run.path.name}: {self.run.status}>" if self.run else "<Dashboard without a run>"

    @property
    def state(self) -> str:
        """idle, running, paused, or elsewhere: in the hands of another process."""
        if self.child:
            return "paused" if self.child.paused else "running"
        return "elsewhere" if store.in_use(self.folder) else "idle"

    def start(self) -> None:
        """Run the form's configuration beside the kernel, or go on with it; a finished run is only shown."""
        self._attach()
        if self.run and self.run.finished:
            self._say("This run finished before. Another seed or value makes another run.")
        elif self.state == "elsewhere":
            raise KitError(f"{self.folder} is in use by another process: wait for it, or stop it first")
        elif self.state == "idle":
            values = self.form.config().model_dump()
            CHILDREN[self.folder] = self.child = ChildProcess(values, self.folder, threads=torch.get_num_threads())
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
        """Bring line, buttons and figures up to date."""
        if self.child and self.child.ended:
            CHILDREN.pop(self.folder, None)
            self._say(self.child.end())
            self.child = None
        files = (self.folder / name for name in ("config.json", "history.parquet", "metrics.json"))
        if (mark := [file.stat().st_mtime_ns for file in files if file.exists()]) != self.seen:
            self.seen, self.run = mark, Run.load(self.folder) if mark else None
            self.shown.layout.display = None if self.run else "none"
            for name, widget in self.figures.items() if self.run else ():
                figure = _drawn(FIGURES[name], self.run)
                widget.update({"data": figure.data, "layout": figure.layout}, overwrite=True)
        self._describe(self.state)

    def _attach(self) -> None:
        """Show the run of the form's configuration, if there is one, and take its search in hand if this kernel runs
        it: its cell was run again.
        """
        config = self.form.config()
        self.folder = (Path(config.out).expanduser() / config.name).absolute()
        self.run, self.seen, self.child = None, None, CHILDREN.get(self.folder)
        self._say("")
        self.refresh()
        if self.run and self.run.status == "failed":
            self._say(figures.standing(self.run))
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

    def _describe(self, state: str) -> None:
        run = self.run
        self.buttons["start"].description = "resume" if run and not run.finished else "start"
        self.buttons["start"].disabled = state != "idle"
        self.buttons["pause"].description = "continue" if state == "paused" else "pause"
        for name in ("pause", "stop"):
            self.buttons[name].disabled = state not in ("running", "paused")
        for widget in (*self.form.fields.values(), self.form.more):
            widget.disabled = state != "idle"
        words = [state if state != "idle" else run.status if run else "ready", self.folder.name]
        if run:
            self.bar.max = run.config.epochs
            self.bar.value = run.history["epoch"].max() if len(run.history) else 0
            words += [f"epoch {self.bar.value} of {self.bar.max}"]
            words += [f"test accuracy {run.metrics['test_accuracy']:.2%}"] if run.finished else []
        self.line.value = f"<span class='kit-line'>{html.escape(' · '.join(words))}</span>"

    def _say(self, text: str) -> None:
        self.message.value = f"<b class='kit-message'>{html.escape(text)}</b>" if text else ""

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except KitError as error:
            self._say(str(error))
        except Exception as error:
            self._say(f"{type(error).__name__}: {error} (an error of kit's own; the search is not touched)")


def _drawn(make: Callable[[Run], go.Figure], run: Run) -> go.Figure:
    try:
        return make(run).update_layout(width=WIDTH)
    except Exception as error:  # nothing to draw yet, or an epoch was saved between two reads
        return figures.blank(str(error)).update_layout(width=WIDTH)
