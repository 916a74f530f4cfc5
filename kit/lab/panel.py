"""The panel of `kit.dashboard`: a form, three buttons, a line that says how things stand, and the views."""

from __future__ import annotations

import atexit
import html
import threading
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
from kit.lab import notebook, views
from kit.lab.process import ChildProcess
from kit.run import store
from kit.run.run import Run

MAIN = ("dataset", "method", "preset", "seed")  # what every run is told; the other fields follow from these
FORM = (*MAIN, "epochs", "batch_size", "channels", "cells", "lr", "weight_decay", "augment", "hyper")
OFFERED = {"dataset": data.datasets, "method": methods, "preset": lambda: ("laptop", "server", "paper")}
BREATH = 4.0  # seconds without drawing per second of drawing: the search needs the cores more
LOOK: dict[str, Any] = {"continuous_update": False, "layout": {"width": "auto"}, "style": {"description_width": "95px"}}
CHILDREN: dict[Path, ChildProcess] = {}  # of this kernel, by run directory
LOCK, CLOSING, POLLERS = threading.RLock(), threading.Event(), set[threading.Thread]()


@atexit.register
def _close() -> None:
    """A thread that reads a file while the interpreter goes away would leave the process hanging."""
    CLOSING.set()
    for thread in list(POLLERS):
        thread.join(timeout=10)


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
    """Its type, range and description are the tooltip."""
    field = Config.model_fields[name]
    kind = getattr(field.annotation, "__name__", str(field.annotation))
    limits = [str(limit) for limit in field.metadata if type(limit).__module__.startswith("annotated_types")]
    about = " · ".join([field.description or name.replace("_", " "), kind, *limits])
    options = tuple(OFFERED[name]()) if name in OFFERED else ()
    return widgets.Combobox(value=text, description=name, options=options, tooltip=about, **LOOK)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


class Dashboard(widgets.VBox):
    """What `kit.dashboard` returns in JupyterLab. `start`, `pause`, `resume` and `stop` are the buttons; `run` is the
    run shown; `show()` displays its figures as ordinary outputs, which a saved notebook keeps.

    A thread brings the panel up to date every `every` seconds while anything can change. Whatever it or a button meets
    stands in `message`, since neither has a cell for a traceback.
    """

    def __init__(self, config: Config | None = None, run: Run | None = None, every: float = 1.0):
        self.every, self.run, self.child, self.poller = every, None, None, None
        self.seen, self.drawn, self.took = None, 0.0, 0.0  # what was drawn last, when, and how long that took
        self.paced: tuple[float, int] | None = None  # since when the search runs on, and from which epoch
        if run:
            config = Config(**{**run.config.model_dump(), "out": str(run.path.parent)})
        self.form = Form(config or Config(), lambda: self._guarded(self._attach))
        icons = {"start": "play", "pause": "pause", "stop": "stop"}
        self.buttons = {name: widgets.Button(description=name, icon=icon) for name, icon in icons.items()}
        for button in self.buttons.values():
            button.layout.width = "110px"
            button.on_click(lambda button: self._guarded(getattr(self, button.description)))
        self.bar = widgets.IntProgress(0, 0, 1, layout={"width": "160px"})
        self.line, self.message, self.samples = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.views = {name: go.FigureWidget() for name in views.FIGURES}
        self.samples.layout.width = "380px"
        beside = widgets.HBox([self.views["policy"], self.samples], layout={"align_items": "center"})
        self.shown = widgets.VBox([self.views["curves"], beside, self.views["cells"]])
        row = {"flex_flow": "row wrap", "align_items": "center"}
        actions = widgets.HBox([*self.buttons.values(), self.bar, self.line], layout=row)
        super().__init__([self.form, actions, self.message, self.shown])
        self._guarded(self._attach)

    def __repr__(self) -> str:
        return f"<Dashboard of {self.run.path.name}: {self.run.status}>" if self.run else "<Dashboard without a run>"

    # ---- the buttons -----------------------------------------------------------------------------

    def start(self) -> None:
        """Run the form's configuration beside the kernel, or go on with it; a finished run is only shown."""
        with LOCK:
            self._attach()
            if self.run and self.run.finished:
                self._say("This run finished before. Another seed or value makes another run.", "note")
            elif self.state == "elsewhere":
                raise KitError(f"{self.folder} is in use by another process: wait for it, or stop it first")
            elif self.state == "idle":
                values = self.form.config().model_dump()
                CHILDREN[self.folder] = self.child = ChildProcess(values, self.folder, threads=torch.get_num_threads())
                self.refresh()
                self._follow()

    def pause(self) -> None:
        self._order(ChildProcess.pause, "running")

    def resume(self) -> None:
        self._order(ChildProcess.resume, "paused")

    def stop(self) -> None:
        """End the search once the epoch under way is saved; a second time: at once. `start` goes on from there."""
        self._order(
            ChildProcess.kill if self.state == "stopping" else ChildProcess.stop, "running", "paused", "stopping"
        )

    def show(self) -> None:
        """Display the run's figures as outputs of the current cell."""
        if self.run is None:
            raise KitError("there is no run to show yet: start one")
        views.show(Run.load(self.run.path))

    # ---- up to date ------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """idle, running, paused, stopping, ended (not yet noticed), or elsewhere: in the hands of another process."""
        return self.child.state if self.child else "elsewhere" if store.in_use(self.folder) else "idle"

    def refresh(self) -> None:
        """Bring line, buttons and views up to date; the views only so often that drawing takes a small share."""
        with LOCK:
            state = self.state
            if state == "ended":
                CHILDREN.pop(self.folder, None)
                if cause := self.child.end():
                    self._say(cause)
                elif self.child.stopping:
                    self._say("Stopped; start goes on from the last epoch.", "note")
                self.child, state = None, "idle"
            mark = _mark(self.folder)
            if mark != self.seen and (state == "idle" or time.monotonic() - self.drawn > BREATH * self.took):
                self._draw(mark)
            self._describe(state)

    def _attach(self) -> None:
        """Show the run of the form's configuration, if there is one, and take its search in hand if this kernel runs
        it: its cell was run again.
        """
        with LOCK:
            config = self.form.config()
            self.folder = (Path(config.out).expanduser() / config.name).absolute()
            self.run, self.seen, self.paced, self.child = None, None, None, CHILDREN.get(self.folder)
            self._say("")
            self.refresh()
            if self.run and self.run.status == "failed":
                self._say(figures.standing(self.run))
            self._follow()

    def _draw(self, mark: object) -> None:
        began = time.monotonic()
        self.run = Run.load(self.folder) if (self.folder / "config.json").is_file() else None
        self.shown.layout.display = None if self.run else "none"
        if self.run:
            for name, widget in self.views.items():
                figure = views.drawn(views.FIGURES[name], self.run)
                widget.update({"data": figure.data, "layout": figure.layout}, overwrite=True)
            self.samples.value = views.samples(self.run)
        self.seen, self.drawn, self.took = mark, time.monotonic(), time.monotonic() - began

    def _follow(self) -> None:
        if self.poller is None and self.state != "idle":
            self.poller = threading.Thread(target=self._poll, daemon=True, name="kit-dashboard")
            self.poller.start()

    def _poll(self) -> None:
        POLLERS.add(threading.current_thread())
        while self.poller and not CLOSING.wait(self.every):
            with LOCK:
                moving = self.state != "idle"  # asked before, so that the last news is shown too
                self._guarded(self.refresh)
                self.poller = self.poller if moving else None
        POLLERS.discard(threading.current_thread())

    def _order(self, order: Callable[[ChildProcess], None], *states: str) -> None:
        with LOCK:
            if self.state in states:
                order(self.child)
                self.paced = None
                self.refresh()

    def _describe(self, state: str) -> None:
        run, pause = self.run, self.buttons["pause"]
        pause.description, pause.icon = ("resume", "play") if state == "paused" else ("pause", "pause")
        self.buttons["start"].disabled = state != "idle"
        pause.disabled = state not in ("running", "paused")
        self.buttons["stop"].disabled = state not in ("running", "paused", "stopping")
        for widget in (*self.form.fields.values(), self.form.more):
            widget.disabled = state != "idle"
        words = (
            [state if state != "idle" else run.status if run else "ready"] if run or state == "idle" else ["starting"]
        )
        if run:
            done, planned = int(run.history["epoch"].max()) if len(run.history) else 0, run.config.epochs
            self.bar.max, self.bar.value = planned, done
            words += [f"epoch {done} of {planned}"] + ([self._left(done, planned)] if state == "running" else [])
            words += [f"test accuracy {run.metrics['test_accuracy']:.2%}"] if run.finished else []
        words.append(self.folder.name)
        self.line.value = f"<span class='kit-line'><b>{words[0]}</b> · {html.escape(' · '.join(words[1:]))}</span>"

    def _left(self, done: int, planned: int) -> str:
        self.paced = self.paced or (time.monotonic(), done)
        began, first = self.paced
        if done == first:
            return "time left: not known yet"
        return f"about {(time.monotonic() - began) / (done - first) * (planned - done) / 60:.1f} min left"

    def _say(self, text: str, kind: str = "error") -> None:
        color = "--jp-error-color1, #c62828" if kind == "error" else "--jp-info-color1, #0288d1"
        style = f"border-left: 4px solid var({color}); padding: 2px 8px; line-height: 1.4"
        self.message.value = f"<div class='kit-{kind}' style='{style}'>{html.escape(text)}</div>" if text else ""

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except KitError as error:
            self._say(str(error))
        except Exception as error:
            self._say(f"{type(error).__name__}: {error} (an error of kit's own; the search is not touched)")


def _mark(folder: Path) -> tuple[int, ...]:
    """Differs when the run directory has something new to show."""
    files = (folder / name for name in ("config.json", "history.parquet", "metrics.json", "failure.json"))
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
