"""The panel: a form, five buttons, a line that says how things stand, and the views."""

from __future__ import annotations

import atexit
import html
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from kit import figures
from kit.config import Config
from kit.errors import KitError
from kit.lab.live.board import Board
from kit.lab.live.form import Form
from kit.lab.live.views import views
from kit.lab.live.worker import WORKERS, Worker, folder_of, in_use
from kit.run.run import Run

BREATH = 4.0  # seconds without drawing per second of drawing: the search needs the cores more
ASK = 15.0  # seconds without news after which a run that another process has in hand is looked at again
ALLOWED = {
    "start": ("idle",),
    "open": ("idle",),
    "pause": ("running",),
    "resume": ("paused",),
    "stop": ("running", "paused"),
}
LOOKS = {
    "start": ("play", "success"),
    "pause": ("pause", ""),
    "resume": ("step-forward", ""),
    "stop": ("stop", "danger"),
    "open": ("folder-open", ""),
}
WILL = {
    "finished": "Start shows this finished run",
    "interrupted": "Start goes on with this run",
    "failed": "Start tries this failed run again",
    "running": "Another process works on this run",
}

CLOSING, POLLERS = threading.Event(), set[threading.Thread]()


@atexit.register
def _close() -> None:
    """A thread that reads a file while the interpreter goes away would leave the process hanging (pyarrow waits for its
    pool).
    """
    CLOSING.set()
    for thread in list(POLLERS):
        thread.join(timeout=10)


class Dashboard:
    """What `kit.dashboard` returns in JupyterLab. `start`, `pause`, `resume`, `stop` and `open` are the buttons; `run`
    is the run shown;
    `show()` displays its figures as ordinary outputs, which a saved notebook keeps.

    A thread brings the panel up to date every `every` seconds while anything can change; whatever it or a button meets
    stands in
    `message`, since neither has a cell for a traceback.
    """

    def __init__(self, config: Config | None = None, run: Run | None = None, every: float = 1.0):
        self.every = every
        self.run: Run | None = None
        self.worker: Worker | None = None
        self.lock, self.poller, self.elsewhere = threading.RLock(), None, False
        self.pace, self.done = Pace(), 0
        self.seen, self.drawn, self.took = None, 0.0, 0.0  # what was drawn last, when, and how long that took
        self.form = Form(run.config if run else config or Config(), self._changed)
        self._build()
        self._guarded(lambda: self._begin(run))

    def __repr__(self) -> str:
        return f"<Dashboard of {self.run.path.name}: {self.run.status}>" if self.run else "<Dashboard without a run>"

    def _repr_mimebundle_(self, **wanted: object) -> dict[str, object]:
        return {**self.box._repr_mimebundle_(**wanted), "text/plain": repr(self)}

    # ---- the buttons -----------------------------------------------------------------------------

    def start(self) -> None:
        """Run the form's configuration beside the kernel, or go on with it; a finished run is opened."""
        with self.lock:
            config = self.form.config()
            folder = folder_of(config)
            if (folder / "metrics.json").is_file():
                self.open(folder)
                self._say(
                    f"{folder.name} finished before, so it is shown. Another seed or value makes another run.", "note"
                )
            elif not self._adopt(folder):
                self._take(Worker(config))

    def pause(self) -> None:
        self._tell(Worker.pause)

    def resume(self) -> None:
        self._tell(Worker.resume)

    def stop(self) -> None:
        """End the search; its last completed epoch is kept, and `start` goes on from there."""
        self._tell(Worker.stop)

    def open(self, path: str | Path | None = None) -> None:
        """Show a run, finished or not. Raises KitError when there is none at `path` (None: at the path that is filled
        in).
        """
        with self.lock:
            path = path or self.path.value.strip()
            if not path:
                raise KitError(
                    f"no run to open: choose one, or type a run directory's path (runs are made in {self.form.config().out!r})"
                )
            run = Run.load(path)
            self.form.fill(run.config)
            self.path.value = str(path)
            if self._adopt(run.path):
                return
            self._forget()
            self.run = run
            user = "" if run.finished else in_use(run.path)
            self.elsewhere = bool(user)
            self._say(f"{user}. It is shown as it goes on." if user else figures.standing(run), "note")
            self.refresh(now=True)
            self._follow()

    def show(self) -> None:
        """Display the run's figures as outputs of the current cell, interactive and as pictures."""
        if self.run is None:
            raise KitError("there is no run to show yet: start one, or open one")
        for figure in views(Run.load(self.run.path)).values():
            figures.show(figure)

    # ---- up to date ------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """idle, running, paused, stopping; ended between the end of the process and the panel's notice of it."""
        return self.worker.state if self.worker else "idle"

    def refresh(self, now: bool = False) -> None:
        """Bring line, buttons and views up to date; the views only so often that drawing stays a fraction of the time
        (now: at once).
        """
        with self.lock:
            if self.state == "ended":
                self._ended()
                now = True
            if self.worker and self.run is None and (self.worker.folder / "config.json").is_file():
                self.run = Run.load(self.worker.folder)
            mark = _mark(self.run)
            if self.run and mark != self.seen and (now or time.monotonic() - self.drawn > BREATH * self.took):
                self._draw(mark)
            self._describe()

    def _draw(self, mark: object) -> None:
        began = time.monotonic()
        self.run = Run.load(self.run.path)  # a run reads its history once
        self.board.show(views(self.run, compact=True))
        epochs = self.run.history["epoch"]
        self.done = int(epochs.max()) if len(epochs) else 0
        self.pace.at(self.done, self.state == "running")
        self.seen, self.drawn = mark, time.monotonic()
        self.took = self.drawn - began

    def _follow(self) -> None:
        if self.poller is None and self._moving():
            self.poller = threading.Thread(target=self._poll, daemon=True, name="kit-dashboard")
            self.poller.start()

    def _poll(self) -> None:
        POLLERS.add(threading.current_thread())
        moving = True
        while moving and not CLOSING.wait(self.every):
            moving = self._moving()  # asked before, so that the last news is shown too
            self._guarded(self.refresh)
        POLLERS.discard(threading.current_thread())

    def _moving(self) -> bool:
        """Whether anything can change without a button."""
        with self.lock:
            if self.worker and self.worker.owner is not self:
                self.worker = None
                self._say("This search is in the hands of a panel that was made later.", "note")
                self._describe()
            if self.elsewhere and time.monotonic() - self.drawn > ASK:
                self.elsewhere, self.drawn = bool(in_use(self.run.path)), time.monotonic()
            moving = self.worker is not None or (self.elsewhere and not self.run.finished)
            if not moving:
                self.poller = None
            return moving

    # ---- the process -----------------------------------------------------------------------------

    def _begin(self, run: Run | None) -> None:
        folder = run.path if run else folder_of(self.form.config())
        if run or (folder / "config.json").is_file():
            self.open(folder)
        self._list_runs()
        self._describe()

    def _adopt(self, folder: Path) -> bool:
        """Take over a search that this kernel runs already: its cell was run again, or its panel, which lets go, stands
        elsewhere.
        """
        worker = WORKERS.get(folder.resolve())
        if worker is None or worker.state == "ended":
            return False
        if worker is not self.worker:
            self._take(worker)
        return True

    def _take(self, worker: Worker) -> None:
        self._say("")
        self._forget()
        self.worker, worker.owner = worker, self
        self.refresh(now=True)
        self._follow()

    def _forget(self) -> None:
        self.board.clear()
        self.run, self.seen, self.done, self.pace, self.elsewhere = None, None, 0, Pace(), False

    def _tell(self, order: Callable[[Worker], None]) -> None:
        if worker := self.worker:
            order(worker)  # at once: not after a drawing that has the lock
            with self.lock:
                self.pace.last = None
                self.refresh()

    def _ended(self) -> None:
        worker, self.worker = self.worker, None
        if cause := worker.cause():
            self._say(cause)
        elif worker.deadline:
            self._say("Stopped; the last completed epoch is kept. Start goes on from there.", "note")
        worker.close()
        self._list_runs()

    # ---- widgets ---------------------------------------------------------------------------------

    def _build(self) -> None:
        self.board = Board()
        self.buttons = {
            name: widgets.Button(description=name, icon=icon, button_style=style, layout=widgets.Layout(width="100px"))
            for name, (icon, style) in LOOKS.items()
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._guarded(getattr(self, name)))
        self.path = widgets.Combobox(
            description="open a run",
            placeholder="path of a run directory",
            style={"description_width": "initial"},
            layout=widgets.Layout(flex="1 1 260px", width="auto", margin="2px 2px 2px 24px"),
        )
        self.bar = widgets.IntProgress(0, 0, 1, layout=widgets.Layout(width="206px"))
        self.line, self.message = widgets.HTML(), widgets.HTML()
        row = widgets.Layout(flex_flow="row wrap", width="100%", align_items="center")
        actions = [
            *(self.buttons[name] for name in ("start", "pause", "resume", "stop")),
            self.path,
            self.buttons["open"],
        ]
        self.box = widgets.VBox(
            [
                self.form.main,
                widgets.HBox(actions, layout=row),
                widgets.HBox([self.bar, self.line], layout=row),
                self.message,
                self.form.rest,
                self.board,
            ]
        )

    def _changed(self) -> None:
        """After a change in the form: whether it is a configuration, and what start would do with it."""
        with self.lock:
            try:
                folder = folder_of(self.form.config())
            except KitError as error:
                self._say(str(error))
                return
            known = (folder / "config.json").is_file()
            self._say(f"{WILL[Run.load(folder).status]}: {folder.name}" if known else "", "note")
            self._list_runs()

    def _list_runs(self) -> None:
        try:
            out = Path(self.form.config().out).expanduser()
        except KitError:
            return
        found = sorted(out.glob("*/config.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        self.path.options = tuple(str(path.parent) for path in found)

    def _describe(self) -> None:
        state, run = self.state, self.run
        for name, button in self.buttons.items():
            button.disabled = state not in ALLOWED[name]
        self.form.enable(state == "idle")
        planned = int(getattr(run.config, "epochs", 0) or 1) if run else 1
        self.bar.max, self.bar.value = planned, min(self.done, planned)
        self.bar.bar_style = "success" if run and run.finished else "warning" if state == "paused" else "info"
        standing = (
            run.status if run and state == "idle" else "ready" if state == "idle" else state if run else "starting"
        )
        words = [f"<b>{standing}</b>", *map(html.escape, self._numbers(state, planned))]
        self.line.value = f"<span class='kit-line' style='color: var(--jp-ui-font-color1)'>{' · '.join(words)}</span>"

    def _numbers(self, state: str, planned: int) -> list[str]:
        if self.run is None:
            return [self.worker.folder.name] if self.worker else []
        words = [f"epoch {self.done} of {planned}"]
        if self.run.finished:
            words.append(f"test accuracy {self.run.metrics.get('test_accuracy', float('nan')):.2%}")
        elif stage := _stage(self.run):
            words.append(f"{stage} stage")
        if state in ("running", "paused"):
            words.append(self.pace.left(planned - self.done))
        return [*words, self.run.path.name]

    def _say(self, text: str, kind: str = "error") -> None:
        color = "--jp-error-color1, #c62828" if kind == "error" else "--jp-info-color1, #0288d1"
        style = (
            f"border-left: 4px solid var({color}); padding: 2px 8px; color: var(--jp-ui-font-color1); line-height: 1.4"
        )
        self.message.value = (
            f"<div class='kit-{kind}' role='status' style='{style}'>{html.escape(text)}</div>" if text else ""
        )

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except KitError as error:
            self._say(str(error))
        except Exception as error:
            self._say(f"{type(error).__name__}: {error} (an error of kit's own; the search beside it is not touched)")


class Pace:
    """Time left, from the epochs seen while the search ran; what a pause interrupts does not count."""

    def __init__(self) -> None:
        self.seconds, self.epochs = 0.0, 0
        self.last: tuple[float, int] | None = None

    def at(self, epoch: int, running: bool) -> None:
        now = time.monotonic()
        if running and self.last is not None and epoch > self.last[1]:
            self.seconds, self.epochs = self.seconds + now - self.last[0], self.epochs + epoch - self.last[1]
        self.last = (now, epoch) if running else None

    def left(self, epochs: int) -> str:
        if not self.epochs:
            return "time left: not known yet"
        seconds = epochs * self.seconds / self.epochs
        unit, size = next(
            (u, s) for u, s, top in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, float("inf"))) if seconds < top
        )
        return f"about {seconds / size:.0f} {unit} left"


def _mark(run: Run | None) -> tuple[object, ...]:
    """Differs when the run directory has something new to show."""
    if run is None:
        return ()
    files = (run.path / name for name in ("history.parquet", "checkpoints", "metrics.json", "failure.json"))
    return (run.path, *(file.stat().st_mtime_ns if file.exists() else 0 for file in files))


def _stage(run: Run) -> str:
    rows = run.history[run.history["name"] == "stage"]
    stages = run.config.stages
    return stages[int(rows["value"].iloc[-1])].name if len(rows) else ""
