"""The panel of `kit.dashboard`: a form, three buttons, a line that says how things stand, and the figures."""

import asyncio
import contextlib
import html
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args, get_origin

import ipywidgets as widgets
import plotly.graph_objects as go

from kit import data, errors, figures, files, methods
from kit.config import PARTS, Config
from kit.errors import KitError
from kit.figures.style import WIDTH
from kit.lab import notebook
from kit.lab.process import PROGRESS, ChildProcess
from kit.methods import PRESETS
from kit.run.run import Run

MAIN = ("dataset", "method", "preset", "seed")  # what every run is told; the other fields follow from these
FORM = (*MAIN, "epochs", "batch_size", "channels", "cells", "lr", "weight_decay", "augment", "hyper")
# the other fields, in tabs: kit's own by what they are about, those of parts with their letter
GROUPS = {
    "data": "root image_size train_images on_bad_image hold_out",
    "α": "space arch genotype reductions search_channels search_cells search_epochs",
    "τ": "policy",
    "η": "momentum clip drop_path dropout mixup auxiliary",
    "limits": "max_params max_macs max_latency_ms latency_batch",
    "training": "",
}
LETTERS = {"space": "α", "arch": "α", "augment": "τ", "hyper": "η"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
WRONG = "2px solid #D55E00"
NEWEST = 200  # runs that the list offers
FIGURES = {"curves": figures.curves, "policy": figures.policy, "cells": figures.cells}
BREATH = 4.0  # seconds without drawing per second of drawing: the search needs the cores more
LOOK = {"continuous_update": False, "layout": {"width": "auto"}, "style": {"description_width": "112px"}}
CHILDREN: dict[Path, ChildProcess] = {}  # of this kernel, by run directory


class Dashboard(widgets.VBox):
    """What `kit.dashboard` returns in JupyterLab. `fields` are the form's texts, by field of `kit.Config`; an empty one
    shows in grey what preset and method give it. `runs` lists those that can be opened. `run` is the run shown; before
    there is one, some of the images are. While anything can change, the kernel calls `refresh` every `every` seconds,
    between its cells. Whatever goes wrong stands in `message`, since a button has no cell for a traceback, and the
    field that was changed is framed."""

    def __init__(self, config: Config | None = None, run: Run | None = None, every: float = 1.0):
        self.every, self.run, self.child, self.watching, self.seen = every, None, None, None, None
        self.filling, self.pictured = False, None
        if run:
            config = Config(**{**run.config.model_dump(), "out": str(run.path.parent)})
        given = _texts(config := config or Config())
        groups = _groups()
        self.fields = {name: _field(name, given.get(name, "")) for names in groups.values() for name in names}
        for field in self.fields.values():
            field.observe(lambda change: self._guarded(self._attach, change.owner), "value")
        self.runs = widgets.Combobox(description="open", placeholder="a run below the folder `out`", **LOOK)
        self.runs.observe(lambda change: self._guarded(lambda: self.open_run(change.new)), "value")
        self.buttons = {name: widgets.Button(description=name) for name in ("start", "pause", "stop")}
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._guarded(getattr(self, name)))
        self.bar = widgets.FloatProgress(max=1, layout={"width": "160px"})
        self.line, self.message = widgets.HTML(), widgets.HTML()
        self.figures = {name: go.FigureWidget() for name in FIGURES}
        self.shown, self.images = widgets.VBox(list(self.figures.values())), widgets.VBox([go.FigureWidget()])
        columns = widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(230px, 1fr))", grid_gap="2px 8px")
        boxes = {title: [self.fields[name] for name in names] for title, names in groups.items()}
        first, *others = [widgets.GridBox(box, layout=columns) for box in (boxes.pop(""), *boxes.values())]
        tabs = widgets.Tab(others, titles=tuple(boxes))
        row = {"flex_flow": "row wrap", "align_items": "center"}
        actions = widgets.HBox([*self.buttons.values(), self.bar, self.line], layout=row)
        super().__init__([first, self.runs, tabs, actions, self.message, self.images, self.shown])
        self._guarded(self._attach)

    def config(self) -> Config:
        """What the form says. Raises KitError for a text that is not of its field's type, and as `kit.Config` does."""
        given = [f"{name}={text}" for name, field in self.fields.items() if (text := field.value.strip())]
        config = Config(**notebook.assigned(given))
        for name, field in self.fields.items():
            field.placeholder, field.layout.border = str(getattr(config, name)), None
        return config

    def open_run(self, name: str) -> None:
        """Show the run of this name, of those below the form's folder; the form becomes its configuration."""
        if not name:
            return
        given = _texts(Run.load(self.folder.parent / name).config.but(out=str(self.folder.parent)))
        self.filling = True  # the form is read once all of it has changed
        for field_name, field in self.fields.items():
            field.value = given.get(field_name, "")
        self.filling = False
        self._attach()

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
            CHILDREN[self.folder] = self.child = ChildProcess(self.config().model_dump(), self.folder)
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
            self.shown.layout.display, self.images.layout.display = (None, "none") if self.run else ("none", None)
            for name, widget in self.figures.items() if self.run else ():
                try:
                    figure = FIGURES[name](self.run)
                except Exception as error:  # nothing to draw yet, or an epoch was saved between two reads
                    figure = figures.blank(str(error))
                self._draw(widget, figure)
        (start, pause, stop), state, run = self.buttons.values(), self.state, self.run
        start.description = "resume" if run and not run.finished else "start"
        pause.description = "continue" if state == "paused" else "pause"
        pause.disabled = stop.disabled = state not in ("running", "paused")
        for widget in (start, *self.fields.values()):
            widget.disabled = state != "idle"
        done, within = self._within(run.history["epoch"].max() if run and len(run.history) else 0)
        self.bar.max, self.bar.value = run.config.epochs if run else 1, done
        words = figures.standing(run) if run else f"{self.folder.name}: ready"
        words = " · ".join(filter(None, ["paused" if state == "paused" else "", within, words]))
        self.line.value = f"<span class='kit-line'>{html.escape(words)}</span>"

    def _attach(self) -> None:
        """Show the run of the form's configuration, if any, and take a search of this kernel's in hand."""
        if self.filling:
            return
        config = self.config()
        self.folder = (files.place(config.out) / config.name).absolute()
        self.run, self.seen, self.child = None, None, CHILDREN.get(self.folder)
        self._say("")
        there = sorted(self.folder.parent.glob("*/config.json"), key=lambda path: -path.stat().st_mtime)
        self.runs.options = tuple(path.parent.name for path in there[:NEWEST])
        self.refresh()
        if not self.run and (about := (config.dataset, config.root, config.image_size)) != self.pictured:
            self.pictured = about
            self._draw(self.images.children[0], figures.samples(config.sets()))
        self._watch()

    def _within(self, complete: float) -> tuple[float, str]:
        """How many epochs a run in progress has done, if more than the complete ones, and what it says of the next."""
        with contextlib.suppress(OSError, ValueError):
            done, _, words = (self.folder / PROGRESS).read_text().partition(" ")
            if float(done) > complete and self.state != "idle":
                return float(done), words
        return float(complete), ""

    def _draw(self, widget: go.FigureWidget, figure: go.Figure) -> None:
        figure.update_layout(width=WIDTH)  # a live figure does not follow its page's width
        widget.update({"data": figure.data, "layout": figure.layout}, overwrite=True)

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

    def _guarded(self, action: Callable[[], None], field: widgets.Widget | None = None) -> None:
        """field: the one that was changed, and is marked where that went wrong."""
        try:
            action()
        except Exception as error:
            if field is not None:
                field.layout.border = WRONG
            self._say(str(error) if isinstance(error, KitError) else f"{errors.summary(error)} (an error of kit's own)")


def _texts(config: Config) -> dict[str, str]:
    """What the configuration changes of what its dataset, method, preset and seed give, as texts."""
    values = config.model_dump()
    usual = Config(**{name: values[name] for name in MAIN}).model_dump()
    return {name: str(value) for name, value in values.items() if name in MAIN or value != usual.get(name)}


def _groups() -> dict[str, list[str]]:
    """The fields of the form by the title of their tab; "" for those that are always seen."""
    title = dict.fromkeys(FORM, "") | {name: group for group, names in GROUPS.items() for name in names.split()}
    for kind, parts in PARTS.items():
        for part in parts.values():
            for name in part.options.model_fields if part.options else ():
                title.setdefault(name, LETTERS[kind])
    found = {group: [] for group in ("", *GROUPS)}
    for name in [*FORM, *(name for name in Config.model_fields if name not in (*FORM, "plugin_digest"))]:
        found[title.get(name, "training")].append(name)
    return found


def _field(name: str, text: str) -> widgets.Combobox:
    about, offered = Config.model_fields[name], {"dataset": data.datasets(), "method": methods(), "preset": PRESETS}
    kinds = (about.annotation, *get_args(about.annotation))
    literals = [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    choices = {**offered, **PARTS}.get(name) or literals or ["true", "false"] * (bool in kinds)
    has = [(sign, getattr(part, of)) for part in about.metadata for of, sign in BOUNDS.items() if hasattr(part, of)]
    said = ", ".join([about.description or "", *(f"{sign} {bound:g}" for sign, bound in has)]).strip(", ")
    return widgets.Combobox(description=name, value=text, options=tuple(choices), tooltip=f"{name}: {said}", **LOOK)
