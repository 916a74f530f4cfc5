"""Progress: a bar for people, plain lines for logs. None of it ends a run: whoever reads may have gone away."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

SHOWN = {"loss": ".3f", "train_accuracy": ".3f", "val_accuracy": ".3f", "eta/lr": ".2g", "eta/weight_decay": ".1e"}


class Silent:
    """What `kit.search` calls while it runs: `within` about once a second between epochs, with the epochs so far, a
    fraction, and a text that says how fast it goes and how long it will; `epoch` after each epoch with its numbers,
    `close` also after an error. This one says nothing; a subclass says what it likes, and may end the search by
    raising."""

    def start(self, name: str, epochs: int, done: int) -> None: ...
    def within(self, done: float, text: str) -> None: ...
    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None: ...
    def close(self) -> None: ...


def interactive() -> bool:
    """A terminal, or a notebook that a person opened (papermill and nbval start kernels without this variable)."""
    with contextlib.suppress(Exception):  # the stream may be None, closed, or an object of somebody's own
        return "JPY_SESSION_NAME" in os.environ or bool(sys.stderr.isatty())
    return False


def say(text: str, stream: Any = None) -> None:
    """Print lines to standard output, or to `stream`. Never raises, whatever the stream is or has become."""
    stream = stream or sys.stdout
    with contextlib.suppress(Exception):
        try:
            print(_spelled(text, stream), file=stream, flush=True)
        except BrokenPipeError:  # what is still in its buffer would raise again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _spelled(text: str, stream: Any) -> str:  # in the letters that the stream has
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Lines(Silent):
    """At most one line per `every` seconds, and always the first and the last."""

    def __init__(self, every: float = 10.0):
        self.every, self.last = every, 0.0

    def start(self, name: str, epochs: int, done: int) -> None:
        self.name, self.epochs = name, epochs
        say(f"{name}: {f'goes on after epoch {done}' if done else 'starts'}, {epochs} epochs")

    def within(self, done: float, text: str) -> None:
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            say(f"{self.name}: {text}")

    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None:
        if done == self.epochs or time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            say(f"{self.name}: epoch {done}/{self.epochs} {stage} {_text(numbers)}")


class Bar(Silent):
    def start(self, name: str, epochs: int, done: int) -> None:
        from tqdm.auto import tqdm

        with contextlib.suppress(Exception):
            self.bar = tqdm(total=epochs, initial=done, desc=_spelled(name, sys.stderr), unit="epoch")

    def within(self, done: float, text: str) -> None:
        with contextlib.suppress(Exception):
            self.bar.n = round(done, 1)
            self.bar.set_postfix_str(text)

    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None:
        with contextlib.suppress(Exception):
            self.bar.set_postfix_str(f"{stage} {_text(numbers)}", refresh=False)
            self.bar.update(done - self.bar.n)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.bar.close()


def _text(numbers: dict[str, float]) -> str:
    return " ".join(f"{name.split('/')[-1]} {numbers[name]:{form}}" for name, form in SHOWN.items() if name in numbers)


class Stopped(KeyboardInterrupt):
    """An interruption that is told in one line."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [str(self)]


@contextlib.contextmanager
def interruptible(message: Callable[[], str]) -> Iterator[None]:
    """Turn an interruption into `Stopped` with a message, which notebooks and scripts show without a traceback."""
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt:
        hook = sys.excepthook
        sys.excepthook = lambda kind, e, trace: say(f"{e}", sys.stderr) if kind is Stopped else hook(kind, e, trace)
        raise Stopped(message()) from None
